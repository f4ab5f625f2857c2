"""The attempts of a run, from its events: their work, how much of it is in the final weights, and the decisions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaler.core.unit import Unit
from scaler.job import Job
from scaler.metrics.events import (
    AttemptStarted,
    BatchGrown,
    Diverged,
    Evaluated,
    Event,
    LrLowered,
    MicroBatchHalved,
    WorkerStarted,
    of_type,
)
from scaler.plan import Plan, make_plan
from scaler.report.run.attempt_ends import DRIVER_GONE, AttemptEnd, events_by_attempt, find_attempt_end
from scaler.report.run.elapsed import Elapsed, find_starts
from scaler.report.run.model import AttemptRow, Decision
from scaler.report.run.step_arrays import Columns, chosen
from scaler.report.text.format import amount, ended, number
from scaler.runs import RunState


def plans_of_attempts(events: Sequence[Event], jobs: Mapping[int, Job], plan: Plan) -> dict[int, Plan]:
    """Return the plan of each attempt whose workers started: for its number of workers, from the job it used.

    Args:
        events: of the run.
        jobs: each job of the run, by the first attempt that used it.
        plan: of the newest job and its number of workers. Others are made again from the reference, without groups of
            parameters: they do not change the learning rate of the plan.
    """
    plans = {(max(jobs), plan.world_size): plan}
    found = {}
    for event in events:
        if isinstance(event, WorkerStarted | AttemptStarted):
            since = max(first for first in jobs if first <= event.attempt)
            key = (since, event.world_size)
            if key not in plans:
                job = jobs[since].model_copy(update={"groups": (), "layer_decay": None})
                plans[key] = make_plan(job, key[1], num_samples=plan.num_samples, parameters=plan.parameters or None)
            found[event.attempt] = plans[key]
    return found


def with_short_attempts(events: Sequence[Event], plans: Mapping[int, Plan]) -> list[Event]:
    """Return the events with a start for each attempt whose workers started but ended before their first step.

    Such a start stands after the attempt's last ``WorkerStarted``, with the batch and the learning rate of its plan.

    Args:
        events: of the run.
        plans: of each attempt whose workers started.
    """
    begun = {start.attempt for start in of_type(events, AttemptStarted)}
    last = {
        event.attempt: index
        for index, event in enumerate(events)
        if isinstance(event, WorkerStarted) and event.attempt not in begun
    }
    found: list[Event] = []
    for index, event in enumerate(events):
        found.append(event)
        if isinstance(event, WorkerStarted) and last.get(event.attempt) == index:
            found.append(_planned_start(event, plans[event.attempt]))
    return found


def _planned_start(worker: WorkerStarted, plan: Plan) -> AttemptStarted:
    """The start that an attempt would have reported before its first step."""
    phase = plan.phase_at(worker.start_samples)
    return AttemptStarted(
        time=worker.time,
        attempt=worker.attempt,
        samples_seen=worker.start_samples,
        start_samples=worker.start_samples,
        world_size=worker.world_size,
        global_batch_size=phase.global_batch_size,
        per_worker_batch_size=None,
        peak_lr=phase.peak_lr,
        ramp=None,
        flops_per_sample=None,
        data_parallel_size=plan.data_parallel_size,
        mesh=plan.mesh,
    )


def find_attempts(
    events: Sequence[Event],
    steps: Columns,
    plans: Mapping[int, Plan],
    state: RunState,
    started_at: float | None,
    *,
    driver_seen_at: float | None = None,
) -> tuple[AttemptRow, ...]:
    """Return one row for each attempt: each start of the worker group, and each return to a checkpoint.

    Args:
        events: of the run, with the starts of short attempts.
        steps: of the run, with lost work: see ``StepArrays.steps``.
        plans: of each attempt.
        state: of the run.
        started_at: when it was submitted, in epoch seconds.
        driver_seen_at: last heartbeat of the driver of a lost run, in epoch seconds; None: unknown, or not lost.
    """
    times = find_starts(events, started_at)
    starts = of_type(events, AttemptStarted)
    by_attempt = events_by_attempt(events)
    rows = []
    for index, start in enumerate(starts):
        attempt, begin, plan = start.attempt, start.start_samples, plans[start.attempt]
        mine = chosen(steps, steps["attempt"] == attempt)
        lost = mine["lost"]
        reached = _reached(mine, begin)
        successor = starts[index + 1] if index + 1 < len(starts) else None
        # A later attempt trained again on the samples beyond its start.
        done = min((later.start_samples for later in starts[index + 1 :]), default=reached)
        kept = mine["samples_seen"][mine["samples_seen"] < done]
        ends = np.array([kept.max() if len(kept) else begin])
        end = find_attempt_end(
            by_attempt[attempt],
            finished=has_ended(mine, plan, reached),
            driver_seen_at=driver_seen_at if successor is None else None,
        )
        ended_by, cause = _how_it_ended(end, state, is_last=successor is None)
        rows.append(
            AttemptRow(
                attempt=attempt,
                world_size=start.world_size,
                data_parallel_size=plan.data_parallel_size,
                mesh=plan.mesh,
                global_batch_size=start.global_batch_size,
                end_global_batch_size=int(_batch_sizes(ends, start, events, plan)[0]),
                peak_lr=start.peak_lr,
                start_samples=begin,
                end_samples=max(begin, done),
                ended_by=ended_by,
                cause=cause,
                per_worker_batch_size=start.per_worker_batch_size,
                redone_samples=int(mine["samples"][lost].sum()),
                redone_s=float(mine["own_s"][lost].sum()),
                restart_s=_restart_s(by_attempt[attempt], end, successor),
                elapsed_s=times[attempt],
            )
        )
    return tuple(rows)


def _reached(mine: Columns, begin: int) -> int:
    """The samples in the weights after an attempt's last step."""
    if not len(mine["samples_seen"]):
        return int(begin)
    return int(mine["samples_seen"][-1] + mine["samples"][-1])


