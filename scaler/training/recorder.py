"""Records and events of one worker: kept until they are handed over, about once a second."""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from time import process_time, time
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from scaler.core.noise_scale import GradientSquares
from scaler.metrics.events import Event, Recorded, WorkerEnded
from scaler.metrics.mean import Mean
from scaler.metrics.record import COLUMNS, Merge, Record
from scaler.training.clock import Clock, Mark
from scaler.training.gradients.step import StepMeasures
from scaler.training.gradients.values import RecordedValues

CHUNK = 64  # steps turned into records together on a CPU; keeping more of them costs time in the garbage collector
PauseKind = Literal["evaluation_s", "checkpoint_s"]


class StepMeasurement(NamedTuple):  # a NamedTuple is created in half the time of a frozen dataclass
    """What the loop knows about a step; the device may still be computing the tensors."""

    step: int
    samples_seen: int
    progress: float
    lr: float
    lr_planned: float
    began: Mark
    measures: StepMeasures
    grad_norm: Tensor
    squares: GradientSquares | None
    noise_scale: float | None


class _OpenStep(NamedTuple):
    """A step and the times around it."""

    step: StepMeasurement
    since: Mark  # the end of the previous step or pause
    ended: Mark
    cpu_s: float
    pauses: Sequence[tuple[PauseKind, Mark, Mark]]  # before the step


class RecordsTo(Protocol):
    """Where a worker's records and events go."""

    attempt: int

    @property
    def rank(self) -> int:
        """The worker's number in its group."""

    def hand_over(self, records: Sequence[Record], events: Sequence[Event], *, samples_seen: int) -> None:
        """Take records and events, up to ``samples_seen``."""


class Recorder:
    """Keeps one worker's records and events until they are handed over.

    Adding a step never waits for the device; handing over does.

    Args:
        context: gets the records and events.
        clock: the device's.

    Attributes:
        steps_per_record: consecutive steps that one record covers; they are always handed over together.
        values: that the training records besides the loss; a hand-over makes one event of their means.
    """

    def __init__(self, context: RecordsTo, clock: Clock) -> None:
        self._context, self._clock = context, clock
        self._pending: list[_OpenStep] = []
        self._records: list[Record] = []
        self._pauses: tuple[tuple[PauseKind, Mark, Mark], ...] = ()
        self._events: list[Event] = []
        self._unchecked: list[Record] = []
        self.values = RecordedValues()
        self.steps_per_record = 1
        self.begin()

    def begin(self) -> None:
        """Start the time of the next step now."""
        self._since, self._cpu_s = self._clock.mark(), process_time()

    def add(self, step: StepMeasurement) -> None:
        """Keep a step that ends now, and start the time of the next one."""
        ended, cpu_s = self._clock.mark(), process_time()
        self._pending.append(_OpenStep(step, self._since, ended, cpu_s - self._cpu_s, self._pauses))
        self._since, self._cpu_s, self._pauses = ended, cpu_s, ()
        if len(self._pending) >= CHUNK and not self._clock.is_behind:
            self._resolve_pending()

    def add_pause(self, what: PauseKind) -> None:
        """Count the time since the last step or pause as a pause, and start the time of the next step now."""
        before = self._since
        self.begin()
        self._pauses = (*self._pauses, (what, before, self._since))

    def event(self, event: Event) -> None:
        """Keep an event of the whole group; only rank 0 hands it over."""
        if self._context.rank == 0:
            self._events.append(event)

    def end_attempt(self) -> None:
        """Keep the pauses after this worker's last record as an event; no record will contain them."""
        evaluation_s, checkpoint_s = self._pause_times(self._pauses)
        self._events.append(
            WorkerEnded(
                time=time(),
                attempt=self._context.attempt,
                rank=self._context.rank,
                evaluation_s=evaluation_s,
                checkpoint_s=checkpoint_s,
            )
        )
        self._pauses = ()

    def hand_over(self, *, samples_seen: int, events: Sequence[Event] = ()) -> None:
        """Hand over everything that is kept, and ``events``: all records and events up to ``samples_seen``."""
        self._resolve_pending()
        records, self._records = self._records, []
        events, self._events = [*self._events, *self._recorded(samples_seen), *events], []
        self._unchecked += records
        self._context.hand_over(merge_steps(records, self.steps_per_record), events, samples_seen=samples_seen)

    def unchecked_records(self) -> list[Record]:
        """Return every step handed over since the last call; the divergence guard has not seen them yet."""
        records, self._unchecked = self._unchecked, []
        return records

    def _recorded(self, samples_seen: int) -> list[Event]:
        """Return the event of the values that were recorded, if there are any."""
        means = self.values.take()
        if means is None:
            return []
        about: dict[str, Any] = {"time": time(), "attempt": self._context.attempt, "rank": self._context.rank}
        return [Recorded(**about, samples_seen=samples_seen, values=means.values, weights=means.weights)]

    def _resolve_pending(self) -> None:
        pending, self._pending = self._pending, []
        if self._clock.is_behind:
            pending = _on_cpu(pending)
        memory_gib, gpu_pct = self._clock.peak_memory_gib(), self._clock.utilization_pct()
        self._records += [self._resolve(step, memory_gib, gpu_pct) for step in pending]

    def _resolve(self, pending: _OpenStep, memory_gib: float, gpu_pct: float | None) -> Record:
        between, step, measures = self._clock.between, pending.step, pending.step.measures
        data_wait_s = 0.0
        for asked, got in measures.data_waits:
            data_wait_s += between(asked, got)
        early_s = sum(between(*wait) for wait in measures.sync_waits)
        evaluation_s, checkpoint_s = self._pause_times(pending.pauses)
        loss, weight = measures.loss()
        return Record(
            attempt=self._context.attempt,
            rank=self._context.rank,
            step=step.step,
            samples_seen=step.samples_seen,
            progress=step.progress,
            lr=step.lr,
            lr_planned=step.lr_planned,
            samples=measures.samples,
            loss=loss,
            step_time_s=between(pending.since, pending.ended),
            data_wait_s=data_wait_s,
            compute_s=between(step.began, measures.ready) - data_wait_s - early_s,
            sync_wait_s=between(measures.ready, measures.synced) + early_s,
            grad_norm=float(step.grad_norm),
            peak_memory_gib=memory_gib,
            grad_signal=step.squares.signal if step.squares is not None else None,
            grad_variance=step.squares.variance if step.squares is not None else None,
            noise_scale=step.noise_scale,
            evaluation_s=evaluation_s,
            checkpoint_s=checkpoint_s,
            cpu_s=pending.cpu_s,
            gpu_pct=gpu_pct,
            weight=weight,
        )

    def _pause_times(self, pauses: Sequence[tuple[PauseKind, Mark, Mark]]) -> tuple[float, float]:
        """Return the seconds of evaluations and of checkpoints."""
        if not pauses:
            return 0.0, 0.0
        seconds: dict[PauseKind, float] = {"evaluation_s": 0.0, "checkpoint_s": 0.0}
        for what, start, end in pauses:
            seconds[what] += self._clock.between(start, end)
        return seconds["evaluation_s"], seconds["checkpoint_s"]


