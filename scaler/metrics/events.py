"""The events of a run: what happened to it and when, one row of ``events.jsonl`` each.

Each kind of event is one class; its fields, their units and their meaning are defined only here.
``parse_event`` reads a row of the file, ``to_dict`` returns the row to write.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from types import NoneType, UnionType
from typing import Any, ClassVar, TypeVar, get_args, get_origin, get_type_hints

# What a worker is doing: the values of ``WorkerHung.doing``. A worker that builds its recipe or joins its group
# has other texts.
STARTING = "starting"
LOADING = "waiting for its samples"
COMPUTING = "computing"
WAITING = "waiting for the other workers"
EVALUATING = "evaluating"
SAVING = "saving a checkpoint"

OWN_LOOP = "loop"
"""The ``data_order`` of an attempt whose loop is one's own: it decides how many samples each step has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseEvent:
    """The fields of every event."""

    kind: ClassVar[str]

    time: float  # when it happened: seconds since 1970-01-01 UTC, by the clock of the node that reports it
    attempt: int | None  # the attempt that it belongs to; the first is 0; None: before the first, or between two
    extra: Mapping[str, Any] = field(default_factory=dict)  # fields that a newer scaler wrote; they are kept


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptEvent(BaseEvent):
    """The fields of each event of a running attempt; rank 0 reports these events for the whole worker group."""

    attempt: int  # the attempt it belongs to; the first is 0
    samples_seen: int  # samples in the weights when it happened, over all workers


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerStarted(BaseEvent):
    """A worker has joined its group and knows its checkpoint; its recipe is not built yet."""

    kind: ClassVar[str] = "worker_started"

    attempt: int  # the attempt that starts; the first is 0
    rank: int  # rank of the worker, in [0, world_size)
    node: str  # host name of its node
    pid: int  # process id on that node
    world_size: int  # workers in the group
    start_samples: int  # samples in the weights at the start, over all workers: the checkpoint's; 0 without one
    device: str | None  # "cpu", or the name that torch has for the GPU
    memory_limit_gib: float | None  # memory of the GPU; without a GPU, of the machine, which its workers share
    versions: Mapping[str, str] | None = None  # versions of python, ray, torch and scaler; None: not recorded
    differences: Sequence[str] | None = None  # sentences on versions that differ from other processes; None: none
    round_trip_s: float | None = None  # to the node of rank 0; None: on that node, or another worker measured it
    link_mib_per_s: float | None = None  # MiB/s of 256 KiB sent to the node of rank 0 and back; None: as above


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptStarted(AttemptEvent):
    """The worker group takes its first step next. The model is built, and the start was checked."""

    kind: ClassVar[str] = "attempt_started"

    start_samples: int  # samples in the weights at the start, over all workers; the same as samples_seen
    world_size: int  # workers in the group
    global_batch_size: int  # samples in the first step, over all workers
    per_worker_batch_size: int | None  # samples in one forward/backward of a worker, in the first step
    peak_lr: float  # peak learning rate at that global batch size
    ramp: Mapping[str, Any] | None  # rewarmup after a resize: start and stop in samples, lr factor at start; None: none
    flops_per_sample: float | None  # FLOPs of a sample's forward and backward; None: the recipe does not say
    # stream, ranges or shards, for train_data used in their own order; sampler: the recipe's; loop: that of a loop of
    # one's own; None: scaler's
    data_order: str | None = None
    data_parallel_size: int | None = None  # workers with samples of their own; None: an older scaler wrote it, all
    mesh: Mapping[str, int] | None = None  # workers in each dimension, by name; None: as above, copies only


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerEnded(BaseEvent):
    """A worker has trained to the end of its attempt."""

    kind: ClassVar[str] = "worker_ended"

    attempt: int  # the attempt that ends; the first is 0
    rank: int  # rank of the worker
    evaluation_s: float  # seconds in evaluations after its last record
    checkpoint_s: float  # seconds that training stood still for checkpoints after its last record


@dataclass(frozen=True, kw_only=True, slots=True)
class TriedOut(AttemptEvent):
    """The loss and the evaluation were tried on a few samples before the first step."""

    kind: ClassVar[str] = "tried_out"

    seconds: float  # duration in seconds
    loss_not_checked: str | None  # why the loss could not be checked to be a mean over samples; None: it was checked


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated(AttemptEvent):
    """The model was evaluated on all of eval_data."""

    kind: ClassVar[str] = "evaluated"

    values: Mapping[str, float | None]  # value of each metric, over all of eval_data; None: it was not finite
    seconds: float  # duration in seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded(AttemptEvent):
    """Values besides the loss that one worker has recorded since its event before; each worker has its own events."""

    kind: ClassVar[str] = "recorded"

    rank: int  # of the worker
    values: Mapping[str, float | None]  # mean by weight over the worker's steps; None: it was not finite
    weights: Mapping[str, float]  # sum of the weights, in samples unless others were given


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpointed(AttemptEvent):
    """A checkpoint is written and can be resumed from."""

    kind: ClassVar[str] = "checkpointed"

    bytes: int  # size of its files
    best: bool  # whether its evaluation is the best so far; False where the job does not keep the best
    seconds: float  # seconds from its start until it was written; training continues meanwhile
    stall_s: float  # part of these seconds in which training stood still; the longest of all workers


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointFailed(AttemptEvent):
    """A checkpoint could not be written, or could not be read back; training continues."""

    kind: ClassVar[str] = "checkpoint_failed"

    reason: str  # the error


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointPassedOver(AttemptEvent):
    """A checkpoint that cannot be used was set aside; ``samples_seen`` is that of the checkpoint."""

    kind: ClassVar[str] = "checkpoint_passed_over"

    reason: str  # what is wrong with it


