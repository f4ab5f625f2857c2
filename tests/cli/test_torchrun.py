"""``torchrun -m scaler submit``: the processes of torchrun are the workers, without Ray."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep

import pytest

import scaler
from scaler.cluster import run_driver
from scaler.errors import TrainingError

RECIPE = """
import os, signal, time, torch, scaler
from torch.utils.data import TensorDataset

def build(fail_at=None, kill_at=None, sleep_s=0.0):
    x = torch.linspace(0, 1, 96).unsqueeze(1)
    calls = 0
    def loss(model, batch):
        nonlocal calls
        calls += 1
        time.sleep(sleep_s)
        if calls == kill_at and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        if calls == fail_at and os.environ["RANK"] == "1":
            raise ValueError("the image is broken")
        return torch.nn.functional.mse_loss(model(batch[0]), batch[1])
    data = TensorDataset(x, 2 * x)
    return scaler.Recipe(model=torch.nn.Linear(1, 1), train_data=data, eval_data=data, loss=loss)
"""
JOB = """
name: torchrun
recipe: recipe:build
reference: {global_batch_size: 4, lr: 0.05, optimizer: {name: sgd, momentum: 0.9}}
scale: {per_worker_batch_size: 4}
schedule: {name: cosine, warmup: {epochs: 1}}
train: {epochs: 2, num_samples: 96, check_data: false}
"""
TIMEOUT_S = 300  # of a command that hangs


def command(folder: Path, *options: str) -> list[str]:
    (folder / "recipe.py").write_text(RECIPE)
    (folder / "job.yaml").write_text(JOB)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m"]
    return [*torchrun, "scaler", "submit", "job.yaml", "--quiet", *options]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def test_the_processes_of_torchrun_are_the_workers_of_one_run(tmp_path: Path) -> None:
    done = subprocess.run(
        command(tmp_path),
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("succeeded") == 1, "one process shows the report"
    report = scaler.read_run("last", storage=tmp_path / "runs").report
    assert (report.state, len(report.workers), report.totals.samples_seen) == ("succeeded", 2, 192)
    assert report.lr_audit.as_planned
    resumed = scaler.resume(
        "last", storage=tmp_path / "runs", address="none", workers=1, overrides=["train.epochs=3"]
    ).report
    assert [(row.start_samples, row.end_samples, row.world_size) for row in resumed.attempts] == [
        (0, 192, 2),
        (192, 288, 1),
    ]


def test_the_error_of_another_rank_is_the_run_s(tmp_path: Path) -> None:
    failing = command(tmp_path, "--set", "recipe_args.fail_at=12")
    done = subprocess.run(
        failing, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode != 0
    assert "ValueError: the image is broken" in done.stderr
    report = scaler.read_run("last", storage=tmp_path / "runs").report
    assert report.state == "failed"
    assert "rank 1 failed: ValueError: the image is broken" in str(report.failure)


def test_a_signal_that_comes_while_a_failure_is_handled_does_not_hide_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchrun sends SIGTERM to rank 0 when another rank has failed."""

    def fail(*args: object, **options: object) -> bool:
        try:
            raise TrainingError("rank 1 failed: ValueError: the image is broken", "Its traceback is in the log.")
        finally:
            raise KeyboardInterrupt

    monkeypatch.setattr(run_driver, "_run_in_process", fail)
    (tmp_path / "recipe.py").write_text(RECIPE)
    (tmp_path / "job.yaml").write_text(JOB)
    with pytest.raises(KeyboardInterrupt):
        scaler.submit(tmp_path / "job.yaml", workers=1, address="none", storage=tmp_path / "runs")
    report = scaler.read_run("last", storage=tmp_path / "runs").report
    assert report.state == "failed"
    assert "rank 1 failed: ValueError: the image is broken" in str(report.failure)


def test_a_process_that_is_killed_is_named_in_the_report(tmp_path: Path) -> None:
    killed = command(tmp_path, "--set", "recipe_args.kill_at=12")
    done = subprocess.run(
        killed, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode != 0
    report = scaler.read_run("last", storage=tmp_path / "runs").report
    assert (report.state, report.failure) == ("failed", "rank 1 is gone, and has sent no error.")


def test_ctrl_c_saves_and_stops_all_processes(tmp_path: Path) -> None:
    started = subprocess.Popen(
        command(tmp_path, "--set", "recipe_args.sleep_s=0.02", "--set", "train.epochs=1000"),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = monotonic() + TIMEOUT_S
    while not list(tmp_path.glob("runs/*/metrics/*.parquet")) and monotonic() < until:
        sleep(0.1)
    started.send_signal(signal.SIGINT)
    _, text = started.communicate(timeout=TIMEOUT_S)
    report = scaler.read_run("last", storage=tmp_path / "runs").report
    assert report.state == "stopped", text
    assert report.totals.samples_seen > 0
    newest = max((tmp_path / "runs").glob("*/checkpoints/*.json"))
    assert int(newest.stem) == report.totals.samples_seen, "nothing that was trained is lost"
