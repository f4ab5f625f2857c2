"""The messages between a worker and the collector. Importing this loads only the standard library."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scaler.metrics.events import Event, GroupEnded, WorkerFailed, WorkerHung
from scaler.metrics.record import Record

Trouble = WorkerFailed | WorkerHung | GroupEnded
"""The events that say why a worker group ended."""

LeaveReason = Literal["resize", "stop"]
"""Why the collector asks a group to leave; a worker's own reasons are signals and Ray's notices of preemption."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UploadBatch:
    """The records and events that one worker handed over at one moment."""

    number: int  # counted by the worker; the first is 1
    attempt: int | None  # None before the worker has joined its group
    samples_seen: int  # the worker's records up to here are in this batch or in earlier ones
    records: Sequence[Record]
    events: Sequence[Event]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the records as columns: pickling one record after the other costs a worker eight times as much."""
        columns = list(zip(*self.records, strict=True))
        return _batch_of, (self.number, self.attempt, self.samples_seen, columns, self.events)


def _batch_of(
    number: int, attempt: int | None, samples_seen: int, columns: Sequence[Sequence[Any]], events: Sequence[Event]
) -> UploadBatch:
    records = [Record._make(values) for values in zip(*columns, strict=True)]
    return UploadBatch(number=number, attempt=attempt, samples_seen=samples_seen, records=records, events=events)


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """What a worker sends: the batches that the collector does not have yet. Without batches, it asks for a reply."""

    sender: str  # a random id of this worker in this attempt
    rank: int
    written: int  # number of the newest batch that the worker knows to be in the run's folder
    written_to: tuple[int | None, int]  # attempt and samples_seen of that batch
    batches: Sequence[UploadBatch]
    is_awaited: bool  # whether the worker waits until everything is written, so that it can end


@dataclass(frozen=True, kw_only=True, slots=True)
class UploadReply:
    """What the collector answers to an upload."""

    taken: int  # number of the newest batch that the collector has; the worker sends later ones (again)
    written: int  # number of the newest batch in the run's folder; the worker need not keep it
    leave: LeaveReason | None  # why the group is asked to leave; None: it is not
    rest_s: float  # seconds to wait before the next upload, because many workers share the collector


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptStart:
    """What the collector tells a worker group at the start of an attempt."""

    attempt: int
    micro_batch_limit: int | None  # samples in one forward/backward; None: no micro-batch has run out of memory
