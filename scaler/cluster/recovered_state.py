"""Recover the state of an earlier collector from the run's folder."""

import json
from collections.abc import Sequence

from scaler.cluster.messages import LeaveReason
from scaler.metrics.events import (
    AttemptStarted,
    Event,
    LeaveRequested,
    MicroBatchHalved,
    RanOutOfMemory,
    Resumed,
    WorkerStarted,
    to_dict,
)
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
        micro_batch_limit: most samples in one forward/backward, because more ran out of memory; None: no limit.
        leave: why the newest attempt was asked to leave; None: it was not asked, or has left.
        events: the events since the last submit or resume.
    """

    def __init__(self, folder: RunFolder) -> None:
        events = read_events(folder)
        self._newest = newest_samples(folder) if events else {}
        self._known = {_key(event) for event in events}
        resumed = [index for index, event in enumerate(events) if isinstance(event, Resumed)]
        self.events: Sequence[Event] = events[resumed[-1] :] if resumed else events
        self.attempts = next_attempt(folder)
        self.micro_batch_limit: int | None = None
        self.leave: LeaveReason | None = None
        for event in events:
            self.micro_batch_limit = limit_after(self.micro_batch_limit, event)
        for event in self.events:
            if isinstance(event, WorkerStarted) and self.leave != "stop":
                self.leave = None
            elif isinstance(event, LeaveRequested) and event.why in ("resize", "stop"):
                self.leave = "stop" if event.why == "stop" else "resize"

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

    @property
    def of_newest_attempt(self) -> Sequence[Event]:
        """The newest ``attempt_started`` and the events after it."""
        starts = [index for index, event in enumerate(self.events) if isinstance(event, AttemptStarted)]
        return self.events[starts[-1] :] if starts else ()


def limit_after(limit: int | None, event: Event) -> int | None:
    """Return the limit of samples in one forward/backward after an event.

    Args:
        limit: the limit before the event; None: there is none.
        event: of any kind; most kinds change nothing.

    Example:
        >>> limit_after(None, RanOutOfMemory(time=0.0, attempt=0, rank=1, per_worker_batch_size=13))
        6
        >>> changes = [["recipe_args.width", "512", "64"]]
        >>> limit_after(6, Resumed(time=0.0, from_samples=64, workers=2, changes=changes, idle_s=0.0))
    """
    match event:
        case RanOutOfMemory():
            found = max(1, event.per_worker_batch_size // 2)
        case MicroBatchHalved():
            found = event.per_worker_batch_size
        case Resumed() if event.changes:  # a changed job may need less memory
            return None
        case _:
            return limit
    return min(limit or found, found)


def _key(event: Event) -> str:
    return json.dumps(to_dict(event), sort_keys=True)
