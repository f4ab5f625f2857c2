"""Scripts with a loop of their own, as people start them: how they end is in their run."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import scaler
from scaler.errors import JobFileError, RunError
from scaler.runs import RunFolder, RunState

SCRIPT = Path(__file__).parents[2] / "jobs/own_loop/train.py"
OWN_MESH = Path(__file__).parents[2] / "jobs/own_mesh"
TIMEOUT_S = 300  # of a script that hangs
LOOP = """
import sys, time, torch, scaler
from scaler.job import parse_job

job = {"name": "own", "reference": {"global_batch_size": 8, "lr": 0.1, "optimizer": {"name": "sgd"}},
       "scale": {"per_worker_batch_size": 8}, "train": {"epochs": 1000}}
run = scaler.start(parse_job(job, source="job"), num_samples=8, storage=sys.argv[1])
model = torch.nn.Linear(1, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
run.prepare(model, optimizer)
for number in range(10**6):
    run.count(8)
    model(torch.ones(8, 1)).mean().backward()
    optimizer.step()
    print(number, flush=True)
    if sys.argv[2] == "fail" and number == 3:
        raise ValueError("the data are wrong")
    time.sleep(0.01)
"""


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def test_torchrun_ends_with_a_report_of_all_processes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(SCRIPT)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    report = scaler.read_run("last", storage=tmp_path / "runs").report
    assert (report.state, len(report.workers), report.totals.samples_seen) == ("succeeded", 2, 15 * 1438)
    assert report.lr_audit.as_planned
    assert report.final.eval["accuracy"] > 0.85
    assert report.final.train["accuracy"] > 0.93
    assert "in 2 processes" in done.stderr


def test_a_plan_of_a_mesh_needs_the_size_of_the_training_set() -> None:
    with pytest.raises(JobFileError, match=r"train.num_samples is not given, and no mesh can be made"):
        scaler.plan_job(OWN_MESH, overrides=["train.num_samples=null"])


def run_of(tmp_path: Path) -> RunFolder:
    (folder,) = (path for path in tmp_path.glob("runs/own-*") if path.is_dir())
    return RunFolder(str(folder))


def test_an_exception_is_in_the_report(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LOOP, str(tmp_path / "runs"), "fail"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 1
    assert "ValueError: the data are wrong" in done.stderr
    run = run_of(tmp_path)
    assert run.state() is RunState.FAILED
    assert run.read_json("status.json")["failure"] == "ValueError: the data are wrong"
    assert scaler.read_run(run.uri).report.totals.samples_seen == 32  # the fourth step was taken


def test_sigterm_stops_the_run(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LOOP, str(tmp_path / "runs"), "wait"]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == 5:
                process.send_signal(signal.SIGTERM)
                break
        process.stdout.read()
    assert process.returncode == 128 + signal.SIGTERM
    assert run_of(tmp_path).state() is RunState.STOPPED


def test_a_range_test_and_a_probe_need_a_recipe(tmp_path: Path) -> None:
    options: dict[str, Any] = {"workers": 1, "address": "none"}
    with pytest.raises(JobFileError, match=r"train:main calls scaler.start: it has a loop of its own"):
        scaler.find_lr(SCRIPT.parent, storage=tmp_path, **options)
    short = ["train.epochs=3"]
    with pytest.raises(RunError, match="was trained in a loop of one's own"):
        scaler.probe(SCRIPT.parent, storage=tmp_path, overrides=short, **options)
