"""Many workers on one machine: how long they take to start, and whether stop, resume and report work with them.

For each number of workers, a job with a tiny model is submitted on an embedded cluster, with the CPUs of the machine
shared by the workers. After a few steps it gets Ctrl-C, and is then resumed to its end. Times are seconds since the
command was started. CPU seconds and memory are of the processes that trained; the memory is the proportional set size
(PSS: memory that processes share is divided among them) after a few steps.

With ``--commands``, ``scaler status``, ``logs`` and ``stop`` are timed while the workers train; the stop ends the run.

Run: python benchmarks/many_workers.py [--workers 8 16 32 64] [--scaler /path/to/scaler] [--only-submit | --commands]
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, median
from time import sleep, time
from typing import Any

import yaml
from processes import ProcessWatch
from table import table

HERE = Path(__file__).resolve().parent
STEPS, STOP_AFTER = 60, 10  # steps of a run; Ctrl-C comes when a worker has begun this many
LONG_STEPS = 6000  # of a run that is followed by commands
COMMANDS = (("status", 5), ("logs", 5), ("stop", 1))  # and how often each is run
MOST_S = 540.0  # a command that takes longer is stopped
MOST_PROCESSES = 40  # in the list of --processes
NAN = float("nan")


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One command; times in seconds since it was started, nan for what did not happen."""

    exit_code: int
    workers_s: float  # all workers have joined the group
    first_step_s: float  # the first worker begins its second optimizer step
    exit_s: float
    attempts: int
    starts: int  # worker processes that Ray started
    worker_cpu_s: float  # mean of the processes that trained
    other_cpu_s: float  # sum of all other processes
    worker_mib: float  # mean of the processes that trained
    load: float  # of the machine before the command, over the last minute


@dataclass(frozen=True, kw_only=True)
class CommandTime:
    """One command that follows or stops a run; times in seconds."""

    name: str
    wall_s: float
    cpu_s: float
    load: float  # of the machine, over the last minute


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[8, 16, 32, 64], help="default: 8 16 32 64")
    parser.add_argument("--scaler", default=str(Path(sys.executable).with_name("scaler")), help="the command to run")
    parser.add_argument("--only-submit", action="store_true", help="without the resume")
    parser.add_argument("--commands", action="store_true", help="time status, logs and stop; without Ctrl-C and resume")
    parser.add_argument("--processes", action="store_true", help="also list the processes with the most CPU seconds")
    arguments = parser.parse_args()
    rows, command_rows, faults = [], [], 0
    for workers in arguments.workers:
        with tempfile.TemporaryDirectory(prefix="many-") as name:
            folder = Path(name)
            job = write_job(folder, workers, steps=LONG_STEPS if arguments.commands else STEPS)
            times: list[CommandTime] = []
            during = partial(follow, arguments.scaler, folder, times) if arguments.commands else send_ctrl_c
            submitted, watch = measure([arguments.scaler, "submit", str(job)], folder, workers, during=during)
            rows.append(row(workers, "submit, then it is stopped", submitted))
            command_rows += rows_of_commands(workers, times)
            wrong = faults_of(folder, "stopped", submitted, workers)
            if arguments.processes:
                print(table(heaviest(watch)), file=sys.stderr)
            if not (arguments.only_submit or arguments.commands):
                resumed, _ = measure([arguments.scaler, "resume", str(newest_run(folder))], folder, workers)
                rows.append(row(workers, "resume", resumed))
                wrong += faults_of(folder, "succeeded", resumed, workers)
        print(f"{workers} workers: {'; '.join(wrong) or 'stop, resume and report are right'}", file=sys.stderr)
        faults += len(wrong)
        print(table(rows), flush=True)
        if command_rows:
            print(f"\n{table(command_rows)}", flush=True)
    sys.exit(1 if faults else 0)


