"""``scaler submit`` as a user runs it: in its own process, with its own embedded Ray."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from real_verdicts import codes

ROOT = Path(__file__).parent.parent.parent
TROUBLED = Path(__file__).parent / "troubled/job.yaml"
SCALER = str(Path(sys.executable).parent / "scaler")


def marked(mark: str) -> dict[str, str]:
    """An environment that every process below inherits, so that they can be found among the processes of others."""
    return {**os.environ, "SCALER_TEST_MARK": mark}


def left_behind(mark: str, *, within_s: float = 60) -> list[str]:
    """Return every process that has the mark; Ray's agents end a moment after their raylet."""
    until = time.monotonic() + within_s
    while (found := carrying(mark)) and time.monotonic() < until:
        time.sleep(0.2)
    return found


def carrying(mark: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"SCALER_TEST_MARK={mark}".encode() in (path / "environ").read_bytes().split(b"\0"):
                found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found


def start(storage: Path, *options: str) -> subprocess.Popen[str]:
    """Start ``scaler submit`` of a job with a trouble, in its own process group, as a terminal does."""
    return subprocess.Popen(
        [SCALER, "submit", str(TROUBLED), *options, "--set", f"storage={storage}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=marked(storage.name),
        start_new_session=True,
    )


def wait_for(process: subprocess.Popen[str], is_it: Callable[[str], bool]) -> None:
    """Read the progress of a process line by line until one line is the awaited one."""
    assert process.stderr is not None
    while not is_it(process.stderr.readline()):
        assert process.poll() is None


def press_ctrl_c(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Interrupt every process of the group, as a terminal does; returns the rest of stdout and stderr."""
    os.killpg(process.pid, signal.SIGINT)
    return process.communicate(timeout=180)


def test_submit_runs_the_digits_on_two_workers_and_leaves_nothing_behind(tmp_path: Path) -> None:
    mark = tmp_path.name
    done = subprocess.run(
        [SCALER, "submit", "jobs/digits/job.yaml", "--set", f"storage={tmp_path}"],
        cwd=ROOT,
        env=marked(mark),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.iterdir()
    report = json.loads((folder / "report.json").read_text())
    assert done.stdout.startswith(f"{folder.name}  succeeded\n")
    assert report["state"] == "succeeded"
    assert [worker["steps"] for worker in report["workers"]] == [90, 90]
    assert report["lr_audit"] == {"checked_steps": 90, "max_abs_error": 0.0, "as_planned": True}
    assert report["final"]["eval"]["accuracy"] > 0.94
    # Nothing of Ray's: the plan, the run, its progress, the report's place.
    lines = done.stderr.splitlines()
    assert lines[0] == "Plan of digits"
    assert f"Run {folder.name}: starting an embedded Ray" in lines
    assert lines[-1] == f"Report: {folder}/report.html"
    assert [line for line in lines if "ray" in line.lower()] == [f"Run {folder.name}: starting an embedded Ray"]
    token = [
        line for path in folder.rglob("*") if path.is_file() for line in [path.read_bytes()] if b"RAY_AUTH" in line
    ]
    assert not token
    assert left_behind(mark) == []


def test_ctrl_c_stops_the_run_and_reports_the_steps_so_far(tmp_path: Path) -> None:
    process = start(tmp_path, "--set", "recipe_args.trouble=slow", "--set", "train.epochs=50")
    wait_for(process, lambda line: "%" in line)
    out, err = press_ctrl_c(process)
    assert process.returncode == 130
    assert err.endswith("Interrupted.\n")
    (folder,) = tmp_path.iterdir()
    report = json.loads((folder / "report.json").read_text())
    assert out.startswith(f"{folder.name}  stopped\n")
    assert report["state"] == "stopped"
    assert report["attempts"][-1]["ended_by"] == "stopped"
    assert 0 < report["totals"]["samples_seen"] < 50_000
    assert codes(report) == ["not_finished"]
    assert left_behind(tmp_path.name) == []


def test_ctrl_c_while_ray_starts_stops_at_once(tmp_path: Path) -> None:
    process = start(tmp_path)
    wait_for(process, lambda line: line.startswith("Run "))
    time.sleep(3)
    out, err = press_ctrl_c(process)
    assert (process.returncode, err.splitlines()[-1]) == (130, "Interrupted.")
    assert "  stopped\n" in out
    assert left_behind(tmp_path.name) == []