@dataclass(frozen=True, kw_only=True, slots=True)
class LrLowered(AttemptEvent):
    """The plateau controller lowered the learning rate."""

    kind: ClassVar[str] = "lr_lowered"

    by: str  # the controller: "plateau"
    factor: float  # what the planned learning rate is multiplied by from here on, in (0, 1)
    reason: str  # the evaluations that led to it


@dataclass(frozen=True, kw_only=True, slots=True)
class Diverged(AttemptEvent):
    """The divergence guard found that the training diverged."""

    kind: ClassVar[str] = "diverged"

    reason: str  # the losses that led to it
    goes_back: bool  # True: training returns to the newest checkpoint; False: the run fails


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchGrown(AttemptEvent):
    """The global batch grew with the gradient noise."""

    kind: ClassVar[str] = "batch_grown"

    global_batch_size: int  # samples a step from here on, over all workers
    peak_lr: float  # peak learning rate at that global batch size


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatchHalved(AttemptEvent):
    """A worker ran out of memory in a step; all workers continue with smaller micro-batches."""

    kind: ClassVar[str] = "micro_batch_halved"

    per_worker_batch_size: int  # most samples in one forward/backward from here on


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordsThinned(AttemptEvent):
    """From here on, one record stands for several steps."""

    kind: ClassVar[str] = "records_thinned"

    steps: int  # optimizer steps that one record stands for from here on, at most
    reason: str  # why one record stands for several steps


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaveRequested(BaseEvent):
    """The workers were asked to save a checkpoint and leave."""

    kind: ClassVar[str] = "leave_requested"

    why: str  # "stop", "resize", "preemption" (a node will be taken away) or "sigterm"
    detail: str  # who or what asked, such as "2 -> 3 workers" or "rank 1"; may be empty


@dataclass(frozen=True, kw_only=True, slots=True)
class RanOutOfMemory(BaseEvent):
    """A worker ran out of memory; the group is started again with half the micro-batch."""

    kind: ClassVar[str] = "out_of_memory"

    rank: int  # rank of the worker
    per_worker_batch_size: int  # samples in the forward/backward that did not fit


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerFailed(BaseEvent):
    """A worker raised an exception."""

    kind: ClassVar[str] = "worker_failed"

    rank: int  # rank of the worker
    error: str  # name of the exception's class
    problem: str  # its message
    remedy: str  # what to do about it; empty for an exception that is not scaler's
    traceback: str  # its traceback; empty for an exception of scaler's
    by_peer: bool  # True: it failed only because another worker of its group was gone
    node: str | None = None  # host name of its node; None: on an embedded cluster


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerHung(BaseEvent):
    """A worker did one thing for longer than failures.hang_timeout_s, and its process was ended."""

    kind: ClassVar[str] = "worker_hung"

    rank: int  # rank of the worker
    seconds: float | None  # seconds that it did this; None: not known
    doing: str  # what it was doing, such as "computing" or "waiting for the other workers"
    where: str  # where its code was, as "file:line in function"; may be empty


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupEnded(BaseEvent):
    """Ray Train noticed that the worker group ended before the training did."""

    kind: ClassVar[str] = "group_ended"

    cause: str  # "lost": workers died; "yielded": they saved and left so that the group can be started again
    ranks: Sequence[int]  # the workers that died, or that left first; empty: not known
    message: str  # what happened to these workers, such as "its node died"
    twice_at: int | None = None  # samples seen where two groups in a row lost a worker, which ends the run


@dataclass(frozen=True, kw_only=True, slots=True)
class Resumed(BaseEvent):
    """The run was resumed with ``scaler resume`` or ``scaler.resume``."""

    kind: ClassVar[str] = "resumed"

    attempt: None = None  # always None: this event is between two attempts
    from_samples: int | None  # samples in the weights of the checkpoint to resume from; None: no checkpoint
    workers: int  # workers that the resumed run starts with
    changes: Sequence[Sequence[str]]  # changes of the job: [key, old value, new value] each
    idle_s: float  # seconds since the run was last known to be active
    driver_seen_at: float | None = None  # last heartbeat of the driver, if it was killed; None: it was not


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackingFailed(BaseEvent):
    """A tracker (MLflow or Weights & Biases) failed for the first time; it is tried again."""

    kind: ClassVar[str] = "tracking_failed"

    sink: str  # "mlflow" or "wandb"
    reason: str  # the error


