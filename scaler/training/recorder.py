"""Records on their way out: kept unresolved while the device works, resolved when they are handed over."""

from dataclasses import dataclass

from torch import Tensor

from scaler.core.noise_scale import GradientSquares
from scaler.metrics.record import Record
from scaler.training.clock import Clock, Mark
from scaler.training.gradients import StepMeasures


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
    """Buffers one worker's records. Adding one never waits for the device; draining does.

    Args:
        rank: this worker.
        attempt: the life of the worker group.
        clock: the device's.
    """

    def __init__(self, *, rank: int, attempt: int, clock: Clock) -> None:
        self._rank, self._attempt, self._clock = rank, attempt, clock
        self._pending: list[Pending] = []

    def add(self, pending: Pending) -> None:
        """Keep a step."""
        self._pending.append(pending)

    def drain(self) -> list[Record]:
        """Return what was kept, resolved, and keep nothing."""
        pending, self._pending = self._pending, []
        return [self._resolve(step) for step in pending]

    def _resolve(self, step: Pending) -> Record:
        between, measures = self._clock.between, step.measures
        data_wait = sum(between(asked, got) for asked, got in measures.data_waits)
        return Record(
            attempt=self._attempt,
            rank=self._rank,
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
