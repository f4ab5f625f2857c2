"""What a worker and the collector say to each other. Nothing here loads more than the standard library."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scaler.metrics.record import Record

Event = Mapping[str, Any]
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Parcel:
    """What a worker sends: the batches that the collector has not taken yet; none to ask how things stand."""

    sender: str  # one life of one worker
    rank: int
    written: int  # the newest batch that the worker knows to be in the folder
    written_to: tuple[int | None, int]  # that batch's attempt and samples_seen
    batches: Sequence[Batch]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the collector says to a parcel."""

    taken: int  # the newest batch that it has; what follows is to be sent (again)
    written: int  # the newest batch that is in the folder; no need to keep it
    leave: Why | None  # what the group is asked to leave for


@dataclass(frozen=True, kw_only=True, slots=True)
class Beginning:
    """What a worker group has to know when its life begins."""

    attempt: int
    micro_batch_limit: int | None  # samples in one forward/backward; None: nothing has run out of memory
