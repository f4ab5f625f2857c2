"""A run's curves in Weights & Biases; in offline mode they are in ``wandb/`` in the run's folder, for ``wandb sync``.

The x axis of all curves is ``samples_seen``. The server cannot delete points: work that is done again, after a crash,
has two points, with different ``attempt``.
"""

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import wandb

from scaler.job.tracking import Wandb
from scaler.masking import mask_values
from scaler.metrics.curves import Point
from scaler.runs import RunFolder, RunState

FOLDER = "wandb"
HEADER_BYTES = 7  # length of a file without data
STILL_S, WHOLE_S = 0.5, 5.0


class WandbSink:
    """Writes to one W&B run with the run's id, which a resumed run continues.

    Args:
        job: the job's section ``tracking.wandb``.
        folder: the run's folder, with its plan. If it is not on this machine, the offline files are copied at the end.

    Raises:
        RuntimeError: online mode without an API key.
    """

    def __init__(self, job: Wandb, folder: RunFolder) -> None:
        if job.mode == "online" and not os.environ.get("WANDB_API_KEY"):
            raise RuntimeError("WANDB_API_KEY is not set")  # wandb would ask for it at the terminal
        self._folder = folder
        self._place = folder.local_path or Path(tempfile.mkdtemp(prefix="scaler-"))
        settings = wandb.Settings(
            mode=job.mode,
            silent=True,
            console="off",
            disable_git=True,
            save_code=False,
            x_disable_stats=True,
            x_disable_meta=True,
        )
        self._run = wandb.init(
            project=job.project,
            id=folder.run_id,
            name=folder.run_id,
            dir=str(self._place),
            config=_config(folder),
            resume="allow",
            reinit="create_new",
            settings=settings,
        )
        self._run.define_metric("*", step_metric="samples_seen")

    def write(self, points: Sequence[Point]) -> None:
        """Log points."""
        for point in points:
            if point.values:
                self._run.log({"samples_seen": point.samples_seen, "attempt": point.attempt, **point.values})

    def close(self, state: RunState | None) -> None:
        """Finish the W&B run, with exit code 0 only for a run that succeeded."""
        self._run.finish(exit_code=0 if state is RunState.SUCCEEDED else 1)
        if self._folder.local_path is None:
            for path in self._place.glob(f"{FOLDER}/*run-*/*.wandb"):
                if path.parent.is_symlink():  # latest-run
                    continue
                _wait_whole(path)
                self._folder.write(f"{FOLDER}/{path.parent.name}/{path.name}", path.read_bytes())
            shutil.rmtree(self._place)


def _wait_whole(path: Path) -> None:
    """Wait until a file has not grown for ``STILL_S``: wandb's process still writes after ``finish`` returned."""
    size, still_since, until = -1, monotonic(), monotonic() + WHOLE_S
    while monotonic() < until and (size <= HEADER_BYTES or monotonic() - still_since < STILL_S):
        if path.stat().st_size != size:
            size, still_since = path.stat().st_size, monotonic()
        sleep(0.05)


def _config(folder: RunFolder) -> dict[str, Any]:
    """Return the plan, without its curve and without secrets."""
    return mask_values({key: value for key, value in folder.read_json("plan.json").items() if key != "lr_curve"})
