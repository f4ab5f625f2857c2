"""A loss of some samples, of the same given twice, and in parts: what a mean over samples does not change."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import NamedTuple

from scaler.errors import RecipeError


class Value(NamedTuple):
    """A loss of a batch: a mean, or a sum with its weight."""

    value: float
    weight: float | None

    @property
    def mean(self) -> float:
        """The mean; nan where the weight is 0."""
        if self.weight is None:
            return self.value
        return self.value / self.weight if self.weight else float("nan")


@dataclass(frozen=True, kw_only=True, slots=True)
class LossComparison:
    """The loss of a batch in three ways. ``(sum, weight)`` counts as its quotient.

    Args:
        samples: in the batch.
        whole: its loss.
        twice: the loss of the batch given twice.
        parts: the losses of its parts, put together as a step puts together those of workers and micro-batches.
        part_size: samples in a part, at most.
        is_weighted: whether the loss returns ``(sum, weight)``.
        tolerance: the relative difference that counts as none.
    """

    samples: int
    whole: float
    twice: float
    parts: float
    part_size: int
    is_weighted: bool
    tolerance: float

    @property
    def largest(self) -> float:
        """What differences are relative to."""
        return max(abs(value) for value in (self.whole, self.twice, self.parts, 0.0) if isfinite(value))

    @property
    def difference(self) -> float:
        """The larger difference to the whole; infinite where one is not a number."""
        differences = [abs(self.twice - self.whole), abs(self.parts - self.whole)]
        return max(difference if isfinite(difference) else inf for difference in differences)

    @property
    def twice_differs(self) -> bool:
        """Whether samples that are given twice change the loss."""
        return not abs(self.twice - self.whole) <= self.tolerance * self.largest

    @property
    def parts_differ(self) -> bool:
        """Whether the parts of a batch give another loss than the whole."""
        return not abs(self.parts - self.whole) <= self.tolerance * self.largest

    @property
    def is_mean(self) -> bool:
        """Whether it is as a mean over samples is."""
        return not self.twice_differs and not self.parts_differ

    @property
    def is_sum(self) -> bool:
        """Whether it is as a sum over samples is: in proportion to their number."""
        near = 0.05 * self.largest
        share = self.part_size / self.samples  # a mean of the parts' sums
        return (
            not self.is_weighted
            and abs(self.twice - 2 * self.whole) < near
            and abs(self.parts - share * self.whole) < near
        )


def measured(whole: Value, twice: Value, parts: Sequence[tuple[Value, int]], *, tolerance: float) -> LossComparison:
    """Put the losses of a batch and its parts together.

    Args:
        whole: of the batch.
        twice: of the batch given twice.
        parts: of each part, with its samples.
        tolerance: the relative difference that counts as none.
    """
    samples = sum(size for _, size in parts)
    if whole.weight is None:
        together = sum(part.value * size for part, size in parts) / samples
    else:
        together = Value(sum(part.value for part, _ in parts), sum(part.weight or 0.0 for part, _ in parts)).mean
    return LossComparison(
        samples=samples,
        whole=whole.mean,
        twice=twice.mean,
        parts=together,
        part_size=max(size for _, size in parts),
        is_weighted=whole.weight is not None,
        tolerance=tolerance,
    )


ACCEPT = (
    "To train with it all the same, on another objective for each number of workers: "
    'scaler.Recipe(loss_over="micro_batch").'
)
COMPARES = 'compare those of all workers: scaler.all_gather, and scaler.Recipe(loss_over="global_batch").'


def refusal(found: LossComparison) -> RecipeError:
    """Return what to say of a loss that is not a mean over samples, with what to write instead."""
    numbers = f"{found.samples} samples give {found.whole:.4g}, "
    of_parts = f"in parts of {found.part_size} together {found.parts:.4g}"
    numbers += f"the same given twice {found.twice:.4g}" if found.twice_differs else of_parts
    problem = f"loss(model, batch) is not a mean over the batch's samples: {numbers}."
    if found.is_weighted:
        problem = f"loss(model, batch) returns (sum, weight), and sum / weight depends on the batch: {numbers}."
        remedy = f"The sum and its weight must be over the same samples.\nIf it compares samples, {COMPARES}"
    elif found.is_sum:
        remedy = "It is a sum. Return (sum, weight), with the number of samples (or of tokens) as weight; or the mean."
    elif found.twice_differs:
        remedy = f"If it compares samples, {COMPARES}\nIf it adds them up, return (sum, weight), or the mean."
    else:
        remedy = (
            "If it weighs samples or tokens (cross_entropy with weight or ignore_index), return (sum, weight).\n"
            f"If it compares samples, or is a root or a ratio over them, {COMPARES}\n"
            "If collate pads samples to the longest of a batch, mask what it adds."
        )
    return RecipeError(problem, f"{remedy}\n{ACCEPT}")
