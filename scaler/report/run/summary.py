"""The report of a run, from its records and events: pure arithmetic."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from scaler.job import Job
from scaler.metrics.events import Evaluated, Event, Recorded, data_order, of_type
from scaler.metrics.mean import Mean
from scaler.plan import Plan
from scaler.report.run.attempts import (
    batch_sizes,
    find_attempts,
    find_decisions,
    plans_of_attempts,
    progress_after,
    surviving_events,
    with_short_attempts,
)
from scaler.report.run.budget import after_last_step, find_budget, find_cost, find_flops, find_scaling
from scaler.report.run.elapsed import Elapsed
from scaler.report.run.lr_audit import audit_lrs
from scaler.report.run.lr_replay import replay
from scaler.report.run.model import SCHEMA_VERSION, AttemptRow, Final, Report, Totals
from scaler.report.run.noise import find_gain, find_noise
from scaler.report.run.series import make_series
from scaler.report.run.step_arrays import Columns, Records, make_step_arrays
from scaler.report.run.tokens import planned_tokens, real_tokens
from scaler.report.run.verdicts import find_verdicts
from scaler.report.run.verdicts.evidence import Evidence
from scaler.report.run.workers import find_workers, last_epoch_loss
from scaler.runs import RunState
from scaler.runs.origin import Origin


def summarize(
    *,
    job: Job,
    plan: Plan,
    status: Mapping[str, Any],
    records: Records,
    events: Sequence[Event],
    later_jobs: Mapping[int, Job] | None = None,
    one_worker: tuple[float, str] | None = None,
    logs: Collection[int] | None = None,
) -> Report:
    """Return the report of one run.

    Args:
        job: ``job.yaml``.
        plan: ``plan.json``, of the newest job.
        status: ``status.json``; with ``driver``, a text about the run driver, where the run is lost and it is known.
        records: every record that reached the folder, in any order.
        events: of the run, in order.
        later_jobs: ``job-<attempt>.yaml`` by attempt: the job from that attempt, where a resume changed it.
        one_worker: samples/s of one worker in another run, and the name of that run.
        logs: ranks that have a log in the run's folder; None: not known.
    """
    state, run_id = RunState(status["state"]), str(status["run_id"])
    jobs = {0: job, **(later_jobs or {})}
    newest = jobs[max(jobs)]
    plans = plans_of_attempts(events, jobs, plan)
    events = with_short_attempts(events, plans)
    arrays = make_step_arrays(records, events)
    attempts = find_attempts(
        events, arrays.steps, plans, state, status.get("started_at"), driver_seen_at=status.get("driver_seen_at")
    )
    after = after_last_step(events)
    elapsed = Elapsed(arrays.steps, attempts, {attempt: sum(parts.values()) for attempt, parts in after.items()})
    totals = _totals(arrays.kept, attempts, status, plan)
    workers = find_workers(arrays, events, attempts, plan)
    budget = find_budget(arrays, attempts, after, totals)
    scaling = find_scaling(
        arrays, attempts, one_worker=one_worker, reference_samples_per_s=newest.reference.samples_per_s
    )
    origin = Origin.of_status(status)
    replayed = replay(
        events,
        jobs,
        plans,
        recorded=arrays.attempts.tolist(),
        known_from=origin.samples_seen if origin is not None and not origin.reacts else 0,
    )
    audited = audit_lrs(arrays.kept, replayed, plan)
    noise = find_noise(arrays.kept, plan)
    kept_events = surviving_events(events, attempts)
    evidence = Evidence(
        run_id=run_id,
        state=state,
        job=newest,
        plan=plan,
        totals=totals,
        workers=workers,
        budget=budget,
        scaling=scaling,
        attempts=attempts,
        audit=audited.audit,
        noise=noise,
        arrays=arrays,
        events=events,
        is_followed=audited.is_followed,
        unplanned=audited.unplanned,
        unreadable=records.unreadable,
        logs=logs,
        driver=str(status.get("driver", "")),
    )
    loss = last_epoch_loss(arrays.kept["samples_seen"], arrays.kept["loss"], arrays.kept["weight"], plan)
    return Report(
        schema_version=SCHEMA_VERSION,
        run_id=run_id,
        state=state.value,
        plan=plan.to_dict(),
        totals=totals,
        workers=workers,
        budget=budget,
        cost=find_cost(newest.resources.price_per_worker_hour, attempts, totals),
        scaling=scaling,
        flops=find_flops(scaling, events, newest.resources.peak_tflops_per_worker),
        final=Final(train_loss_mean=loss, eval=_last_eval(kept_events), train=_last_recorded(kept_events, plan)),
        data_order=data_order(events),
        attempts=attempts,
        decisions=find_decisions(events, attempts, elapsed, plan.units),
        lr_audit=audited.audit,
        noise=noise,
        gain=find_gain(totals, plan),
        verdicts=find_verdicts(evidence),
        failure=status.get("failure"),
        branched_from=None if origin is None else origin.to_dict(),
        series=make_series(arrays, batch_sizes(arrays.kept, events, plans), kept_events, attempts, elapsed),
    )


def _totals(steps: Columns, attempts: Sequence[AttemptRow], status: Mapping[str, Any], plan: Plan) -> Totals:
    recorded = int(steps["samples"].sum())
    train_s = float(steps["own_s"].sum())
    started, ended = status.get("started_at"), status.get("ended_at")
    samples_seen = attempts[-1].end_samples if attempts else 0
    tokens, real = planned_tokens(steps["samples_seen"], steps["samples"], plan), real_tokens(steps, plan)
    return Totals(
        samples_seen=recorded if plan.last_batch == "drop" else samples_seen,  # else it counts samples left out
        progress=_progress(steps, plan, samples_seen, is_over=status["state"] == RunState.SUCCEEDED),
        steps=int(steps["steps"].sum()),
        wall_s=ended - started - status.get("idle_s", 0.0) if started is not None and ended is not None else None,
        train_s=train_s,
        samples_per_s=recorded / train_s if train_s > 0 else None,
        tokens_seen=tokens,
        tokens_per_s=tokens / train_s if tokens is not None and train_s > 0 else None,
        real_tokens=real,
        real_tokens_per_s=real / train_s if real is not None and train_s > 0 else None,
        redone_samples=sum(row.redone_samples for row in attempts),
        redone_s=sum(row.redone_s for row in attempts),
        restart_s=sum(row.restart_s for row in attempts if row.restart_s is not None),
    )


def _progress(steps: Columns, plan: Plan, samples_seen: int, *, is_over: bool) -> float:
    """The progress of the run, in samples of the reference's training."""
    done = progress_after(steps, plan, samples_seen)
    if is_over and plan.is_measured and len(steps["progress"]) and samples_seen < plan.most_samples:
        return max(done, float(plan.end_samples))  # it can only have ended at its own length
    return done


def _last_eval(events: Sequence[Event]) -> Mapping[str, float | None]:
    evaluations = of_type(events, Evaluated)
    return evaluations[-1].values if evaluations else {}


def _last_recorded(events: Sequence[Event], plan: Plan) -> Mapping[str, float | None]:
    """The mean by weight of each recorded value over the last epoch."""
    recorded = of_type(events, Recorded)
    if not recorded:
        return {}
    since = recorded[-1].samples_seen - plan.num_samples
    means: dict[str, Mean] = {}
    for event in recorded:
        if event.samples_seen > since:
            for name, value in event.values.items():
                means.setdefault(name, Mean()).add(value, event.weights[name])
    return {name: mean.value for name, mean in means.items()}
