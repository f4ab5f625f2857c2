"""The batches that a plan comes to, and the one that a measured noise scale may lead it to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scaler.plan.phase import Phase


@dataclass(frozen=True, kw_only=True, slots=True)
class Reached:
    """A phase, and when training is in it."""

    phase: Phase
    is_measured: bool  # only if the noise scale is measured to be so large

    @property
    def when(self) -> str:
        """When, as a sentence has it after the batch; empty at the start."""
        if self.is_measured:
            return ", if the noise scale lets it grow so far,"
        return f", from sample {self.phase.start_samples} on," if self.phase.start_samples else ""

    @property
    def times(self) -> str:
        """The batch ratio as people say it."""
        return times(self.phase.batch_ratio)


def reached_phases(phases: Sequence[Phase], may_become: Phase | None) -> tuple[Reached, ...]:
    """Return every phase of a plan, and the one at the largest batch that may be measured, unless it is the start's."""
    planned = tuple(Reached(phase=phase, is_measured=False) for phase in phases)
    if may_become is None or may_become.global_batch_size == phases[0].global_batch_size:
        return planned
    return (*planned, Reached(phase=may_become, is_measured=True))


def most(reached: Sequence[Reached], amount: Callable[[Phase], float], *, least: float) -> Reached | None:
    """Return the first phase with the greatest ``amount``; None where none has ``least``, but for rounding."""
    found = max(reached, key=lambda one: amount(one.phase))
    return found if amount(found.phase) >= least * (1.0 - 1e-9) else None


def times(ratio: float) -> str:
    """Return a ratio as people say it, with at least 1 in it.

    Example:
        >>> [times(ratio) for ratio in (4.0, 1.5, 1 / 4096)]
        ['4 times', '1.5 times', '1/4096 of']
    """
    return f"{ratio:.4g} times" if ratio >= 1.0 else f"1/{1.0 / ratio:.4g} of"
