"""The lives of a run, from its events: what each did, what of it is in the final weights, and what was decided."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaler.job import Job
from scaler.plan import Plan, make_plan
from scaler.report.model import AttemptRow, Decision
from scaler.report.steps import Columns
from scaler.report.words import number, plural
from scaler.runs import RunState

Event = Mapping[str, Any]


def plans_of_attempts(events: Sequence[Event], job: Job, plan: Plan) -> dict[int, Plan]:
    """Return the plan of each attempt: made again from the reference when it had another number of workers."""
    plans = {plan.world_size: plan}
    found = {}
    for event in events:
        if event["kind"] == "attempt_started":
            size = event["world_size"]
            if size not in plans:
                plans[size] = make_plan(job, size, num_samples=plan.num_samples, parameters=plan.parameters)
            found[event["attempt"]] = plans[size]
    return found


def find_attempts(
    events: Sequence[Event], columns: Columns, plans: Mapping[int, Plan], state: RunState
) -> tuple[AttemptRow, ...]:
    """Return one row for each life of the worker group, and for each return to a checkpoint within one."""
    starts = [event for event in events if event["kind"] == "attempt_started"]
    went_back = {event["attempt"] for event in events if event["kind"] == "diverged" and event["goes_back"]}
    rows = []
    for index, start in enumerate(starts):
        attempt, begin = start["attempt"], start["start_samples"]
        mine = columns["attempt"] == attempt
        done = begin
        if mine.any():
            last = columns["samples_seen"][mine].max()
            done = int(last + columns["samples"][mine & (columns["samples_seen"] == last)].sum())
        is_last = index == len(starts) - 1
        if not is_last:  # what it did beyond its successor's start was done again
            done = min(later["start_samples"] for later in starts[index + 1 :])
        kept = columns["samples_seen"][mine & (columns["samples_seen"] < done)]
        ends = np.array([kept.max() if len(kept) else begin])
        rows.append(
            AttemptRow(
                attempt=attempt,
                world_size=start["world_size"],
                global_batch_size=start["global_batch_size"],
                end_global_batch_size=int(_batch_sizes(ends, start, events, plans[attempt])[0]),
                peak_lr=start["peak_lr"],
                start_samples=begin,
                end_samples=done,
                ended_by="diverged" if attempt in went_back else _ended_by(state, is_last=is_last),
            )
        )
    return tuple(rows)


def _ended_by(state: RunState, *, is_last: bool) -> str:
    """What ended an attempt: another one, or what ended the run."""
    if not is_last:
        return "lost"
    ends = {RunState.SUCCEEDED: "finished", RunState.STOPPED: "stopped", RunState.FAILED: "failed"}
    return ends.get(state, "running")


def batch_sizes(steps: Columns, events: Sequence[Event], plans: Mapping[int, Plan]) -> NDArray[np.int64]:
    """Return the global batch size that each step was planned with; an epoch's last step may have taken fewer."""
    sizes = np.zeros(len(steps["samples_seen"]), dtype=np.int64)
    for event in events:
        if event["kind"] == "attempt_started":
            mine = steps["attempt"] == event["attempt"]
            sizes[mine] = _batch_sizes(steps["samples_seen"][mine], event, events, plans[event["attempt"]])
    return sizes


def _batch_sizes(seen: NDArray[Any], start: Event, events: Sequence[Event], plan: Plan) -> NDArray[np.int64]:
    """The same within one attempt: as it began, as the plan's phases say, and as it grew with the noise."""
    sizes = np.full(len(seen), start["global_batch_size"], dtype=np.int64)
    for phase in plan.phases[1:]:
        if phase.start_samples > start["start_samples"]:
            sizes[seen >= phase.start_samples] = phase.global_batch_size
    for event in events:
        if event["kind"] == "batch_grown" and event["attempt"] == start["attempt"]:
            sizes[seen >= event["samples_seen"]] = event["global_batch_size"]
    return sizes


def surviving_events(events: Sequence[Event], attempts: Sequence[AttemptRow]) -> list[Event]:
    """Return the events without evaluations of weights that a later attempt threw away."""
    ends = {row.attempt: row.end_samples for row in attempts[:-1]}
    return [
        event
        for event in events
        if event["kind"] != "evaluated" or event["samples_seen"] <= ends.get(event["attempt"], event["samples_seen"])
    ]


def find_decisions(events: Sequence[Event], attempts: Sequence[AttemptRow]) -> tuple[Decision, ...]:
    """Return what the controllers decided, in the order in which they did."""
    ends = {row.attempt: row.end_samples for row in attempts[:-1]}
    starts = {row.attempt: row.start_samples for row in attempts}
    found = []
    for event in events:
        kind = event["kind"]
        if kind not in ("rate_lowered", "diverged", "batch_grown"):
            continue
        at, end = event["samples_seen"], ends.get(event["attempt"])
        found.append(
            Decision(
                samples_seen=at,
                attempt=event["attempt"],
                kind=kind,
                message=_message(event, starts.get(event["attempt"] + 1)),
                undone=kind != "diverged" and end is not None and at > end,  # a checkpoint knows what was decided there
            )
        )
    return tuple(found)


def _message(event: Event, next_start: int | None) -> str:
    """A decision as a sentence."""
    match event["kind"]:
        case "rate_lowered":
            return f"The rate went down to {number(event['factor'])} of the planned one: {event['reason']}."
        case "batch_grown":
            rate = number(event["peak_lr"])
            return f"The global batch grew to {plural(event['global_batch_size'], 'sample')}, the peak rate to {rate}."
        case _ if not event["goes_back"]:
            return f"The training diverged and was stopped: {event['reason']}."
        case _:
            where = f" at {plural(next_start, 'sample')}" if next_start is not None else ""
            return f"The training diverged and went back to the checkpoint{where}: {event['reason']}."
