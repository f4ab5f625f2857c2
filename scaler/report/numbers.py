"""From a run folder to a report: pure numbers, one pass over the records."""

from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from scaler.job import Job
from scaler.metrics.record import Record
from scaler.plan import Plan, make_plan
from scaler.report.model import (
    SCHEMA_VERSION,
    AttemptRow,
    Final,
    LrAudit,
    Report,
    Series,
    StepTime,
    Totals,
    WorkerRow,
)
from scaler.report.verdicts import find_verdicts
from scaler.runs import RunState

SERIES_POINTS = 500
LR_TOLERANCE = 1e-9  # of the peak: floats of one formula evaluated twice agree far better

Columns = Mapping[str, NDArray[Any]]


def summarize(
    *, job: Job, plan: Plan, status: Mapping[str, Any], records: pa.Table, events: Sequence[Mapping[str, Any]]
) -> Report:
    """Return the report of one run.

    Args:
        job: ``job.yaml``.
        plan: ``plan.json``.
        status: ``status.json``.
        records: every record that reached the folder, in any order.
        events: the rows of ``events.jsonl``.
    """
    state = RunState(status["state"])
    columns = _columns(records)
    attempts = _attempts(events, columns, state)
    columns = _surviving(columns, attempts)
    steps = _by_step(columns)
    planned = _planned_lr(steps, attempts, job, plan)
    totals = _totals(steps, attempts, status)
    audit = _audit(columns, steps, planned, plan)
    workers = _workers(columns, events, plan, recorded=set(pc.unique(records["rank"]).to_pylist()))
    events = _surviving_events(events, attempts)
    return Report(
        schema_version=SCHEMA_VERSION,
        run_id=str(status["run_id"]),
        state=state.value,
        plan=plan.to_dict(),
        totals=totals,
        workers=workers,
        final=Final(train_loss_mean=_last_epoch_loss(columns, plan), eval=_last_eval(events)),
        attempts=attempts,
        lr_audit=audit,
        verdicts=find_verdicts(state=state, plan=plan, totals=totals, workers=workers, attempts=attempts, audit=audit),
        failure=status.get("failure"),
        series=_series(steps, planned, events),
    )


def _columns(records: pa.Table) -> Columns:
    """The records as arrays, ordered by step and rank; a missing value is NaN."""
    ordered = records.sort_by([("attempt", "ascending"), ("samples_seen", "ascending"), ("rank", "ascending")])
    return {name: ordered[name].to_numpy(zero_copy_only=False) for name in Record._fields}


def _attempts(events: Sequence[Mapping[str, Any]], columns: Columns, state: RunState) -> tuple[AttemptRow, ...]:
    """One row for each life of the worker group."""
    starts = [event for event in events if event["kind"] == "attempt_started"]
    rows = []
    for index, start in enumerate(starts):
        mine = columns["attempt"] == start["attempt"]
        done = start["start_samples"]
        if mine.any():
            last = columns["samples_seen"][mine].max()
            done = int(last + columns["samples"][mine & (columns["samples_seen"] == last)].sum())
        is_last = index == len(starts) - 1
        if not is_last:  # what it did beyond its successor's start was done again
            done = min(later["start_samples"] for later in starts[index + 1 :])
        rows.append(
            AttemptRow(
                attempt=start["attempt"],
                world_size=start["world_size"],
                global_batch_size=start["global_batch_size"],
                peak_lr=start["peak_lr"],
                start_samples=start["start_samples"],
                end_samples=done,
                ended_by=_ended_by(state, is_last=is_last),
            )
        )
    return tuple(rows)


def _ended_by(state: RunState, *, is_last: bool) -> str:
    """What ended an attempt: another one, or what ended the run."""
    if not is_last:
        return "lost"
    ends = {RunState.SUCCEEDED: "finished", RunState.STOPPED: "stopped", RunState.FAILED: "failed"}
    return ends.get(state, "running")


