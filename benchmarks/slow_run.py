"""A run on a ``MachineCluster`` with slow steps until ``speed_up``, and what its folder shows meanwhile."""

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from machine_cluster import MachineCluster, wait_until

from scaler.metrics.events import AttemptStarted, of_type
from scaler.metrics.reader import read_events
from scaler.runs import RunFolder
from scaler.training.checkpoints.files import complete_checkpoints

TROUBLED = Path(__file__).resolve().parents[1] / "tests/cluster/troubled"
PATIENCE_S = 240.0  # on a busy machine; an idle one needs a tenth


class SlowRun:
    """A run of 1000 samples an epoch in steps of 5 a worker, with a checkpoint every 100 samples.

    Args:
        cluster: gets the run in its shared folder.
        run_id: of the run.
        changes: of the job, as in ``--set``.
        epochs: of training.
    """

    def __init__(self, cluster: MachineCluster, run_id: str, *changes: str, epochs: int = 10) -> None:
        self._run_id = run_id
        self._marker = cluster.shared / f"{run_id}-fast"
        self.storage = str(cluster.shared / "runs")
        self.folder = RunFolder(f"{self.storage}/{run_id}")
        slow = ["recipe_args.sleep_s=0.1", f"recipe_args.sleep_until={self._marker}", "checkpoint.every={samples: 100}"]
        self._changes = [*slow, f"train.epochs={epochs}", f"storage={self.storage}", *changes]

    def command(self, address: str, *options: str, job: Path = TROUBLED) -> list[str]:
        """Return the command that starts or resumes the run."""
        sets = [part for change in self._changes for part in ("--set", change)]
        return ["scaler", "submit", str(job), "--address", address, "--run-id", self._run_id, *options, *sets]

    def speed_up(self) -> None:
        """Let the steps take no longer than they need."""
        self._marker.touch()

    def starts(self) -> Sequence[AttemptStarted]:
        """Return the attempts so far."""
        return of_type(read_events(self.folder), AttemptStarted) if self.folder.exists("events.jsonl") else []

    def wait_for_checkpoint(self, *, sizes: Sequence[int] | None = None) -> None:
        """Wait for a new checkpoint, after the attempts had these numbers of workers."""
        if sizes is not None:
            self._wait(lambda: [start.world_size for start in self.starts()] == list(sizes), f"attempts of {sizes}")
        before = complete_checkpoints(self.folder)[-1:]
        self._wait(lambda: complete_checkpoints(self.folder)[-1:] != before, "a checkpoint")

    def wait_for_attempt(self, number: int) -> float:
        """Wait for the first step of the ``number``-th attempt; return its time, in epoch seconds."""
        self._wait(lambda: len(self.starts()) > number, f"attempt {number}")
        return self.starts()[number].time

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        wait_until(condition, within_s=PATIENCE_S, what=f"{what} of {self._run_id}")


def start(cluster: MachineCluster, name: str, command: Sequence[str]) -> "subprocess.Popen[str]":
    """Start a command on a machine, with its output in a file of the shared folder."""
    number = len(list(cluster.shared.glob("*.log")))
    with (cluster.shared / f"{number}.log").open("w") as log:
        return cluster.start(name, command, stdout=log, stderr=subprocess.STDOUT)
