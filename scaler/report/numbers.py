"""From a run folder to a report: pure numbers, one pass over the records."""

from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scaler.job import Job
from scaler.plan import Plan
from scaler.report.attempts import (
    batch_sizes,
    completed,
    find_attempts,
    find_decisions,
    plans_of_attempts,
    surviving_events,
    with_short_lives,
)
from scaler.report.model import SCHEMA_VERSION, AttemptRow, Final, Report, StepTime, Totals, WorkerRow
from scaler.report.noise import find_gain, find_noise
from scaler.report.rates import audit_rates
from scaler.report.replay import replay
from scaler.report.series import make_series
from scaler.report.steps import Columns, by_step, progress_after, surviving, to_columns
from scaler.report.verdicts import find_verdicts
from scaler.runs import RunState


def summarize(
    *,
    job: Job,
    plan: Plan,
    status: Mapping[str, Any],
    records: pa.Table,
    events: Sequence[Mapping[str, Any]],
    later_jobs: Mapping[int, Job] | None = None,
    unreadable: Sequence[str] = (),
) -> Report:
    """Return the report of one run.

    Args:
        job: ``job.yaml``.
        plan: ``plan.json``, of the newest job.
        status: ``status.json``.
        records: every record that reached the folder, in any order, with the column ``lost``.
        events: the rows of ``events.jsonl``.
        later_jobs: ``job-<attempt>.yaml`` by attempt: the job from there on, where a resume changed it.
        unreadable: files of records that are damaged.
    """
    state = RunState(status["state"])
    events = with_short_lives(events)
    jobs = {0: job, **(later_jobs or {})}
    plans = plans_of_attempts(events, jobs, plan)
    events = completed(events, plans)
    columns = to_columns(records)
    attempts = find_attempts(events, columns, plans, state)
    columns = surviving(columns, attempts)
    steps = by_step(columns)
    batches = batch_sizes(steps, events, plans)
    totals = _totals(steps, attempts, status, plan)
    recorded = pc.unique(records["attempt"]).to_pylist()
    rates = audit_rates(columns, steps, replay(events, jobs, plans, recorded=recorded), plan)
    workers = _workers(columns, events, plan, recorded=set(pc.unique(records["rank"]).to_pylist()))
    noise = find_noise(steps, plan)
    kept_events = surviving_events(events, attempts)
    return Report(
        schema_version=SCHEMA_VERSION,
        run_id=str(status["run_id"]),
        state=state.value,
        plan=plan.to_dict(),
        totals=totals,
        workers=workers,
        final=Final(train_loss_mean=_last_epoch_loss(columns, plan), eval=_last_eval(kept_events)),
        attempts=attempts,
        decisions=find_decisions(events, attempts),
        lr_audit=rates.audit,
        noise=noise,
        gain=find_gain(totals, plan),
        verdicts=find_verdicts(
            run_id=str(status["run_id"]),
            state=state,
            plan=plan,
            totals=totals,
            workers=workers,
            attempts=attempts,
            audit=rates.audit,
            noise=noise,
            events=events,
            is_followed=rates.is_followed,
            unplanned=rates.unplanned,
            recorded=recorded,
            unreadable=unreadable,
        ),
        failure=status.get("failure"),
        series=make_series(steps, batches, kept_events),
    )


def _totals(steps: Columns, attempts: Sequence[AttemptRow], status: Mapping[str, Any], plan: Plan) -> Totals:
    recorded = int(steps["samples"].sum())
    train_s = float(steps["step_time_s"].sum())
    started, ended = status.get("started_at"), status.get("ended_at")
    samples_seen = attempts[-1].end_samples if attempts else 0
    return Totals(
        samples_seen=samples_seen,
        progress=_progress(steps, plan, samples_seen, is_over=status["state"] == RunState.SUCCEEDED),
        steps=len(steps["samples"]),
        wall_s=ended - started - status.get("idle_s", 0.0) if started is not None and ended is not None else None,
        train_s=train_s,
        samples_per_s=recorded / train_s if train_s > 0 else None,
        redone_samples=sum(row.redone_samples for row in attempts),
        redone_s=sum(row.redone_s for row in attempts),
        restart_s=sum(row.restart_s for row in attempts if row.restart_s is not None),
    )


def _progress(steps: Columns, plan: Plan, samples_seen: int, *, is_over: bool) -> float:
    """How far the run came, in samples of the reference's training."""
    done = progress_after(steps, plan, samples_seen)
    if is_over and plan.is_measured and len(steps["progress"]) and samples_seen < plan.most_samples:
        return max(done, float(plan.total_samples))  # only its own length can have ended it
    return done


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