def _on_cpu(pending: Sequence[_OpenStep]) -> list[_OpenStep]:
    """Return steps with their losses, weights and norms on the CPU.

    Numbers of one dtype are copied together, because each copy from a GPU takes as long as many numbers.
    """
    together: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for step in pending:
        for part in (step.step.grad_norm, *chain.from_iterable(step.step.measures.losses)):
            if isinstance(part, Tensor):
                together.setdefault((part.device, part.dtype), []).append(part)
    copies: dict[int, Tensor] = {}
    for tensors in together.values():
        copied = torch.stack([tensor.reshape(()) for tensor in tensors]).cpu().unbind()
        copies |= zip(map(id, tensors), copied, strict=True)
    return [_with_copies(step, copies) for step in pending]


def _with_copies(pending: _OpenStep, copies: Mapping[int, Tensor]) -> _OpenStep:
    step = pending.step
    losses = tuple((copies[id(loss)], copies.get(id(weight), weight)) for loss, weight in step.measures.losses)
    step = step._replace(grad_norm=copies[id(step.grad_norm)], measures=step.measures._replace(losses=losses))
    return pending._replace(step=step)


def merge_steps(records: Sequence[Record], steps: int) -> Sequence[Record]:
    """Return one worker's records, with each ``steps`` consecutive ones merged into one; the last may cover fewer.

    Args:
        records: in the order of their steps.
        steps: at least 1.
    """
    if steps == 1:
        return records
    return [_merged(records[start : start + steps]) for start in range(0, len(records), steps)]


_BY_MERGE = {merge: [i for i, column in enumerate(COLUMNS) if column.merge is merge] for merge in Merge}
_LOSS, _SAMPLES, _WEIGHT = (Record._fields.index(name) for name in ("loss", "samples", "weight"))


def _merged(records: Sequence[Record]) -> Record:
    """Return one record of consecutive steps, by the rule of each column."""
    columns: list[Sequence[Any]] = list(zip(*records, strict=True))
    values = list(records[0])
    for index in _BY_MERGE[Merge.SUM]:
        values[index] = _over_known(sum, columns[index])
    for index in _BY_MERGE[Merge.MAX]:
        values[index] = _over_known(max, columns[index])
    loss = Mean()
    for each, samples, weight in zip(columns[_LOSS], columns[_SAMPLES], columns[_WEIGHT], strict=True):
        loss.add(each, samples if weight is None else weight)
    for index in _BY_MERGE[Merge.MEAN]:
        values[index] = loss.value
    for index in _BY_MERGE[Merge.WEIGHT]:
        values[index] = loss.weight if any(weight is not None for weight in columns[index]) else None
    at = _BY_MERGE[Merge.MEASURED]
    rows = zip(*(columns[index] for index in at), strict=True)
    measured = next((row for row in rows if any(value is not None for value in row)), [None] * len(at))
    for index, value in zip(at, measured, strict=True):
        values[index] = value
    return Record._make(values)


def _over_known(function: Callable[[Sequence[Any]], Any], column: Sequence[Any]) -> Any:
    if None not in column:
        return function(column)
    known = [value for value in column if value is not None]
    return function(known) if known else None
