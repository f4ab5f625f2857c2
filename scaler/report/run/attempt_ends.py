"""The end of each attempt of the worker group, from its events: the cause and the time.

One end can cause several events: a worker dies, its peers fail, and the controller notices. The event that names the
cause is chosen in this order:

    diverged, worker_hung, out_of_memory, leave_requested, worker_failed, group_ended, worker_failed of a peer, resumed
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from scaler.metrics.events import (
    WAITING,
    AttemptStarted,
    Diverged,
    Event,
    GroupEnded,
    LeaveRequested,
    RanOutOfMemory,
    Resumed,
    WorkerFailed,
    WorkerHung,
    WorkerStarted,
    of_type,
)
from scaler.report.text.format import joined, number, one_line

SHOWN_CHANGES = 3

_Sign = Diverged | WorkerHung | RanOutOfMemory | LeaveRequested | WorkerFailed | GroupEnded | Resumed
_LEFT = {"resize": "resized", "preemption": "preempted", "stop": "stopped"}  # any other reason: terminated


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptEnd:
    """The end of one attempt."""

    ended_by: str  # as in ``AttemptRow``
    cause: str  # one sentence, with text from outside: not escaped yet
    at: float  # time of its first event, in epoch seconds
    idle_s: float  # seconds after it in which nothing ran


def events_by_attempt(events: Sequence[Event]) -> dict[int, list[Event]]:
    """Return each attempt's events, in order: those that name it, and those without a name that came during it."""
    starts = [start.attempt for start in of_type(events, AttemptStarted)]
    found: dict[int, list[Event]] = {attempt: [] for attempt in starts}
    now: int | None = None
    for event in events:
        if isinstance(event, AttemptStarted):
            now = event.attempt
        owner = now if event.attempt is None else event.attempt
        if owner in found:
            found[owner].append(event)
    return found


def find_attempt_end(
    events: Sequence[Event], *, finished: bool = False, driver_seen_at: float | None = None
) -> AttemptEnd | None:
    """Return the end of an attempt; None when no event is about the end.

    Args:
        events: those of the attempt, in order.
        finished: whether it trained to the end of its plan.
        driver_seen_at: last heartbeat, in epoch seconds, of a run driver that is gone; None: it is not, or an event
            ``resumed`` says it.
    """
    signs = _signs(events)
    driver_seen_at = max((event.driver_seen_at or 0.0 for event in of_type(signs, Resumed)), default=driver_seen_at)
    if driver_seen_at:
        signs = [event for event in signs if not _follows_from_driver(event, driver_seen_at)]
    resumes = of_type(signs, Resumed)
    others = [event for event in signs if not isinstance(event, Resumed)]
    if not signs:
        return None
    idle_s = sum(event.idle_s for event in resumes)
    first = min(event.time for event in others) if others else resumes[0].time - resumes[0].idle_s
    ended_by, cause = _cause(others, events) or (("finished", "trained to its end") if finished else DRIVER_GONE)
    if ended_by == "lost" and resumes and any(_is_own_error(event) for event in others):
        ended_by = "failed"  # a worker's own error is final: it ended the run, not only the attempt
    return AttemptEnd(ended_by=ended_by, cause=one_line(joined(cause, *_resumed(resumes))), at=first, idle_s=idle_s)


DRIVER_GONE = ("killed", "the driver was gone")


def _signs(events: Sequence[Event]) -> list[_Sign]:
    """The events about an end. Once the group's end was noticed, later ones are of an attempt that never started."""
    found: list[_Sign] = []
    is_over = False
    for event in events:
        if isinstance(event, _Sign) and (isinstance(event, Resumed) or not is_over or event.attempt is not None):
            found.append(event)
        is_over = is_over or isinstance(event, GroupEnded | Resumed)
    return found


