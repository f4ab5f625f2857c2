"""What a report costs: records by the million, written by the real writer, read and rendered in a process of its own.

    python benchmarks/report_scale.py [--part 0.1]

Goals: 1,000 workers x 10,000 steps in at most 20 s and 1 GiB, with a cost that is linear in the records; and a page of
at most 6 MB, also of 64 workers x 20,000 steps. The records are written to a folder that is removed afterwards; ten
million of them take some 0.5 GB there, and some minutes to write.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
from stopwatch import peak_memory_mib
from table import table

REPOSITORY = Path(__file__).parents[1]
SHAPES = ((1000, 1000), (1000, 3333), (1000, 10_000), (64, 20_000))  # workers, steps
SAMPLES = 8  # of a worker and step
STEPS_A_FLUSH = 20  # ten steps a second, and a flush every two
RESTART_AT = 0.6  # of the training; the steps since RESUME_FROM were done again
RESUME_FROM = 0.55


def write(folder: Path, workers: int, steps: int) -> None:
    """Write a run to which a restart happened."""
    from scaler.job import dump_job, load_job
    from scaler.metrics.writer import MetricsWriter
    from scaler.plan import make_plan
    from scaler.runs import RunFolder

    batch = workers * SAMPLES
    job = load_job(
        REPOSITORY / "jobs" / "digits" / "job.yaml",
        overrides=(
            f"scale.num_workers={workers}",
            f"scale.per_worker_batch_size={SAMPLES}",
            f"train.num_samples={batch * steps}",
            "train.epochs=1",
            "schedule.warmup={fraction: 0.05}",
        ),
    )
    plan = make_plan(job)
    run = RunFolder(str(folder))
    run.write("job.yaml", dump_job(job))
    run.write_json("plan.json", plan.to_dict())
    ended = steps * 0.1 + 20.0
    run.write_json("status.json", {"schema_version": 1, "state": "succeeded", "started_at": 0.0, "ended_at": ended})
    writer = MetricsWriter(run)
    lives = [(0, 0, int(steps * RESTART_AT)), (1, int(steps * RESUME_FROM), steps)]
    for attempt, first, last in lives:
        common = {"attempt": attempt, "time": 5.0 + 0.1 * first + attempt * 5.0}
        start = {"start_samples": first * batch, "world_size": workers, "global_batch_size": batch}
        start |= {"peak_lr": plan.peak_lr, "per_worker_batch_size": SAMPLES, "ramp": None}
        for rank in range(workers):
            told = {"rank": rank, "node": f"node-{rank // 8}", "pid": rank}
            writer.add_event({"kind": "worker_started", **common, **told})
        writer.add_event({"kind": "attempt_started", "samples_seen": first * batch, **common, **start})
        for step in range(first, last):
            lr = plan.lr_at(step * batch)
            writer.add(list(_records(attempt, step, workers, lr)))
            if step % STEPS_A_FLUSH == STEPS_A_FLUSH - 1:
                writer.flush()
        if attempt == 0:
            gone = {"kind": "group_ended", "attempt": 0, "time": 5.0 + 0.1 * last, "cause": "lost", "ranks": [1]}
            writer.add_event({**gone, "message": "its process was killed, or crashed"})
    writer.close()


def _records(attempt: int, step: int, workers: int, lr: float) -> Iterator[object]:
    """One step of all workers, with numbers that differ as they do."""
    from scaler.metrics.record import Record

    random = np.random.default_rng((attempt, step))
    loss = (2.0 / (1.0 + step / 1000) + 0.2 * random.standard_normal(workers)).tolist()
    compute_s = (0.06 + 0.004 * random.random(workers)).tolist()
    data_s = (0.01 * random.random(workers)).tolist()
    seen = step * workers * SAMPLES
    for rank in range(workers):
        busy_s = compute_s[rank] + data_s[rank]
        yield Record(
            attempt=attempt,
            rank=rank,
            step=step,
            samples_seen=seen,
            progress=float(seen),
            lr=lr,
            lr_planned=lr,
            samples=SAMPLES,
            loss=loss[rank],
            step_time_s=0.1,
            data_wait_s=data_s[rank],
            compute_s=compute_s[rank],
            sync_wait_s=0.09 - busy_s,
            grad_norm=1.0 + loss[0] / 10,
            peak_memory_gib=2.0,
            grad_signal=1.0 if step % 20 == 0 else None,
            grad_variance=4000.0 if step % 20 == 0 else None,
            noise_scale=4000.0 if step % 20 == 0 else None,
            evaluation_s=0.5 if step and step % 500 == 0 else 0.0,
            checkpoint_s=0.0,
            cpu_s=busy_s,
            gpu_pct=None,
            steps=1,
        )


def measure(folder: Path) -> dict[str, float]:
    """Read the run, report on it, and render it three ways."""
    began = perf_counter()
    from rich.console import Console

    from scaler.report.run.html import render_html
    from scaler.report.run.markdown import render_markdown
    from scaler.report.run.read import read_report
    from scaler.report.run.text import report_text
    from scaler.runs import RunFolder

    report = read_report(RunFolder(str(folder)))
    read_s = perf_counter() - began
    page = render_html(report)
    render_markdown(report)
    with Console(width=80) as console, console.capture():
        console.print(report_text(report))
    return {
        "read_s": read_s,
        "all_s": perf_counter() - began,
        "cpu_s": process_time(),
        "memory_gib": peak_memory_mib() / 2**10,
        "page_mb": len(page.encode()) / 1e6,
    }


def row(workers: int, steps: int, folder: Path) -> dict[str, str]:
    """Measure one run; each process is new, so that its memory is its own, and its CPU time from its first import."""
    again = round(steps * RESTART_AT) - round(steps * RESUME_FROM)
    records = workers * (steps + again)
    began = perf_counter()
    subprocess.run([sys.executable, __file__, "--write", folder, str(workers), str(steps)], check=True)
    write_s = perf_counter() - began
    told = subprocess.run([sys.executable, __file__, "--measure", folder], check=True, capture_output=True, text=True)
    found = json.loads(told.stdout)
    size_mb = sum(file.stat().st_size for file in (folder / "metrics").iterdir()) / 1e6
    return {
        "workers": f"{workers:,}",
        "steps": f"{steps:,}",
        "records": f"{records:,}",
        "files": f"{size_mb:.0f} MB",
        "written": f"{write_s:.0f} s",
        "read, summarized": f"{found['read_s']:.1f} s",
        "and rendered": f"{found['all_s']:.1f} s",
        "CPU, with imports": f"{found['cpu_s']:.1f} s",
        "peak memory": f"{found['memory_gib']:.2f} GiB",
        "page": f"{found['page_mb']:.2f} MB",
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--part", type=float, default=1.0, help="of the steps, for a quick look")
    parser.add_argument("--write", nargs=3, metavar=("FOLDER", "WORKERS", "STEPS"), help=argparse.SUPPRESS)
    parser.add_argument("--measure", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        write(Path(options.write[0]), int(options.write[1]), int(options.write[2]))
    elif options.measure:
        print(json.dumps(measure(options.measure)))
    else:
        rows = []
        for workers, steps in SHAPES:
            with tempfile.TemporaryDirectory() as folder:
                rows.append(row(workers, max(1, int(steps * options.part)), Path(folder)))
            print(rows[-1], file=sys.stderr)
        print(table(rows))


if __name__ == "__main__":
    main()