def progress_after(steps: Columns, plan: Plan, samples_seen: int) -> float:
    """Return the progress after ``steps``, in samples of the reference's training.

    Records have the progress at the start of each step. The last step is assumed to add as much as the one before.
    """
    if not plan.is_measured or not len(steps["progress"]):
        return float(samples_seen)
    seen, progress = steps["samples_seen"][-2:], steps["progress"][-2:]
    worth = (progress[1] - progress[0]) / (seen[1] - seen[0]) if len(seen) == 2 else 1.0 / plan.batch_ratio
    return float(progress[-1] + worth * steps["samples"][-1])


def has_ended(steps: Columns, plan: Plan, samples_seen: int) -> bool:
    """Return whether an attempt of these steps trained to the end of its plan."""
    return samples_seen >= plan.most_samples or progress_after(steps, plan, samples_seen) >= plan.end_samples


def _how_it_ended(end: AttemptEnd | None, state: RunState, *, is_last: bool) -> tuple[str, str | None]:
    """How an attempt ended and why: from its events, and for the last one from the state of the run."""
    cause = end.cause if end is not None else None
    if is_last and state.is_end and (end is None or end.ended_by != "diverged"):
        ended_by = {RunState.SUCCEEDED: "finished", RunState.STOPPED: "stopped"}.get(state, "failed")
        is_its_cause = end is not None and (ended_by == "failed" or end.ended_by == ended_by)
        return ended_by, cause if is_its_cause else None
    if end is None and is_last and state is RunState.LOST:
        return DRIVER_GONE
    if end is None:
        return "running" if is_last else "lost", None
    return end.ended_by, cause