def _cause(signs: Sequence[_Sign], events: Sequence[Event]) -> tuple[str, str] | None:
    """How it ended and why, by the first kind of event in the order above; None without any."""
    failures = of_type(signs, WorkerFailed)
    own = [event for event in failures if _is_own_error(event)]
    if diverged := of_type(signs, Diverged):
        return "diverged" if diverged[-1].goes_back else "failed", diverged[-1].reason
    if hung := of_type(signs, WorkerHung):
        return "hung", _hung(min(hung, key=lambda event: event.doing == WAITING))  # the first that did not wait
    if full := of_type(signs, RanOutOfMemory):
        return "out_of_memory", f"out of memory with {full[0].per_worker_batch_size} samples on rank {full[0].rank}"
    if left := of_type(signs, LeaveRequested):
        return _LEFT.get(left[0].why, "terminated"), _left(left[0], events)
    if own:
        return "lost", f"rank {own[0].rank} failed: {own[0].problem or own[0].error}"
    if ended := of_type(signs, GroupEnded):
        return _group_ended(ended[0], {event.rank for event in failures})
    if failures:
        return "lost", f"rank {failures[0].rank} lost the other workers"
    return None


def _follows_from_driver(event: Event, driver_seen_at: float) -> bool:
    """Return whether the end of the run driver explains an event.

    Ray ends the workers of a killed driver one after another, and those that remain may report the others' end.
    """
    if event.time is None or event.time < driver_seen_at:
        return False
    match event:
        case WorkerFailed():
            return event.by_peer
        case GroupEnded():
            return True
        case LeaveRequested():
            return event.why == "sigterm"
        case _:
            return False


def _is_own_error(event: Event) -> bool:
    return isinstance(event, WorkerFailed) and not event.by_peer


def _hung(event: WorkerHung) -> str:
    what = ", ".join(filter(None, (event.doing, event.where)))
    long = f" for {number(event.seconds, 3)} s" if event.seconds is not None else ""
    return f"rank {event.rank} hung{long}{f': {what}' if what else ''}"


def _left(event: LeaveRequested, events: Sequence[Event]) -> str:
    detail = event.detail
    match event.why:
        case "resize":
            return f"resized: {detail}" if detail else "resized"
        case "preemption":
            return f"{_whose_node(detail, events)} was preempted"
        case "stop":
            return "stopped on request"
        case _:
            return f"{detail or 'a worker'} got SIGTERM"


def _whose_node(detail: str, events: Sequence[Event]) -> str:
    """A node, named by the ranks on it where they are known."""
    ranks = sorted({event.rank for event in of_type(events, WorkerStarted) if event.node == detail})
    if ranks:
        return f"the node of {_ranks(ranks)}"
    if re.match(r"ranks? \d", detail):
        return f"the node of {detail}"
    if detail.startswith("the node"):
        return detail
    return f"node {detail}" if detail else "a node"


def _group_ended(event: GroupEnded, echoes: set[int]) -> tuple[str, str]:
    """What the controller noticed; ranks that only lost their peers did not die."""
    message = event.message
    if event.cause == "yielded":
        return "terminated", f"the workers left{f': {message}' if message else ''}"
    ranks = sorted(event.ranks)
    dead = [rank for rank in ranks if rank not in echoes] or ranks
    how = f" ({message})" if message and dead == ranks else ""  # else it may be about the others
    return "lost", f"{_ranks(dead) if dead else 'a worker'} died{how}"


def _ranks(ranks: Sequence[int]) -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    return f"ranks {', '.join(str(rank) for rank in ranks[:-1])} and {ranks[-1]}"


def _resumed(resumes: Sequence[Resumed]) -> list[str]:
    """That the run was resumed, and what of the job changed then."""
    if not resumes:
        return []
    changes = [change for event in resumes for change in event.changes]
    shown = ", ".join(f"{key} {old} -> {new}" for key, old, new in changes[:SHOWN_CHANGES])
    rest = f" and {len(changes) - SHOWN_CHANGES} more" if len(changes) > SHOWN_CHANGES else ""
    return [f"resumed{f' with {shown}{rest}' if shown else ''}"]
