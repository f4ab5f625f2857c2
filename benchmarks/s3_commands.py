"""How long scaler status, logs and stop take on s3://, by the time that the storage takes for a request.

The storage is moto's server on the loopback, which holds each answer back (``faulty_s3``). It has some runs; the newest
has 64 workers and a log of each. Each command is a process of its own; its times are
from its start to its end, with Python's imports. The requests are those of one command.

Run: python benchmarks/s3_commands.py [--delays 0 0.05 0.15 0.3] [--repeats 3]
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import monotonic, time

from faulty_s3 import FaultyS3
from table import table

from scaler.cluster.progress import MOST_WORKERS, Progress, WorkerProgress
from scaler.cluster.progress_file import progress_dict
from scaler.metrics.events import WorkerEnded, to_dict
from scaler.metrics.files import EVENTS
from scaler.runs import RunFolder, RunState
from scaler.runs.control import STOP, clear_stop
from scaler.runs.lease import FILE
from scaler.runs.logs import log_name
from scaler.runs.processes import this_process

WORKERS, RUNS, LOG_LINES = 64, 20, 200
STORAGE = "s3://runs/team"
NEWEST = f"digits-20260101-1200{RUNS - 1:02d}-aaaa"
GOAL_S, GOAL_DELAY_S = 3.0, 0.15
COMMANDS = (
    ["status", f"{STORAGE}/{NEWEST}"],
    ["status", "last", "--storage", STORAGE],
    ["logs", f"{STORAGE}/{NEWEST}", "--rank", "0"],
    ["logs", f"{STORAGE}/{NEWEST}"],
    ["logs", f"{STORAGE}/{NEWEST}", "--driver"],
    ["stop", f"{STORAGE}/{NEWEST}"],
    ["stop", "last", "--storage", STORAGE],
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--delays", type=float, nargs="+", default=[0.0, 0.05, 0.15, 0.3], help="seconds a request")
    parser.add_argument("--repeats", type=int, default=3, help="of each command; the median counts")
    arguments = parser.parse_args()
    server = FaultyS3()
    server.start()
    os.environ.update(server.environment)
    server.make_bucket("runs")
    folder = write_runs()
    rows, is_met = [], True
    for command in COMMANDS:
        row = {"command": f"scaler {' '.join(command)}".replace(STORAGE, "URI").replace(f"URI/{NEWEST}", "RUN")}
        for delay_s in arguments.delays:
            server.delay_s = delay_s
            before = len(server.requests)
            found = [seconds(command) for _ in range(arguments.repeats)]
            row["requests"] = f"{(len(server.requests) - before) / arguments.repeats:g}"
            row[f"at {1000 * delay_s:g} ms"] = f"{median(found):.2f} s"
            is_met = is_met and (delay_s > GOAL_DELAY_S or median(found) <= GOAL_S)
            server.delay_s = 0.0
            if command[0] == "stop":
                assert folder.exists(STOP), "the request to stop is there"
                clear_stop(folder)
        rows.append(row)
        print(row, file=sys.stderr)
    print(table(rows))
    server.stop()
    sys.exit(0 if is_met else 1)


def write_runs() -> RunFolder:
    """Write some runs to the storage; return the newest one, which a process of another machine runs."""
    for number in range(RUNS):
        folder = RunFolder(f"{STORAGE}/digits-20260101-1200{number:02d}-aaaa")
        folder.set_state(RunState.SUCCEEDED, started_at=float(number))
    folder.set_state(RunState.RUNNING)
    folder.write_json(FILE, {**this_process(), "token": "x", "place": folder.place, "beat": time()})
    workers = [
        WorkerProgress(
            rank=rank,
            samples_per_s=10.0,
            loss=0.5,
            step_time_s=0.1,
            data_wait_s=0.01,
            compute_s=0.05,
            sync_wait_s=0.04,
            peak_memory_gib=0.4,
        )
        for rank in range(MOST_WORKERS)
    ]
    progress = Progress(attempt=0, world_size=WORKERS, samples_seen=1000, progress=1000.0, workers=workers)
    folder.write_json("progress.json", progress_dict(progress, total_samples=10000.0))
    ended = [
        WorkerEnded(time=time(), attempt=0, rank=rank, evaluation_s=0.0, checkpoint_s=0.0) for rank in range(WORKERS)
    ]
    folder.append_json(EVENTS, map(to_dict, ended))
    for rank in range(WORKERS):
        folder.write(log_name(rank), "".join(f"rank {rank} prints line {line}\n" for line in range(LOG_LINES)))
    return folder


def seconds(command: Sequence[str]) -> float:
    """Return the seconds that a command of scaler takes."""
    began = monotonic()
    scaler = Path(sys.executable).with_name("scaler")
    done = subprocess.run([scaler, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"scaler {' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return monotonic() - began


if __name__ == "__main__":
    main()
