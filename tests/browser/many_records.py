"""A run of very many records, made as arrays: no loop over records could make them in a test's time."""

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
from made_events import make_event
from synthetic import Tables

from scaler.job import Job
from scaler.metrics.files import SCHEMA
from scaler.plan import Plan, make_plan
from scaler.report.run.model import Report
from scaler.report.run.summary import summarize

SAMPLES = 8  # of a worker and step
STEP_S = 0.1
STEPS_A_TABLE = 2_000


def report_of_many(digits: Callable[..., Job], *, workers: int, steps: int) -> Report:
    """Return the report of a run whose every worker recorded every step, all of them numbers of its own."""
    job = digits(
        f"scale.num_workers={workers}",
        f"scale.per_worker_batch_size={SAMPLES}",
        f"train.num_samples={workers * SAMPLES * steps}",
        "train.epochs=1",
        "schedule.warmup={fraction: 0.05}",
    )
    plan = make_plan(job)
    start = make_event(
        "attempt_started",
        time=5.0,
        world_size=workers,
        global_batch_size=workers * SAMPLES,
        per_worker_batch_size=SAMPLES,
        peak_lr=plan.peak_lr,
    )
    started = [
        make_event("worker_started", time=5.0, rank=rank, node=f"node-{rank // 8}", pid=rank, world_size=workers)
        for rank in range(workers)
    ]
    evaluated = [
        make_event(
            "evaluated",
            time=5.0 + at * STEP_S,
            samples_seen=at * workers * SAMPLES,
            values={"accuracy": at / steps, "loss": 2.0 / (1 + at / 1000)},
        )
        for at in range(steps // 20, steps + 1, steps // 20)
    ]
    return summarize(
        job=job,
        plan=plan,
        status={
            "run_id": "digits-20260101-120000-7f3a",
            "state": "succeeded",
            "failure": None,
            "started_at": 0.0,
            "ended_at": 10.0 + steps * STEP_S,
        },
        records=Tables(tuple(_tables(plan, workers, steps))),
        events=[start, *started, *evaluated],
    )


def _tables(plan: Plan, workers: int, steps: int) -> Iterator[pa.Table]:
    random = np.random.default_rng(0)
    for first in range(0, steps, STEPS_A_TABLE):
        of_step = np.arange(first, min(first + STEPS_A_TABLE, steps))
        step = np.repeat(of_step, workers)
        count = len(step)
        seen = step * workers * SAMPLES
        lr = np.repeat([plan.lr_at(int(at) * workers * SAMPLES) for at in of_step], workers)
        compute_s, data_s = 0.06 + 0.004 * random.random(count), 0.01 * random.random(count)
        values = {
            "attempt": np.zeros(count, dtype=np.int32),
            "rank": np.tile(np.arange(workers, dtype=np.int32), len(of_step)),
            "step": step,
            "samples_seen": seen,
            "progress": seen.astype(np.float64),
            "lr": lr,
            "lr_planned": lr,
            "samples": np.full(count, SAMPLES),
            "loss": 2.0 / (1 + step / 1000) + 0.05 * random.random(count),
            "step_time_s": np.full(count, STEP_S),
            "data_wait_s": data_s,
            "compute_s": compute_s,
            "sync_wait_s": 0.09 - compute_s - data_s,
            "grad_norm": np.repeat(1.0 + random.random(len(of_step)), workers),
            "peak_memory_gib": np.full(count, 2.0),
            "evaluation_s": np.zeros(count),
            "checkpoint_s": np.zeros(count),
            "cpu_s": compute_s,
            "steps": np.ones(count, dtype=np.int32),
        }
        yield pa.table([values.get(name, pa.nulls(count, SCHEMA.field(name).type)) for name in SCHEMA.names], SCHEMA)
