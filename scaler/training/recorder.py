"""Records on their way out: kept unresolved while the device works, resolved when they are handed over."""

from collections.abc import Callable, Sequence
from time import process_time, time
from typing import Any, Literal, NamedTuple

from torch import Tensor

from scaler.core.noise_scale import GradientSquares
from scaler.metrics.events import Event, WorkerEnded
from scaler.metrics.means import Mean
from scaler.metrics.record import COLUMNS, Merge, Record
from scaler.training.clock import Clock, Mark
from scaler.training.gradients import StepMeasures
from scaler.training.worker_context import WorkerContext

CHUNK = 64  # steps that are resolved together on a CPU: what is kept for longer, the garbage collector walks again
StandsStill = Literal["evaluation_s", "checkpoint_s"]


class Step(NamedTuple):  # a tuple is made in half a frozen dataclass's time
    """What the loop says of a step, with losses that the device may still be working on."""

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


class _Pending(NamedTuple):
    """A step and its times."""

    step: Step
    since: Mark  # the end of the step before, or of what came between
    ended: Mark
    cpu_s: float
    stood: Sequence[tuple[StandsStill, Mark, Mark]]  # before it


class Recorder:
    """One worker's records and events on their way out. Adding one never waits for the device; handing over does.

    Args:
        context: where they go.
        clock: the device's.

    Attributes:
        steps_per_record: consecutive steps that are handed over as one record, as far as they are handed over together.
    """

    def __init__(self, context: WorkerContext, clock: Clock) -> None:
        self._context, self._clock = context, clock
        self._pending: list[_Pending] = []
        self._records: list[Record] = []
        self._stood: tuple[tuple[StandsStill, Mark, Mark], ...] = ()
        self._events: list[Event] = []
        self._unjudged: list[Record] = []
        self.steps_per_record = 1
        self.begin()

    def begin(self) -> None:
        """Let the next step's time begin here."""
        self._since, self._cpu_s = self._clock.mark(), process_time()

    def add(self, step: Step) -> None:
        """Keep a step that ends here; the next one's time begins."""
        ended, cpu_s = self._clock.mark(), process_time()
        self._pending.append(_Pending(step, self._since, ended, cpu_s - self._cpu_s, self._stood))
        self._since, self._cpu_s, self._stood = ended, cpu_s, ()
        if len(self._pending) >= CHUNK and not self._clock.is_behind:
            self._resolve_pending()

    def stood_still(self, what: StandsStill) -> None:
        """Say what training stood still for since the last step or call; the next step's time begins here."""
        before = self._since
        self.begin()
        self._stood = (*self._stood, (what, before, self._since))

    def event(self, event: Event) -> None:
        """Keep an event of the whole group; only rank 0 hands it over."""
        if self._context.rank == 0:
            self._events.append(event)

    def end_attempt(self) -> None:
        """Keep what this worker stood still for after its last record: no other will tell it."""
        evaluation_s, checkpoint_s = self._standing(self._stood)
        self._events.append(
            WorkerEnded(
                time=time(),
                attempt=self._context.attempt,
                rank=self._context.rank,
                evaluation_s=evaluation_s,
                checkpoint_s=checkpoint_s,
            )
        )
        self._stood = ()

    def hand_over(self, *, samples_seen: int, events: Sequence[Event] = ()) -> None:
        """Hand everything over that is kept, and ``events`` beside; it is all there is up to ``samples_seen``."""
        self._resolve_pending()
        records, self._records = self._records, []
        kept, self._events = [*self._events, *events], []
        self._unjudged += records
        self._context.hand_over(merge_steps(records, self.steps_per_record), kept, samples_seen=samples_seen)

    def unjudged(self) -> list[Record]:
        """Return every step that was handed over since the last call: the guard of the loss has not seen it."""
        records, self._unjudged = self._unjudged, []
        return records

    def _resolve_pending(self) -> None:
        pending, self._pending = self._pending, []
        memory_gib, gpu_pct = self._clock.peak_memory_gib(), self._clock.utilization_pct()
        self._records += [self._resolve(step, memory_gib, gpu_pct) for step in pending]

    def _resolve(self, pending: _Pending, memory_gib: float, gpu_pct: float | None) -> Record:
        between, step, measures = self._clock.between, pending.step, pending.step.measures
        data_wait_s = 0.0
        for asked, got in measures.data_waits:
            data_wait_s += between(asked, got)
        evaluation_s, checkpoint_s = self._standing(pending.stood)
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
            compute_s=between(step.began, measures.ready) - data_wait_s,
            sync_wait_s=between(measures.ready, measures.synced),
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

    def _standing(self, stood: Sequence[tuple[StandsStill, Mark, Mark]]) -> tuple[float, float]:
        """The seconds of evaluations and of checkpoints."""
        if not stood:
            return 0.0, 0.0
        seconds: dict[StandsStill, float] = {"evaluation_s": 0.0, "checkpoint_s": 0.0}
        for what, start, end in stood:
            seconds[what] += self._clock.between(start, end)
        return seconds["evaluation_s"], seconds["checkpoint_s"]


def merge_steps(records: Sequence[Record], steps: int) -> Sequence[Record]:
    """Return one worker's records with ``steps`` consecutive ones as one; the last may stand for fewer.

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