def _surviving(columns: Columns, attempts: Sequence[AttemptRow]) -> Columns:
    """Only the records of work that is in the final weights."""
    keep = np.zeros(len(columns["step"]), dtype=bool)
    for row in attempts:
        keep |= (columns["attempt"] == row.attempt) & (columns["samples_seen"] < row.end_samples)
    return {name: column[keep] for name, column in columns.items()}


def _surviving_events(
    events: Sequence[Mapping[str, Any]], attempts: Sequence[AttemptRow]
) -> Sequence[Mapping[str, Any]]:
    """Likewise: an evaluation of weights that a restart threw away is not the run's."""
    ends = {row.attempt: row.end_samples for row in attempts if row.ended_by == "lost"}
    return [
        event
        for event in events
        if event["kind"] != "evaluated" or event["samples_seen"] <= ends.get(event["attempt"], event["samples_seen"])
    ]


def _by_step(columns: Columns) -> Columns:
    """One entry for each step, over the workers that recorded it."""
    seen = columns["samples_seen"]
    starts = np.flatnonzero(np.r_[True, seen[1:] != seen[:-1]]) if len(seen) else np.zeros(0, dtype=np.int64)
    if not len(starts):
        return _no_steps()
    weight = columns["samples"].astype(np.float64)
    loss = columns["loss"].astype(np.float64)
    counted = np.where(weight > 0, loss, np.nan)  # an empty share has no loss
    weighted = np.where(weight > 0, loss * weight, 0.0)
    samples = np.add.reduceat(weight, starts)
    return {
        "samples_seen": seen[starts],
        "attempt": columns["attempt"][starts],
        "samples": samples.astype(np.int64),
        "lr": columns["lr"][starts],
        "loss": np.divide(
            np.add.reduceat(weighted, starts), samples, out=np.full(len(starts), np.nan), where=samples > 0
        ),
        "loss_min": np.fmin.reduceat(counted, starts),
        "loss_max": np.fmax.reduceat(counted, starts),
        "step_time_s": np.maximum.reduceat(columns["step_time_s"], starts),
    }


def _no_steps() -> Columns:
    names = ("samples_seen", "attempt", "samples", "lr", "loss", "loss_min", "loss_max", "step_time_s")
    return {
        name: np.zeros(0, dtype=np.int64 if name in ("samples_seen", "attempt", "samples") else np.float64)
        for name in names
    }


def _planned_lr(steps: Columns, attempts: Sequence[AttemptRow], job: Job, plan: Plan) -> NDArray[np.float64]:
    """What the plan of each step's attempt says its rate is."""
    planned = np.full(len(steps["samples_seen"]), np.nan)
    for row in attempts:
        mine = steps["attempt"] == row.attempt
        own = (
            plan if row.world_size == plan.world_size else make_plan(job, row.world_size, num_samples=plan.num_samples)
        )
        planned[mine] = [own.lr_at(int(samples)) for samples in steps["samples_seen"][mine]]
    return planned


def _audit(columns: Columns, steps: Columns, planned: NDArray[np.float64], plan: Plan) -> LrAudit:
    """Compare every record, of every worker, with the plan."""
    if not len(planned):
        return LrAudit(checked_steps=0, max_abs_error=None, as_planned=None)
    position = np.searchsorted(steps["samples_seen"], columns["samples_seen"])
    error = float(np.abs(columns["lr"] - planned[position]).max())
    return LrAudit(
        checked_steps=len(planned),
        max_abs_error=error if np.isfinite(error) else None,
        as_planned=error <= LR_TOLERANCE * plan.peak_lr,  # not when it is no number
    )


def _totals(steps: Columns, attempts: Sequence[AttemptRow], status: Mapping[str, Any]) -> Totals:
    recorded = int(steps["samples"].sum())
    train_s = float(steps["step_time_s"].sum())
    started, ended = status.get("started_at"), status.get("ended_at")
    return Totals(
        samples_seen=attempts[-1].end_samples if attempts else 0,
        steps=len(steps["samples"]),
        wall_s=ended - started if started is not None and ended is not None else None,
        train_s=train_s,
        samples_per_s=recorded / train_s if train_s > 0 else None,
    )


