"""What a worker and the collector say to each other. Nothing here loads more than the standard library."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scaler.metrics.events import Event, GroupEnded, WorkerFailed, WorkerHung
from scaler.metrics.record import Record

Trouble = WorkerFailed | WorkerHung | GroupEnded
"""The events that tell why a worker group ended."""

Why = Literal["resize", "stop"]
"""What the collector asks a group to leave for; a worker's own reasons are its signals and Ray's notices."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """What one worker handed over at one moment."""

    number: int  # counted by the worker; the first is 1
    attempt: int | None  # None before the worker has joined its group
    samples_seen: int  # what the worker had reached: its records up to here are in this batch or in earlier ones
    records: Sequence[Record]
    events: Sequence[Event]

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as columns: a record at a time, packing costs a worker eight times as much."""
        columns = list(zip(*self.records, strict=True))
        return _batch_of, (self.number, self.attempt, self.samples_seen, columns, self.events)


def _batch_of(
    number: int, attempt: int | None, samples_seen: int, columns: Sequence[Sequence[Any]], events: Sequence[Event]
) -> Batch:
    records = [Record._make(values) for values in zip(*columns, strict=True)]
    return Batch(number=number, attempt=attempt, samples_seen=samples_seen, records=records, events=events)


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """What a worker sends: the batches that the collector has not taken yet; none to ask how things stand."""

    sender: str  # one life of one worker
    rank: int
    written: int  # the newest batch that the worker knows to be in the folder
    written_to: tuple[int | None, int]  # that batch's attempt and samples_seen
    batches: Sequence[Batch]


@dataclass(frozen=True, kw_only=True, slots=True)
class UploadReply:
    """What the collector says to a parcel."""

    taken: int  # the newest batch that it has; what follows is to be sent (again)
    written: int  # the newest batch that is in the folder; no need to keep it
    leave: Why | None  # what the group is asked to leave for
    rest_s: float  # how long not to send, unless somebody waits for it: so many workers share the collector


@dataclass(frozen=True, kw_only=True, slots=True)
class Beginning:
    """What a worker group has to know when its life begins."""

    attempt: int
    micro_batch_limit: int | None  # samples in one forward/backward; None: nothing has run out of memory
