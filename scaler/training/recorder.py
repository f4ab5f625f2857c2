"""Records on their way out: kept unresolved while the device works, resolved when they are handed over."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import time
from typing import Any

from torch import Tensor

from scaler.core.noise_scale import GradientSquares
from scaler.metrics.record import Record
from scaler.training.clock import Clock, Mark
from scaler.training.gradients import StepMeasures
from scaler.training.surroundings import Surroundings


@dataclass(frozen=True, kw_only=True, slots=True)
class Pending:
    """One step, with times and losses that the device may still be working on."""

    step: int
    samples_seen: int
    progress: float
    lr: float
    lr_planned: float
    previous_end: Mark  # of the step before, or of what came between
    began: Mark
    ended: Mark
    measures: StepMeasures
    grad_norm: Tensor
    peak_memory_gib: float
    squares: GradientSquares | None
    noise_scale: float | None


class Recorder:
    """One worker's records and events on their way out. Adding one never waits for the device; handing over does.

    Args:
        surroundings: where they go.
        clock: the device's.
    """

    def __init__(self, surroundings: Surroundings, clock: Clock) -> None:
        self._surroundings, self._clock = surroundings, clock
        self._pending: list[Pending] = []
        self._events: list[dict[str, Any]] = []
        self._unjudged: list[Record] = []

    def add(self, pending: Pending) -> None:
        """Keep a step."""
        self._pending.append(pending)

    def event(self, kind: str, *, samples_seen: int, **values: Any) -> None:
        """Keep something that happened to the whole group; rank 0 speaks for all."""
        if self._surroundings.rank == 0:
            where = {"attempt": self._surroundings.attempt, "samples_seen": samples_seen}
            self._events.append({"kind": kind, "time": time(), **where, **values})

    def hand_over(self, *, samples_seen: int, events: Sequence[dict[str, Any]] = ()) -> None:
        """Hand everything over that is kept, and ``events`` beside; it is all there is up to ``samples_seen``."""
        pending, self._pending = self._pending, []
        told, self._events = [*self._events, *events], []
        records = [self._resolve(step) for step in pending]
        self._unjudged += records
        self._surroundings.hand_over(records, told, samples_seen=samples_seen)

    def unjudged(self) -> list[Record]:
        """Return what was handed over since the last call: the guard of the loss has not seen it."""
        records, self._unjudged = self._unjudged, []
        return records

    def _resolve(self, step: Pending) -> Record:
        between, measures = self._clock.between, step.measures
        data_wait = sum(between(asked, got) for asked, got in measures.data_waits)
        return Record(
            attempt=self._surroundings.attempt,
            rank=self._surroundings.rank,
            step=step.step,
            samples_seen=step.samples_seen,
            progress=step.progress,
            lr=step.lr,
            lr_planned=step.lr_planned,
            samples=measures.samples,
            loss=measures.loss(),
            step_time_s=between(step.previous_end, step.ended),
            data_wait_s=data_wait,
            compute_s=between(step.began, measures.ready) - data_wait,
            sync_wait_s=between(measures.ready, measures.synced),
            grad_norm=float(step.grad_norm),
            peak_memory_gib=step.peak_memory_gib,
            grad_signal=step.squares.signal if step.squares is not None else None,
            grad_variance=step.squares.variance if step.squares is not None else None,
            noise_scale=step.noise_scale,
        )