@dataclass(frozen=True, kw_only=True, slots=True)
class UnknownEvent:
    """An event of a kind that this version does not know, kept as it was written."""

    kind: str
    time: float | None  # seconds since 1970-01-01 UTC; None: the row has no such number
    attempt: int | None  # None: the row has no such number
    row: Mapping[str, Any]  # the whole row of the file


Event = (
    AttemptStarted
    | BatchGrown
    | Checkpointed
    | CheckpointFailed
    | CheckpointPassedOver
    | Diverged
    | Evaluated
    | GroupEnded
    | LeaveRequested
    | LrLowered
    | MicroBatchHalved
    | RanOutOfMemory
    | Recorded
    | RecordsThinned
    | Resumed
    | TrackingFailed
    | TriedOut
    | UnknownEvent
    | WorkerEnded
    | WorkerFailed
    | WorkerHung
    | WorkerStarted
)

KINDS: Mapping[str, type[BaseEvent]] = {each.kind: each for each in get_args(Event) if each is not UnknownEvent}
"""The class of each kind of event."""

T = TypeVar("T")


def data_order(events: Sequence[Event]) -> str | None:
    """Return the ``data_order`` of the newest attempt; None: scaler's order."""
    starts = of_type(events, AttemptStarted)
    return starts[-1].data_order if starts else None


def of_type(events: Sequence[Event], kind: type[T]) -> list[T]:
    """Return the events of one class, in order."""
    return [event for event in events if isinstance(event, kind)]


def parse_event(row: Mapping[str, Any]) -> Event:
    """Return the event of one row of ``events.jsonl``.

    A kind that is not known becomes an ``UnknownEvent``; a field that is not known is kept in ``extra``.

    Raises:
        ValueError: the row has no kind, or its kind lacks a field, or a field has another type.

    Example:
        >>> parse_event({"kind": "checkpoint_failed", "time": 5.0, "attempt": 0, "samples_seen": 64, "reason": "full"})
        CheckpointFailed(time=5.0, attempt=0, extra={}, samples_seen=64, reason='full')
    """
    kind = row.get("kind")
    if not isinstance(kind, str):
        raise ValueError("the event has no kind")
    known = KINDS.get(kind)
    if known is None:
        time, attempt = row.get("time"), row.get("attempt")
        return UnknownEvent(
            kind=kind,
            time=time if _fits(time, float) else None,
            attempt=attempt if _fits(attempt, int) else None,
            row=dict(row),
        )
    hints = _hints(kind)
    values = {name: row[name] for name in hints if name in row}
    for name, value in values.items():
        if not _fits(value, hints[name]):
            raise ValueError(f"{kind}.{name} = {value!r} is not {hints[name]}")
    extra = {name: value for name, value in row.items() if name not in hints and name != "kind"}
    try:
        return known(**values, extra=extra)  # type: ignore[return-value]
    except TypeError as error:
        raise ValueError(f"{kind} lacks a field: {error}") from None


def to_dict(event: Event) -> dict[str, Any]:
    """Return the row of ``events.jsonl`` for an event. A field that is optional and None is left out.

    Example:
        >>> to_dict(GroupEnded(time=5.0, attempt=0, cause="lost", ranks=[1], message="its node died"))
        {'kind': 'group_ended', 'time': 5.0, 'attempt': 0, 'cause': 'lost', 'ranks': [1], 'message': 'its node died'}
    """
    if isinstance(event, UnknownEvent):
        return dict(event.row)
    row = {"kind": event.kind}
    for each in fields(event):
        value = getattr(event, each.name)
        if each.name != "extra" and (value is not None or each.default is not None):
            row[each.name] = value
    return {**row, **event.extra}


def with_texts(event: Event, change: Callable[[str], str]) -> Event:
    """Return a copy of an event with ``change`` applied to each text field, for example to mask secrets."""

    def changed(values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: change(value) if isinstance(value, str) else value for name, value in values.items()}

    if isinstance(event, UnknownEvent):
        return replace(event, row=changed(event.row))
    values = changed({each.name: getattr(event, each.name) for each in fields(event)})
    return replace(event, **{**values, "extra": changed(event.extra)})


@cache
def _hints(kind: str) -> dict[str, Any]:
    """Return the type of each field of a kind, as in the file."""
    hints = get_type_hints(KINDS[kind])
    return {each.name: hints[each.name] for each in fields(KINDS[kind]) if each.name != "extra"}


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a JSON value has a field's type; a whole number counts as a float, too."""
    origin = get_origin(hint)
    if hint is Any:
        return True
    if origin is UnionType:
        return any(_fits(value, each) for each in get_args(hint))
    if origin is Mapping:
        return isinstance(value, Mapping) and all(_fits(each, get_args(hint)[1]) for each in value.values())
    if origin is Sequence:
        return isinstance(value, list | tuple) and all(_fits(each, get_args(hint)[0]) for each in value)
    if hint is NoneType:
        return value is None
    return isinstance(value, int | float if hint is float else hint) and (hint is bool or not isinstance(value, bool))
