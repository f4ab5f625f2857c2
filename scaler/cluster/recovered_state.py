"""Recover the state of an earlier collector from the run's folder."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from scaler.cluster.messages import Event, LeaveReason
from scaler.metrics.next_attempt import next_attempt
from scaler.metrics.reader import newest_samples, read_events
from scaler.metrics.record import Record
from scaler.runs import RunFolder


class RecoveredState:
    """The events and the newest records that are already in the folder.

    Args:
        folder: the run's folder.

    Raises:
        RunError: a file in ``metrics/`` is not a file of records.

    Attributes:
        attempts: the number of the next attempt; attempts that wrote nothing are counted as well.
        micro_batch_limit: samples in one forward/backward, when a larger micro-batch ran out of memory.
        leave: why the newest attempt was asked to leave, when it has not left.
    """

    def __init__(self, folder: RunFolder) -> None:
        events = read_events(folder)
        self._newest = newest_samples(folder) if events else {}
        self._known = {_key(event) for event in events}
        resumed = [index for index, event in enumerate(events) if event["kind"] == "resumed"]
        self._recent: Sequence[Event] = events[resumed[-1] :] if resumed else events  # since the last submit or resume
        self.attempts = next_attempt(folder)
        self.micro_batch_limit: int | None = None
        self.leave: LeaveReason | None = None
        for event in events:
            self.micro_batch_limit = limit_after(self.micro_batch_limit, event)
        for event in self._recent:
            if event["kind"] == "worker_started" and self.leave != "stop":
                self.leave = None
            elif event["kind"] == "leave_requested" and event["why"] in ("resize", "stop"):
                self.leave = event["why"]

    def has(self, event: Event) -> bool:
        """Return whether this event is in the folder."""
        return _key(event) in self._known

    def new_records(self, records: Sequence[Record]) -> Sequence[Record]:
        """Return the records that are not in the folder."""
        if not self._newest:
            return records
        return [
            record for record in records if record.samples_seen > self._newest.get((record.attempt, record.rank), -1)
        ]

    def of_kinds(self, kinds: Iterable[str]) -> Iterator[Event]:
        """Yield the events of some kinds since the last submit or resume."""
        return (event for event in self._recent if event["kind"] in kinds)

    @property
    def of_newest_attempt(self) -> Sequence[Event]:
        """The newest ``attempt_started`` and the events after it."""
        starts = [index for index, event in enumerate(self._recent) if event["kind"] == "attempt_started"]
        return self._recent[starts[-1] :] if starts else ()


def limit_after(limit: int | None, event: Mapping[str, Any]) -> int | None:
    """Return the limit of samples in one forward/backward after an event.

    Args:
        limit: the limit before the event; None: there is none.
        event: of any kind; most kinds change nothing.

    Example:
        >>> limit_after(None, {"kind": "out_of_memory", "per_worker_batch_size": 13})
        6
        >>> limit_after(6, {"kind": "resumed", "changes": [["recipe_args.width", "512", "64"]]})
    """
    match event["kind"]:
        case "out_of_memory":
            found: int = max(1, event["per_worker_batch_size"] // 2)
        case "micro_batch_halved":
            found = event["per_worker_batch_size"]
        case "resumed" if event["changes"]:  # a changed job may need less memory
            return None
        case _:
            return limit
    return min(limit or found, found)


def _key(event: Event) -> str:
    return json.dumps(event, sort_keys=True)
