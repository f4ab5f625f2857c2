"""What ended each life of the worker group, from its events: who or what it was, and when.

Several events may tell of one end: a worker that dies makes its peers fail, and the controller notices. The one that
names the cause is believed, in this order:

    diverged, worker_hung, out_of_memory, leave_requested, worker_failed, group_ended, worker_failed of a peer, resumed
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scaler.report.text.format import joined, number, one_line

Event = Mapping[str, Any]

SHOWN_CHANGES = 3
WAITING = "waiting for the other workers"  # a worker that hangs in this is not the one that holds the others up

_SIGNS = (
    *("diverged", "worker_hung", "out_of_memory", "leave_requested", "stop_requested", "worker_failed"),
    *("group_ended", "resumed"),
)
_LEFT = {"resize": "resized", "preemption": "preempted", "stop": "stopped"}  # what else there may be: terminated


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """The end of one life."""

    ended_by: str  # as in ``AttemptRow``
    cause: str  # one sentence, of text from outside: not yet escaped
    at: float | None  # epoch seconds of its first sign; None: not known
    idle_s: float  # after it nobody drove the run for so long


def events_of_lives(events: Sequence[Event]) -> dict[int, list[Event]]:
    """Return each life's events, in order: those that name it, and those without a name that came while it went on."""
    starts = [event["attempt"] for event in events if event["kind"] == "attempt_started"]
    found: dict[int, list[Event]] = {attempt: [] for attempt in starts}
    now: int | None = None
    for event in events:
        if event["kind"] == "attempt_started":
            now = event["attempt"]
        named = event.get("attempt") if event["kind"] != "resumed" else None  # which follows on the last that trained
        owner = now if named is None else named
        if owner in found:  # a life that ended before its first step has no row
            found[owner].append(event)
    return found


def find_ending(events: Sequence[Event], *, finished: bool = False) -> Ending | None:
    """Return what ended a life; None when no event tells.

    Args:
        events: the life's own, in order.
        finished: it had trained to the end of its plan.
    """
    signs = _signs(events)
    resumes = [event for event in signs if event["kind"] == "resumed"]
    others = [event for event in signs if event["kind"] != "resumed"]
    if not signs:
        return None
    idle_s = sum(event.get("idle_s") or 0.0 for event in resumes)
    first = min((event["time"] for event in others or resumes[:1] if "time" in event), default=None)
    if first is not None and not others:
        first -= resumes[0].get("idle_s") or 0.0  # the last sign of life
    ended_by, cause = _cause(others, events) or (("finished", "trained to its end") if finished else DRIVER_GONE)
    if ended_by == "lost" and resumes and any(_is_own_error(event) for event in others):
        ended_by = "failed"  # an error of its own is final: it ended the run, not only the life
    return Ending(ended_by=ended_by, cause=one_line(joined(cause, *_resumed(resumes))), at=first, idle_s=idle_s)


DRIVER_GONE = ("killed", "the driver was gone")


def _signs(events: Sequence[Event]) -> list[Event]:
    """The events that tell of an end: once the group's end was noticed, others are of a life that never started."""
    found: list[Event] = []
    is_over = False
    for event in events:
        kind = event["kind"]
        if kind in _SIGNS and (kind == "resumed" or not is_over or event.get("attempt") is not None):
            found.append(event)
        is_over = is_over or kind in ("group_ended", "resumed")
    return found


def _cause(signs: Sequence[Event], events: Sequence[Event]) -> tuple[str, str] | None:
    """How it ended and why, by the first kind of sign in the order above; None without any."""
    kinds: dict[str, list[Event]] = {}
    for event in signs:
        kinds.setdefault(event["kind"], []).append(event)
    failures = kinds.get("worker_failed", [])
    own = [event for event in failures if _is_own_error(event)]
    if diverged := kinds.get("diverged"):
        ended_by = "diverged" if diverged[-1]["goes_back"] else "failed"
        return ended_by, str(diverged[-1]["reason"])
    if hung := kinds.get("worker_hung"):
        return "hung", _hung(min(hung, key=lambda event: event.get("doing") == WAITING))  # the first that did not wait
    if full := kinds.get("out_of_memory"):
        size = full[0].get("per_worker_batch_size")
        return "out_of_memory", f"out of memory{f' with {size} samples' if size else ''} on rank {full[0]['rank']}"
    if left := kinds.get("leave_requested"):
        return _LEFT.get(left[0]["why"], "terminated"), _left(left[0], events)
    if "stop_requested" in kinds:  # as runs of before have it
        return "stopped", "stopped on request"
    if own:
        return "lost", f"rank {own[0]['rank']} failed: {own[0].get('problem') or own[0].get('error')}"
    if ended := kinds.get("group_ended"):
        echoes = {event["rank"] for event in failures}
        return _group_ended(ended[0], echoes)
    if failures:
        return "lost", f"rank {failures[0]['rank']} lost the other workers"
    return None


def _is_own_error(event: Event) -> bool:
    return event["kind"] == "worker_failed" and not event.get("by_peer")


def _hung(event: Event) -> str:
    what = ", ".join(str(event[key]) for key in ("doing", "where") if event.get(key))
    long = f" for {number(event['seconds'], 3)} s" if event.get("seconds") is not None else ""
    return f"rank {event['rank']} hung{long}{f': {what}' if what else ''}"


def _left(event: Event, events: Sequence[Event]) -> str:
    detail = str(event.get("detail") or "")
    match event["why"]:
        case "resize":
            return f"resized: {detail}" if detail else "resized"
        case "preemption":
            return f"{_whose_node(detail, events)} was preempted"
        case "stop":
            return "stopped on request"
        case _:
            return f"{detail or 'a worker'} got SIGTERM"


def _whose_node(detail: str, events: Sequence[Event]) -> str:
    """A node by the ranks on it, where they are known."""
    lives = [event for event in events if event["kind"] == "worker_started"]
    ranks = sorted({event["rank"] for event in lives if event.get("node") == detail})
    if ranks:
        return f"the node of {_ranks(ranks)}"
    if re.match(r"ranks? \d", detail):
        return f"the node of {detail}"
    if detail.startswith("the node"):
        return detail
    return f"node {detail}" if detail else "a node"


def _group_ended(event: Event, echoes: set[int]) -> tuple[str, str]:
    """What the controller noticed; ranks that only lost their peers are not the ones that died."""
    message = event.get("message") or ""
    if event.get("cause") == "yielded":
        return "terminated", f"the workers left{f': {message}' if message else ''}"
    ranks = sorted(event.get("ranks") or ())
    dead = [rank for rank in ranks if rank not in echoes] or ranks
    how = f" ({message})" if message and dead == ranks else ""  # else it may be of the others
    return "lost", f"{_ranks(dead) if dead else 'a worker'} died{how}"


def _ranks(ranks: Sequence[int]) -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    return f"ranks {', '.join(str(rank) for rank in ranks[:-1])} and {ranks[-1]}"


def _resumed(resumes: Sequence[Event]) -> list[str]:
    """That somebody had the run go on, and what of the job changed with that."""
    if not resumes:
        return []
    changes = [change for event in resumes for change in event.get("changes") or ()]
    shown = ", ".join(f"{key} {old} -> {new}" for key, old, new in changes[:SHOWN_CHANGES])
    rest = f" and {len(changes) - SHOWN_CHANGES} more" if len(changes) > SHOWN_CHANGES else ""
    return [f"resumed{f' with {shown}{rest}' if shown else ''}"]
