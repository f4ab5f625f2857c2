"""What becomes of a run on Ray whose storage on s3:// is slow, busy, refuses connections, or refuses the credentials.

The storage is moto's server on the loopback (``faulty_s3``); the run has two workers on an embedded cluster, a
checkpoint every 20 steps, and trains for some 30 s without a fault. Each fault happens to a run of its own. A row shows
how long training stood still, and what is missing in the run's folder at the end: a record of every step and rank, the
report, the last checkpoint. Where the credentials expire, the run ends with an error and is resumed.

Run: python benchmarks/s3_runs.py [--only NAME]
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from time import monotonic, sleep
from typing import Self

import yaml
from faulty_s3 import FaultyS3
from table import table

from scaler.metrics.events import Checkpointed, CheckpointFailed, Event, of_type
from scaler.metrics.reader import read_events, read_records
from scaler.runs import RunFolder

HERE = Path(__file__).resolve().parent
STEPS, WORKERS, BATCH, CHECKPOINT_STEPS = 240, 2, 4, 20
AT_STEP = 60  # of the faults that begin in mid-run
PATIENCE_S = 300.0
AWAY_S = 20.0


class S3Run:
    """A run of ``scaler submit`` in its own process.

    Args:
        server: the storage.
        folder: gets the job, and notes of the steps' times; empty.
        steps: of the training.
        bucket: of the storage.
    """

    def __init__(self, server: FaultyS3, folder: Path, *, steps: int = STEPS, bucket: str = "runs") -> None:
        self.notes, self._log, self._steps = folder / "notes", folder / "output.log", steps
        self.notes.mkdir()
        self.folder_uri = f"s3://{bucket}/team/run"
        self._environment = {
            **os.environ,
            **server.environment,
            "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
        }
        self._environment.pop("RAY_ADDRESS", None)
        values = {
            "name": "s3",
            "recipe": "tiny:build",
            "recipe_args": {"notes": str(self.notes), "samples": WORKERS * BATCH * steps},
            "reference": {"global_batch_size": WORKERS * BATCH, "lr": 0.01, "optimizer": {"name": "sgd"}},
            "scale": {"num_workers": WORKERS, "per_worker_batch_size": BATCH},
            "schedule": {"name": "constant"},
            "train": {"steps": steps},
            "resources": {"cpus_per_worker": 0.5, "gpus_per_worker": 0},
            "checkpoint": {"every": {"steps": CHECKPOINT_STEPS}},
            "storage": f"s3://{bucket}/team",
        }
        (folder / "job.yaml").write_text(yaml.safe_dump(values))
        self.began = monotonic()
        self.start("submit", str(folder / "job.yaml"), "--run-id", "run", "--quiet")

    def start(self, *command: str) -> None:
        """Start a command of scaler for the run."""
        scaler = Path(sys.executable).with_name("scaler")
        with self._log.open("a") as log:
            self.process = subprocess.Popen([scaler, *command], stdout=log, stderr=log, env=self._environment)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(60)

    @property
    def output(self) -> str:
        """What the commands have printed."""
        return self._log.read_text()

    def step_times(self) -> list[list[float]]:
        """Return the times at which each worker began its steps."""
        return [[float(line) for line in note.read_text().split("\n")[:-1]] for note in self.notes.iterdir()]

    def wait_for_step(self, number: int) -> None:
        """Wait until a worker has begun so many steps."""
        while max(map(len, self.step_times()), default=0) < number:
            assert self.process.poll() is None, self.output
            assert monotonic() - self.began < PATIENCE_S, self.output
            sleep(0.1)

    def longest_pause_s(self) -> float:
        """Return the longest time from one step to the next, without the time between two attempts."""
        return max(
            (after - before for times in self.step_times() for before, after in pairwise(times)),
            default=float("nan"),
        )

    def missing(self) -> list[str]:
        """Return what is not in the folder of a run that was trained to its end."""
        folder = RunFolder(self.folder_uri)
        rows = [(row["rank"], row["step"]) for row in read_records(folder).select(["rank", "step"]).to_pylist()]
        wanted = {(rank, step) for rank in range(WORKERS) for step in range(self._steps)}
        report = folder.read_json("report.json")
        newest = max((event.samples_seen for event in of_type(read_events(folder), Checkpointed)), default=0)
        return [
            *([f"{len(wanted - set(rows))} records"] if wanted - set(rows) else []),
            *(["the state succeeded"] if report["state"] != "succeeded" else []),
            *(["all steps in the report"] if report["totals"]["steps"] != self._steps else []),
            *(["the last checkpoint"] if newest != self._steps * WORKERS * BATCH else []),
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=list(FAULTS), help="one fault")
    only = parser.parse_args().only
    server = FaultyS3()
    server.start()
    os.environ.update(server.environment)
    rows = []
    for name in [name for name in FAULTS if only in (None, name)]:
        server.make_bucket("runs")
        with tempfile.TemporaryDirectory(prefix="s3-runs-") as folder:
            rows.append({"fault": name, **FAULTS[name](server, Path(folder))})
        server.delay_s, server.busy_pct, server.expired = 0.0, 0, False
        print(rows[-1], file=sys.stderr)
    print(table(rows))
    server.stop()
    sys.exit(0 if all(row["missing"] == "-" for row in rows) else 1)


def no_fault(server: FaultyS3, folder: Path) -> dict[str, str]:
    with S3Run(server, folder) as run:
        return ended(run, server)


def slow(server: FaultyS3, folder: Path) -> dict[str, str]:
    server.delay_s = 0.3
    with S3Run(server, folder) as run:
        return ended(run, server)


def busy(server: FaultyS3, folder: Path) -> dict[str, str]:
    server.busy_pct = 30
    with S3Run(server, folder) as run:
        return ended(run, server)


def away(server: FaultyS3, folder: Path) -> dict[str, str]:
    with S3Run(server, folder) as run:
        run.wait_for_step(AT_STEP)
        server.stop()
        sleep(AWAY_S)
        server.start()
        return ended(run, server)


def expired(server: FaultyS3, folder: Path) -> dict[str, str]:
    with S3Run(server, folder) as run:
        run.wait_for_step(AT_STEP)
        server.expired = True
        began = monotonic()
        code = run.process.wait(PATIENCE_S)
        text = f"exit {code} {monotonic() - began:.0f} s later"
        assert code == 5, run.output
        assert "its credentials are missing or not accepted (" in run.output, run.output
        server.expired = False
        run.start("resume", run.folder_uri, "--quiet")
        return ended(run, server, before=f"{text}; resumed: ")


def no_bucket(server: FaultyS3, folder: Path) -> dict[str, str]:
    with S3Run(server, folder, bucket="typo") as run:
        code = run.process.wait(PATIENCE_S)
        assert "there is no such bucket.\n  Make the bucket, or correct its name.\n" in run.output, run.output
        assert code == 5, run.output
        assert not list(run.notes.iterdir()), "training began"
        return row(run, server, f"exit {code} before training", events=[], missing=[])


def ended(run: S3Run, server: FaultyS3, *, before: str = "") -> dict[str, str]:
    """Wait for the end of a run; return its row."""
    code = run.process.wait(PATIENCE_S)
    assert code == 0, run.output
    server.delay_s, server.busy_pct = 0.0, 0
    events = read_events(RunFolder(run.folder_uri))
    return row(run, server, f"{before}exit {code}", events=events, missing=run.missing())


def row(
    run: S3Run, server: FaultyS3, outcome: str, *, events: Sequence[Event], missing: Sequence[str]
) -> dict[str, str]:
    return {
        "outcome": outcome,
        "took": f"{monotonic() - run.began:.0f} s",
        "longest pause between two steps": f"{run.longest_pause_s():.1f} s",
        "requests": str(len(server.requests)),
        "of them refused": str(server.refused),
        "checkpoints": str(len(of_type(events, Checkpointed))),
        "checkpoints that failed": str(len(of_type(events, CheckpointFailed))),
        "missing": ", ".join(missing) or "-",
    }


FAULTS: Mapping[str, Callable[[FaultyS3, Path], dict[str, str]]] = {
    "none": no_fault,
    "0.3 s a request": slow,
    "30 % answered with 503": busy,
    f"refused for {AWAY_S:.0f} s": away,
    "credentials expire": expired,
    "no such bucket": no_bucket,
}


if __name__ == "__main__":
    main()