def write_job(folder: Path, workers: int, *, steps: int) -> Path:
    """Write a job with a tiny model, whose workers share the CPUs of this machine."""
    (folder / "notes").mkdir()
    share = int(100 * len(os.sched_getaffinity(0)) / workers) / 100
    values = {
        "name": "many",
        "recipe": "tiny:build",
        "recipe_args": {"notes": str(folder / "notes"), "samples": 4 * workers * STEPS},
        "reference": {"global_batch_size": 64, "lr": 0.01, "optimizer": {"name": "sgd", "momentum": 0.9}},
        "scale": {"num_workers": workers, "per_worker_batch_size": 4, "rule": "linear"},
        "schedule": {"name": "cosine"},
        "train": {"steps": steps, "eval_every": {"steps": steps // 2}},
        "resources": {"cpus_per_worker": share, "gpus_per_worker": 0},
        "storage": str(folder / "runs"),
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(values))
    return folder / "job.yaml"


def send_ctrl_c(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)


def follow(scaler: str, folder: Path, times: list[CommandTime], process: subprocess.Popen[bytes]) -> None:
    """Run the commands that follow the newest run, and stop it; add their times to ``times``."""
    for name, repeats in COMMANDS:
        for _ in range(repeats):
            before = os.times()
            # A session of its own, as another terminal has: kernels share the CPU among sessions.
            done = subprocess.run(
                [scaler, name, str(newest_run(folder))],
                capture_output=True,
                text=True,
                check=False,
                start_new_session=True,
            )
            after = os.times()
            if done.returncode or process.poll() is not None:
                raise SystemExit(f"scaler {name} ended with {done.returncode}:\n{done.stderr}")
            cpu_s = sum(after[2:4]) - sum(before[2:4])
            times.append(CommandTime(name=name, wall_s=after[4] - before[4], cpu_s=cpu_s, load=os.getloadavg()[0]))


def measure(
    command: list[str],
    folder: Path,
    workers: int,
    *,
    during: Callable[[subprocess.Popen[bytes]], None] = lambda process: None,
) -> tuple[Measurement, ProcessWatch]:
    """Run a command to its end; call ``during`` with its process after ``STOP_AFTER`` steps."""
    before = set(pids_that_trained(folder))
    load = os.getloadavg()[0]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}
    environment.pop("RAY_ADDRESS", None)
    began, mib = time(), NAN
    with (folder / "output.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder)
        with ProcessWatch(process.pid) as watch:
            while process.poll() is None:
                sleep(0.2)
                times = step_times(folder, before)
                if mib != mib and times and max(map(len, times)) >= STOP_AFTER:
                    mib = mean(pss_mib(pid) for pid in pids_that_trained(folder) if pid not in before)
                    during(process)
                if time() - began > MOST_S:
                    process.send_signal(signal.SIGINT)
                    process.wait(60)
    ended = time()
    if process.returncode:
        print((folder / "output.log").read_text()[-3000:], file=sys.stderr)
    run = newest_run(folder)
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    joined = sorted(event["time"] for event in events if event["kind"] == "worker_started" and event["time"] > began)
    times = step_times(folder, before)
    pids = [pid for pid in pids_that_trained(folder) if pid not in before]
    own = [watch.seen[pid].cpu_s for pid in pids if pid in watch.seen]
    found = Measurement(
        exit_code=process.returncode,
        workers_s=joined[workers - 1] - began if len(joined) >= workers else NAN,
        first_step_s=min((each[1] for each in times if len(each) > 1), default=NAN) - began,
        exit_s=ended - began,
        attempts=sum(event["kind"] == "attempt_started" and event["time"] > began for event in events),
        starts=sum(bool(re.search(r"_worker\.py|^ray::", seen.name)) for seen in watch.seen.values()),
        worker_cpu_s=mean(own) if own else NAN,
        other_cpu_s=sum(seen.cpu_s for seen in watch.seen.values()) - sum(own),
        worker_mib=mib,
        load=load,
    )
    return found, watch


def newest_run(folder: Path) -> Path:
    return max((folder / "runs").iterdir())


def pids_that_trained(folder: Path) -> list[int]:
    return [int(note.name) for note in (folder / "notes").iterdir()]


def step_times(folder: Path, before: set[int]) -> list[list[float]]:
    """Return the times that each process noted, but for the processes in ``before``."""
    notes = [note for note in (folder / "notes").iterdir() if int(note.name) not in before]
    return [[float(line) for line in note.read_text().split("\n")[:-1]] for note in notes]


def pss_mib(pid: int) -> float:
    """Return a process's share of the memory, in MiB."""
    found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert found, "smaps_rollup has a line Pss"
    return int(found[1]) / 1024


def faults_of(folder: Path, expected: str, measured: Measurement, workers: int) -> list[str]:
    """Return what is wrong with the run after a command."""
    run = newest_run(folder)
    state = json.loads((run / "status.json").read_text())["state"]
    report: dict[str, Any] = json.loads((run / "report.json").read_text()) if (run / "report.json").exists() else {}
    reported = len(report.get("workers", ()))
    return [
        *([f"the run is {state}, not {expected}"] if state != expected else []),
        *(["there is no checkpoint"] if not any(run.glob("checkpoints/*.json")) else []),
        *([f"the report has {reported} workers"] if reported != workers else []),
        *([f"{measured.attempts} attempts"] if measured.attempts != 1 else []),
        *([f"exit code {measured.exit_code}"] if measured.exit_code not in (0, 130) else []),
    ]


def row(workers: int, what: str, found: Measurement) -> dict[str, str]:
    return {
        "workers": str(workers),
        "command": what,
        "all workers there s": f"{found.workers_s:.1f}",
        "first step s": f"{found.first_step_s:.1f}",
        "exit s": f"{found.exit_s:.1f}",
        "process starts": str(found.starts),
        "CPU s a worker": f"{found.worker_cpu_s:.2f}",
        "CPU s of the rest": f"{found.other_cpu_s:.1f}",
        "PSS MiB a worker": f"{found.worker_mib:.0f}",
        "load before": f"{found.load:.1f}",
    }


def rows_of_commands(workers: int, times: Sequence[CommandTime]) -> list[dict[str, str]]:
    """Return a row for each command: the median of its times, and the longest."""
    rows = []
    for name in dict.fromkeys(each.name for each in times):
        own = [each for each in times if each.name == name]
        rows.append(
            {
                "workers": str(workers),
                "command": name,
                "times": str(len(own)),
                "wall s": f"{median(each.wall_s for each in own):.2f}",
                "longest s": f"{max(each.wall_s for each in own):.2f}",
                "CPU s": f"{median(each.cpu_s for each in own):.2f}",
                "load": f"{max(each.load for each in own):.0f}",
            }
        )
    return rows


def heaviest(watch: ProcessWatch) -> list[dict[str, str]]:
    most = sorted(watch.seen.values(), key=lambda seen: -seen.cpu_s)[:MOST_PROCESSES]
    return [
        {"process": each.name, "CPU s": f"{each.cpu_s:.2f}", "time s": f"{each.seen_at - each.started_at:.1f}"}
        for each in most
    ]


if __name__ == "__main__":
    main()
