"""Compare three losses of the same samples: of the batch, of the batch given twice, and of its parts.

A mean over samples is the same in all three ways.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite, nan, sqrt
from statistics import fmean, variance
from typing import NamedTuple

from scaler.errors import RecipeError
from scaler.metrics.mean import Mean


class LossValue(NamedTuple):
    """The loss of a batch: a mean, or a sum with its weight; and other terms that are added to it."""

    value: float
    weight: float | None
    others: "tuple[LossValue, ...]" = ()

    @property
    def terms(self) -> "tuple[LossValue, ...]":
        """All terms."""
        return (self, *self.others)

    @property
    def mean(self) -> float:
        """The mean; nan if a weight is 0."""
        return sum_of_means([mean_of([(term, 1)]) for term in self.terms])


@dataclass(frozen=True, kw_only=True, slots=True)
class LossComparison:
    """The loss of a batch, computed in three ways. ``(sum, weight)`` counts as its quotient.

    Args:
        samples: in the batch.
        whole: its loss.
        twice: the loss of the batch given twice.
        parts: the losses of its parts, combined as a step combines those of workers and micro-batches.
        part_size: samples in the largest part.
        is_weighted: whether the loss returns ``(sum, weight)``.
        tolerance: the relative difference that counts as equal.
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
        """The largest finite absolute value; differences are relative to it."""
        return max(abs(value) for value in (self.whole, self.twice, self.parts, 0.0) if isfinite(value))

    @property
    def difference(self) -> float:
        """The larger difference to the whole; infinite if one is not a number."""
        differences = [abs(self.twice - self.whole), abs(self.parts - self.whole)]
        return max(difference if isfinite(difference) else inf for difference in differences)

    @property
    def twice_differs(self) -> bool:
        """Whether samples that are given twice change the loss."""
        return not abs(self.twice - self.whole) <= self.tolerance * self.largest

    @property
    def parts_differ(self) -> bool:
        """Whether the parts of a batch have another loss than the whole."""
        return not abs(self.parts - self.whole) <= self.tolerance * self.largest

    @property
    def is_mean(self) -> bool:
        """Whether the loss behaves as a mean over samples."""
        return not self.twice_differs and not self.parts_differ

    @property
    def is_sum(self) -> bool:
        """Whether the loss behaves as a sum over samples: proportional to their number."""
        near = 0.05 * self.largest
        share = self.part_size / self.samples  # the parts are combined as a mean of their sums
        return (
            not self.is_weighted
            and abs(self.twice - 2 * self.whole) < near
            and abs(self.parts - share * self.whole) < near
        )


def mean_of(parts: Sequence[tuple[LossValue, int]]) -> Mean:
    """Return the mean of one term over parts of a batch, each with its number of samples."""
    mean = Mean()
    for term, size in parts:
        if term.weight is None:
            mean.add(term.value, size)
        else:
            mean.add_sum(term.value, term.weight)
    return mean


def sum_of_means(means: Sequence[Mean]) -> float:
    """Return the sum of the means of terms; nan if one has the weight 0."""
    return sum(nan if mean.value is None else mean.value for mean in means)


def compare_losses(
    whole: LossValue, twice: LossValue, parts: Sequence[tuple[LossValue, int]], *, tolerance: float
) -> LossComparison:
    """Return the comparison of a batch's losses.

    Args:
        whole: of the batch.
        twice: of the batch given twice.
        parts: of each part, with its samples.
        tolerance: the relative difference that counts as equal.
    """
    together = [mean_of([(part.terms[place], size) for part, size in parts]) for place in range(len(whole.terms))]
    return LossComparison(
        samples=sum(size for _, size in parts),
        whole=whole.mean,
        twice=twice.mean,
        parts=sum_of_means(together),
        part_size=max(size for _, size in parts),
        is_weighted=any(term.weight is not None for term in whole.terms),
        tolerance=tolerance,
    )


def mean_comparison(runs: Sequence[LossComparison], *, tolerance: float) -> LossComparison:
    """Return the comparison of means over several runs with other random numbers.

    Args:
        runs: of the same samples.
        tolerance: the relative difference that counts as equal.
    """
    return LossComparison(
        samples=runs[0].samples,
        whole=fmean(run.whole for run in runs),
        twice=fmean(run.twice for run in runs),
        parts=fmean(run.parts for run in runs),
        part_size=runs[0].part_size,
        is_weighted=runs[0].is_weighted,
        tolerance=tolerance,
    )


def standard_errors(runs: Sequence[LossComparison], which: str) -> float:
    """Return by how many standard errors the mean of one value differs from the mean of the whole."""
    wholes, others = [run.whole for run in runs], [getattr(run, which) for run in runs]
    error = sqrt((variance(wholes) + variance(others)) / len(runs))
    return abs(fmean(others) - fmean(wholes)) / error if error else 0.0


ACCEPT = (
    "To train with it anyway, on an objective that changes with the number of workers: "
    'scaler.Recipe(loss_over="micro_batch").'
)
COMPARES = 'gather the samples of all workers: scaler.all_gather, and scaler.Recipe(loss_over="global_batch").'


def not_a_mean_error(found: LossComparison) -> RecipeError:
    """Return the error for a loss that is not a mean over samples, with what to write instead."""
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
