"""``scaler resume`` on Ray, as a user runs it: after a driver was killed, and with another number of workers."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import torch
from test_submit import SCALER, carrying, left_behind, marked, start, wait_for

from scaler.metrics.reader import read_records
from scaler.runs import RunFolder, list_runs
from scaler.training.checkpoints.files import complete_checkpoints
from scaler.training.checkpoints.state import load_checkpoint

SLOW = ("--set", "recipe_args.trouble=slow", "--set", "train.epochs=5")
# Workers outlive a killed driver by some seconds, and train on: until it is resumed, the run must not come to its end.
LONG = ("--set", "recipe_args.sleep_s=0.05")


def resume(storage: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCALER, "resume", "last", "--storage", str(storage), *options],
        env=marked(storage.name),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def weights(folder: RunFolder) -> dict[str, Any]:
    values: dict[str, Any] = load_checkpoint(folder, complete_checkpoints(folder)[-1])["model"]
    return values


def steps(folder: RunFolder) -> list[tuple[int, int, float, int]]:
    """Return start, learning rate and samples of every step that is in the weights, for each rank."""
    records = [record for record in read_records(folder).to_pylist() if not record["lost"]]
    return sorted((record["samples_seen"], record["rank"], record["lr"], record["samples"]) for record in records)


def at_work(mark: str, *, within_s: float = 60) -> list[str]:
    """Return the processes of a cluster whose driver was killed, without Ray's agents, which end a minute later."""
    until = time.monotonic() + within_s
    while (found := [name for name in carrying(mark) if "Agent" not in name]) and time.monotonic() < until:
        time.sleep(0.2)
    return found


def test_a_run_whose_driver_was_killed_ends_like_an_undisturbed_run(tmp_path: Path, calm: RunFolder) -> None:
    storage = tmp_path / f"{tmp_path.name}-killed"
    process = start(storage, *LONG, "--set", f"recipe_args.sleep_until={tmp_path}/resumed")
    while not ((runs := list_runs(str(storage))) and len(complete_checkpoints(runs[0])) == 2):  # as many as are kept
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    (folder,) = runs
    assert at_work(storage.name) == []
    assert folder.state().value == "running"
    assert 0 < complete_checkpoints(folder)[-1] < 3000

    (tmp_path / "resumed").touch()
    done = resume(storage)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{folder.run_id}  succeeded\n")
    reached = json.loads(folder.read("report.json"))["attempts"][1]["start_samples"]
    assert f"\nRun {folder.run_id}: resuming at {reached:,} of 3,000 samples\n" in done.stderr
    assert at_work(storage.name) == []

    ours, theirs = weights(folder), weights(calm)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert steps(folder) == steps(calm)
    report = json.loads(folder.read("report.json"))
    assert [row["ended_by"] for row in report["attempts"]] == ["killed", "finished"]
    assert report["lr_audit"]["as_planned"]
    assert report["totals"]["samples_seen"] == 3000


def test_a_run_that_sigterm_stopped_resumes_with_another_number_of_workers(tmp_path: Path) -> None:
    process = start(tmp_path, *SLOW)
    wait_for(process, lambda line: "%" in line)
    os.kill(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=180)
    (folder,) = list_runs(str(tmp_path))
    assert (process.returncode, err.splitlines()[-1]) == (130, "Interrupted.")
    assert f"\nContinue with: scaler resume {folder.uri}\n" in err
    assert out.startswith(f"{folder.run_id}  stopped\n")
    assert left_behind(tmp_path.name) == []
    reached = complete_checkpoints(folder)[-1]
    assert json.loads(folder.read("report.json"))["totals"]["samples_seen"] == reached  # nothing is done again

    done = resume(tmp_path, "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(
        f"Changes of {folder.run_id}\n  scale.num_workers: 2 -> 1\n"
        "  so the global batch: 10 -> 5\n  so the peak learning rate: 0.01 -> 0.005\n\nPlan of troubled\n"
    )
    assert f"\nRun {folder.run_id}: resuming at {reached:,} of 5,000 samples\n" in done.stderr
    assert left_behind(tmp_path.name) == []
    report = json.loads(folder.read("report.json"))
    rows = [(row["world_size"], row["global_batch_size"], row["peak_lr"]) for row in report["attempts"]]
    assert rows == [(2, 10, 0.01), (1, 5, 0.005)]
    assert report["lr_audit"] == {
        "checked_steps": reached // 10 + (5000 - reached) // 5,
        "max_abs_error": 0.0,
        "as_planned": True,
    }
    assert [row["ended_by"] for row in report["attempts"]] == ["stopped", "finished"]
    assert sum(samples for _, _, _, samples in steps(folder)) == 5000
    assert list(folder.job_names()) == [0, 1]