def _workers(
    columns: Columns, events: Sequence[Mapping[str, Any]], plan: Plan, *, recorded: Set[int]
) -> tuple[WorkerRow, ...]:
    """One row for each rank whose work is in the weights, and for each that started and never recorded anything."""
    lives = {event["rank"]: event for event in events if event["kind"] == "worker_started"}  # the newest wins
    rows = []
    for rank in sorted(set(np.unique(columns["rank"]).tolist()) | (set(lives) - recorded)):
        mine = {name: column[columns["rank"] == rank] for name, column in columns.items()}
        times, busy = mine["step_time_s"], float(mine["step_time_s"].sum())
        life = lives.get(rank, {})
        rows.append(
            WorkerRow(
                rank=rank,
                node=life.get("node"),
                pid=life.get("pid"),
                steps=len(times),
                samples=int(mine["samples"].sum()),
                loss_mean=_last_epoch_loss(mine, plan),
                worker_samples_per_s=float(mine["samples"].sum()) / busy if busy > 0 else None,
                step_time_s=StepTime(
                    median=float(np.median(times)) if len(times) else 0.0,
                    p95=float(np.quantile(times, 0.95)) if len(times) else 0.0,
                ),
                data_wait_s=float(mine["data_wait_s"].sum()),
                compute_s=float(mine["compute_s"].sum()),
                sync_wait_s=float(mine["sync_wait_s"].sum()),
                peak_memory_gib=float(mine["peak_memory_gib"].max()) if len(times) else 0.0,
            )
        )
    return tuple(rows)


def _last_epoch_loss(columns: Columns, plan: Plan) -> float | None:
    """The mean loss over the samples of the last epoch (or of all that there is), as it was trained."""
    seen = columns["samples_seen"]
    if not len(seen):
        return None
    last = (seen >= seen.max() - seen.max() % plan.num_samples) & (columns["samples"] > 0)
    weight = columns["samples"][last]
    mean = float((columns["loss"][last] * weight).sum() / weight.sum()) if weight.sum() else float("nan")
    return mean if np.isfinite(mean) else None


def _last_eval(events: Sequence[Mapping[str, Any]]) -> Mapping[str, float | None]:
    evaluations = [event["values"] for event in events if event["kind"] == "evaluated"]
    return evaluations[-1] if evaluations else {}


def _series(steps: Columns, planned: NDArray[np.float64], events: Sequence[Mapping[str, Any]]) -> Series:
    """Thin the steps to at most ``SERIES_POINTS`` stretches."""
    count = len(steps["samples_seen"])
    starts = np.unique(np.linspace(0, count, num=min(count, SERIES_POINTS), endpoint=False).astype(np.int64))
    evaluations = {event["samples_seen"]: event["values"] for event in events if event["kind"] == "evaluated"}
    names = sorted({name for values in evaluations.values() for name in values})
    if not count:
        thinned: dict[str, tuple[float | None, ...]] = {"loss": (), "loss_min": (), "loss_max": ()}
    else:
        samples = steps["samples"].astype(np.float64)
        mean = np.add.reduceat(steps["loss"] * samples, starts) / np.add.reduceat(samples, starts)
        thinned = {
            "loss": _finite(mean),
            "loss_min": _finite(np.fmin.reduceat(steps["loss_min"], starts)),
            "loss_max": _finite(np.fmax.reduceat(steps["loss_max"], starts)),
        }
    return Series(
        samples_seen=tuple(steps["samples_seen"][starts].tolist()),
        loss_mean=thinned["loss"],
        loss_min=thinned["loss_min"],
        loss_max=thinned["loss_max"],
        lr=_finite(steps["lr"][starts]),
        lr_planned=tuple(planned[starts].tolist()),
        eval_samples_seen=tuple(sorted(evaluations)),
        evals={name: tuple(evaluations[at].get(name) for at in sorted(evaluations)) for name in names},
    )


def _finite(values: NDArray[np.float64]) -> tuple[float | None, ...]:
    """JSON has no NaN: what is not a number is not known."""
    return tuple(float(value) if np.isfinite(value) else None for value in values)