def _restart_s(events: Sequence[Event], end: AttemptEnd | None, successor: AttemptStarted | None) -> float | None:
    """Seconds from an attempt's end, or else its last event, to the next one's start, without idle time."""
    if successor is None:
        return None
    if end is not None:
        return max(0.0, successor.time - end.at - end.idle_s)
    return max(0.0, successor.time - max(event.time for event in events if event.time is not None))


def batch_sizes(steps: Columns, events: Sequence[Event], plans: Mapping[int, Plan]) -> NDArray[np.int64]:
    """Return the planned global batch size of each step; the last step of an epoch can have fewer samples."""
    sizes = np.zeros(len(steps["samples_seen"]), dtype=np.int64)
    for start in of_type(events, AttemptStarted):
        mine = steps["attempt"] == start.attempt
        sizes[mine] = _batch_sizes(steps["samples_seen"][mine], start, events, plans[start.attempt])
    return sizes


def _batch_sizes(seen: NDArray[Any], start: AttemptStarted, events: Sequence[Event], plan: Plan) -> NDArray[np.int64]:
    """The same for one attempt: at its start, by the plan's phases, and as it grew with the noise."""
    sizes = np.full(len(seen), start.global_batch_size, dtype=np.int64)
    for phase in plan.phases[1:]:
        if phase.start_samples > start.start_samples:
            sizes[seen >= phase.start_samples] = phase.global_batch_size
    for event in of_type(events, BatchGrown):
        if event.attempt == start.attempt:
            sizes[seen >= event.samples_seen] = event.global_batch_size
    return sizes


def surviving_events(events: Sequence[Event], attempts: Sequence[AttemptRow]) -> list[Event]:
    """Return the events without evaluations of weights that a later attempt replaced."""
    ends = {row.attempt: row.end_samples for row in attempts[:-1]}
    return [
        event
        for event in events
        if not isinstance(event, Evaluated) or event.samples_seen <= ends.get(event.attempt, event.samples_seen)
    ]


def find_decisions(
    events: Sequence[Event], attempts: Sequence[AttemptRow], elapsed: Elapsed, units: Unit
) -> tuple[Decision, ...]:
    """Return the decisions of the controllers, in order; ``units``: of the plan."""
    ends = {row.attempt: row.end_samples for row in attempts[:-1]}
    starts = {row.attempt: row.start_samples for row in attempts}
    found = []
    for event in events:
        if not isinstance(event, LrLowered | Diverged | BatchGrown | MicroBatchHalved):
            continue
        at, end = event.samples_seen, ends.get(event.attempt)
        found.append(
            Decision(
                samples_seen=at,
                elapsed_s=elapsed.at(event.attempt, at),
                attempt=event.attempt,
                kind=event.kind,
                message=_message(event, starts.get(event.attempt + 1), units),
                # A checkpoint has the decisions before it; these two hold after any return.
                undone=not isinstance(event, Diverged | MicroBatchHalved) and end is not None and at > end,
            )
        )
    return tuple(found)


def _message(event: LrLowered | Diverged | BatchGrown | MicroBatchHalved, next_start: int | None, units: Unit) -> str:
    """A decision as a sentence."""
    match event:
        case LrLowered():
            return f"The learning rate was lowered to {number(event.factor)} of the planned one: {ended(event.reason)}"
        case BatchGrown():
            size, peak_lr = units.plural(event.global_batch_size, at=event.samples_seen), number(event.peak_lr)
            return f"The global batch grew to {size}, the peak learning rate to {peak_lr}."
        case MicroBatchHalved():
            size = units.plural(event.per_worker_batch_size, at=event.samples_seen)
            return f"A worker ran out of memory: at most {size} in one forward/backward from here on."
        case Diverged() if not event.goes_back:
            return f"The training diverged and was stopped: {ended(event.reason)}"
        case Diverged():
            where = f" at {amount(units.at(next_start), units.many)}" if next_start is not None else ""
            return f"The training diverged and returned to the checkpoint{where}: {ended(event.reason)}"
