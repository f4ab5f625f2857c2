"""Runs of the noted digits whose workers are killed at random moments, and their results."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise, zip_longest
from pathlib import Path
from time import sleep, time
from typing import Any

import yaml
from noted_digits import DIGITS, read_notes

HERE = Path(__file__).resolve().parent
NUM_SAMPLES = 1437
LOOK_S = 0.02


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A worker that was killed."""

    at: float  # epoch seconds
    attempt: int
    rank: int
    seconds_to_next_step: float | None = None  # None: no step followed before the next fault


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One run, undisturbed or disturbed."""

    folder: Path
    exit_code: int
    faults: tuple[Fault, ...]
    report: Mapping[str, Any]

    @property
    def weights(self) -> bytes:
        """The final weights, as bytes."""
        from scaler.runs import RunFolder
        from scaler.training.checkpoints.files import complete_checkpoints
        from scaler.training.checkpoints.state import load_checkpoint

        folder = RunFolder(str(self.folder))
        model = load_checkpoint(folder, complete_checkpoints(folder)[-1])["model"]
        return b"".join(tensor.numpy().tobytes() for _, tensor in sorted(model.items()))


def write_job(folder: Path, *, epochs: int, overrides: Mapping[str, Any]) -> Path:
    """Write the digits job over the noted recipe: small steps, many of them, a checkpoint every 100."""
    values = yaml.safe_load((DIGITS / "job.yaml").read_text())
    (folder / "notes").mkdir(parents=True, exist_ok=True)
    values |= {
        "recipe": "noted_digits:build",
        "recipe_args": {"notes": str(folder / "notes")},
        "scale": {"num_workers": 2, "per_worker_batch_size": 16, "rule": "linear"},
        "checkpoint": {"every": {"samples": 3200}, "keep": 2},
        "failures": {"max_restarts": 20},
        "storage": str(folder / "runs"),
    }
    values["train"] |= {"epochs": epochs, "eval_every": {"epochs": 5}}
    for key, value in overrides.items():
        section, _, name = key.partition(".")
        values[section] = {**values[section], name: value}
    (folder / "job.yaml").write_text(yaml.safe_dump(values))
    return folder / "job.yaml"


def run(job: Path, *, faults: int = 0, rng: random.Random | None = None, horizon_s: float = 4.0) -> Outcome:
    """Submit a job, and kill a random worker ``faults`` times, each at a random moment of a new attempt.

    Args:
        job: from ``write_job``.
        faults: number of kills.
        rng: chooses the moments and the workers.
        horizon_s: the latest moment, after the workers of an attempt have started.
    """
    folder = job.parent
    command = [str(Path(sys.executable).with_name("scaler")), "submit", str(job), "--quiet"]
    environment = environment_of_workers()
    with (folder / "output.log").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        killed: list[Fault] = []
        if faults:
            assert rng is not None
            killer = threading.Thread(target=_kill, args=(process, folder, faults, rng, horizon_s, killed))
            killer.start()
        exit_code = process.wait()
        if faults:
            killer.join()
    (run_folder,) = (folder / "runs").iterdir()
    report = json.loads((run_folder / "report.json").read_text())
    starts = sorted(notes[0][0] for notes in read_notes(folder / "notes").values())
    return Outcome(
        folder=run_folder,
        exit_code=exit_code,
        faults=tuple(
            _with_next_step(fault, starts, next_at=later.at if later is not None else None)
            for fault, later in zip_longest(killed, killed[1:])
        ),
        report=report,
    )


def environment_of_workers() -> dict[str, str]:
    """Return an environment in which workers find the noted recipe, and no other Ray cluster."""
    kept = ("RAY_worker_niceness",)  # of the tests
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_") or name in kept}
    return {**plain, "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}


def _kill(
    process: subprocess.Popen[bytes],
    folder: Path,
    faults: int,
    rng: random.Random,
    horizon_s: float,
    killed: list[Fault],
) -> None:
    """Wait for an attempt, then for a random moment; kill one of its workers, and wait for the next attempt."""
    attempt = 0
    while len(killed) < faults and process.poll() is None:
        pids = workers_of(folder, attempt)
        if len(pids) < 2:
            sleep(LOOK_S)
            continue
        sleep(rng.uniform(0.0, horizon_s))
        rank = rng.choice(sorted(pids))
        with suppress(ProcessLookupError):  # the run had ended
            os.kill(pids[rank], signal.SIGKILL)
            killed.append(Fault(at=time(), attempt=attempt, rank=rank))
        attempt += 1


def workers_of(folder: Path, attempt: int) -> dict[int, int]:
    """Return the known pids of an attempt's workers, by rank."""
    found = {}
    for path in folder.glob("runs/*/events.jsonl"):
        for line in path.read_text().splitlines():
            event = json.loads(line)
            if event["kind"] == "worker_started" and event["attempt"] == attempt:
                found[event["rank"]] = event["pid"]
    return found


def _with_next_step(fault: Fault, starts: Sequence[float], *, next_at: float | None) -> Fault:
    """Return a fault with the seconds to the first batch of a worker of the next attempt, if there is one."""
    later = [start for start in starts if fault.at < start < (next_at or float("inf"))]
    return replace(fault, seconds_to_next_step=later[0] - fault.at if later else None)


def samples_lost_and_repeated(outcome: Outcome) -> tuple[int, int]:
    """Return how many samples the final weights lack, and how many they have twice, over all epochs.

    Counted from the batches that workers asked for, not from scaler's counts: of each attempt, the steps that are in
    the weights according to the report.
    """
    notes = read_notes(outcome.folder.parents[1] / "notes")
    rows = outcome.report["attempts"]
    ends = {row["attempt"]: row["end_samples"] for row in rows}
    counts: Counter[tuple[int, int]] = Counter()
    for row in rows:
        steps = steps_of(outcome.folder, row["attempt"])
        kept = [seen for seen in steps if seen < ends[row["attempt"]]]
        for pid in workers_of(outcome.folder.parents[1], row["attempt"]).values():
            asked = notes.get(pid, [])[: len(kept)]
            for seen, (_, indices) in zip(kept, asked, strict=True):
                counts.update((seen // NUM_SAMPLES, index) for index in indices)
    total = outcome.report["totals"]["samples_seen"]
    epochs, rest = divmod(total, NUM_SAMPLES)
    expected = epochs * NUM_SAMPLES + rest
    return expected - len(counts), sum(count - 1 for count in counts.values())


def steps_of(run_folder: Path, attempt: int) -> list[int]:
    """Return where each recorded step of an attempt began, in samples."""
    import pyarrow.parquet as pq

    table = pq.read_table(run_folder / "metrics", columns=["attempt", "samples_seen"]).to_pylist()
    return sorted({row["samples_seen"] for row in table if row["attempt"] == attempt})


def is_whole(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether each attempt started where the weights of the one before ended."""
    return all(before["end_samples"] == after["start_samples"] for before, after in pairwise(rows))
