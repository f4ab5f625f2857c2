"""Confidence intervals of a mean and of a median, for the few repeats that an experiment has.

Each function says what it assumes. Where the values cannot give an interval at the level that was asked for, there is
none: for one value, for values that are all equal, and for too few values for a median.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scaler.core.student_t import two_sided_quantile
from scaler.errors import PlanError


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A value with its confidence interval.

    Args:
        value: the estimate, in the unit of what is estimated; None: the values give bounds at most.
        low: lower end of the interval; None: no bound is known.
        high: upper end; None: no bound is known.
    """

    value: float | None
    low: float | None = None
    high: float | None = None

    @property
    def has_interval(self) -> bool:
        """Whether both ends are known."""
        return self.low is not None and self.high is not None

    def holds(self, truth: float) -> bool:
        """Return whether a value is in the interval; an end that is not known excludes nothing."""
        return (self.low is None or self.low <= truth) and (self.high is None or truth <= self.high)


def mean_interval(values: Sequence[float], *, level: float) -> Estimate:
    """Return the mean and Student's interval.

        mean +- q s / sqrt(n)

    with s the standard deviation and q Student's two-sided quantile with n - 1 degrees of freedom. The values are taken
    as independent and about normally distributed.

    Args:
        values: one for each repeat, at least one, finite.
        level: of the interval, in (0, 1).

    Returns:
        No interval for one value, and for values that are all equal: equal values of a coarse measure do not show that
        there is no spread.

    Raises:
        PlanError: no values, a value that is not finite, or a level outside (0, 1).

    Sources:
        Student 1908, https://doi.org/10.1093/biomet/6.1.1.

    Example:
        >>> found = mean_interval([1.0, 2.0, 3.0], level=0.95)
        >>> found.value, round(found.low, 3), round(found.high, 3)
        (2.0, -0.484, 4.484)
        >>> mean_interval([1.0], level=0.95)
        Estimate(value=1.0, low=None, high=None)
    """
    spread = deviation(values)
    mean = math.fsum(values) / len(values)
    if not spread:
        return Estimate(value=mean)
    margin = two_sided_quantile(level, freedom=len(values) - 1) * spread / math.sqrt(len(values))
    return Estimate(value=mean, low=mean - margin, high=mean + margin)


def geometric_mean_interval(values: Sequence[float], *, level: float) -> Estimate:
    """Return the geometric mean and its interval: ``mean_interval`` of the logarithms.

    This is for values above 0 that vary by a factor, such as times, and for ratios. If the logarithms are normally
    distributed, the geometric mean is also the median.

    Args:
        values: one for each repeat, at least one, > 0.
        level: of the interval, in (0, 1).

    Raises:
        PlanError: no values, a value that is not above 0, or a level outside (0, 1).

    Example:
        >>> found = geometric_mean_interval([1.0, 2.0, 4.0], level=0.90)
        >>> round(found.value, 3), round(found.low, 3), round(found.high, 3)
        (2.0, 0.622, 6.435)
    """
    found = mean_interval([math.log(value) for value in positive(values)], level=level)
    ends = [None if end is None else math.exp(end) for end in (found.value, found.low, found.high)]
    return Estimate(value=ends[0], low=ends[1], high=ends[2])


def median_interval(values: Sequence[float], *, level: float) -> Estimate:
    """Return the median and an interval between order statistics, which assumes no distribution.

    The k-th smallest and k-th largest of n values enclose the median with a probability that depends on n and k only.
    The interval lies between the two pairs of neighbouring k whose probabilities enclose ``level``:

        (1 - w) x[k] + w x[k + 1],   w = (n - k) I / (k + (n - 2 k) I),   I = (c[k] - level) / (c[k] - c[k + 1])

    with ``c[k]`` the probability of pair k, and the same from the upper side. ``math.inf`` stands for a value that is
    only known to be larger than all others; an infinite end is None.

    Args:
        values: one for each repeat, at least one; ``math.inf`` is allowed.
        level: of the interval, in (0, 1).

    Returns:
        No interval with fewer than ``fewest_for_median(level)`` values. No value if the median is infinite.

    Raises:
        PlanError: no values, or a level outside (0, 1).

    Sources:
        Hettmansperger and Sheather 1986, https://doi.org/10.1016/0167-7152(86)90021-0.

    Example:
        >>> found = median_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0], level=0.95)
        >>> found.value, round(found.low, 2), round(found.high, 2)
        (5.5, 2.66, 8.34)
    """
    ordered = sorted(values)
    n = len(ordered)
    if not n:
        raise PlanError("An interval was asked for of no values.", "Give one value at least.")
    value = finite((ordered[(n - 1) // 2] + ordered[n // 2]) / 2)
    if n < fewest_for_median(level):
        return Estimate(value=value)
    k, inner = 1, _enclosed(n, 2)
    while inner >= level:
        k, inner = k + 1, _enclosed(n, k + 2)
    outer = _enclosed(n, k)
    share = (outer - level) / (outer - inner)
    weight = (n - k) * share / (k + (n - 2 * k) * share)
    low = _between(ordered[k - 1], ordered[k], weight)
    high = _between(ordered[n - k], ordered[n - k - 1], weight)
    return Estimate(value=value, low=finite(low), high=finite(high))


def fewest_for_median(level: float) -> int:
    """Return the number of values from which the smallest and the largest enclose the median with this probability.

    Raises:
        PlanError: a level outside (0, 1).

    Example:
        >>> [fewest_for_median(level) for level in (0.75, 0.90, 0.95)]
        [3, 5, 6]
    """
    if not 0 < level < 1:
        raise PlanError(f"level = {level:g} is not in (0, 1).", "Such as 0.95.")
    n = 2
    while _enclosed(n, 1) < level:
        n += 1
    return n


def _enclosed(n: int, k: int) -> float:
    """Return the probability that the k-th smallest and the k-th largest of n values enclose the median."""
    return 1 - sum(math.comb(n, below) for below in range(k)) / 2.0 ** (n - 1)


def _between(outer: float, inner: float, weight: float) -> float:
    return outer if outer == inner else (1 - weight) * outer + weight * inner


def harmonic_mean(values: Sequence[float]) -> float:
    """Return the harmonic mean: the mean of speeds that were measured over equal amounts of work.

    It is the whole work over the whole time, which the arithmetic mean of speeds is not.

    Args:
        values: at least one, > 0.

    Raises:
        PlanError: no values, or a value that is not above 0.

    Sources:
        Hoefler and Belli 2015, https://doi.org/10.1145/2807591.2807644, rule 3.

    Example:
        >>> harmonic_mean([100.0, 300.0])
        150.0
    """
    return len(values) / math.fsum(1 / value for value in positive(values))


def paired_differences(baseline: Mapping[int, float], candidate: Mapping[int, float]) -> tuple[float, ...]:
    """Return candidate minus baseline for each seed that both have, in the order of the seeds.

    Two runs with one seed share their initial weights and their order of samples. Their difference varies less than the
    difference of two runs with different seeds.

    Args:
        baseline: seed -> value.
        candidate: seed -> value.

    Raises:
        PlanError: no seed in common.

    Example:
        >>> paired_differences({0: 1.0, 1: 2.0, 2: 4.0}, {2: 4.5, 0: 1.5})
        (0.5, 0.5)
    """
    common = sorted(baseline.keys() & candidate.keys())
    if not common:
        raise PlanError("No seed has been run in both groups.", "Run both with the same seeds.")
    return tuple(candidate[seed] - baseline[seed] for seed in common)


def deviation(values: Sequence[float]) -> float | None:
    """Return the standard deviation with n - 1 below the line; None for one value.

    Raises:
        PlanError: no values, or a value that is not finite: a run that diverged has no mean with others.

    Example:
        >>> deviation([1.0, 3.0]) == 2**0.5, deviation([1.0])
        (True, None)
    """
    if not values:
        raise PlanError("An interval was asked for of no values.", "Give one value at least.")
    for value in values:
        if not math.isfinite(value):
            raise PlanError(
                f"value = {value:g} is not a finite number.", "Report the run as diverged; leave it out here."
            )
    if len(values) == 1:
        return None
    if min(values) == max(values):
        return 0.0
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def positive(values: Sequence[float]) -> Sequence[float]:
    """Return the values.

    Raises:
        PlanError: a value that is not a finite number above 0.
    """
    for value in values:
        if not 0 < value < math.inf:
            raise PlanError(f"value = {value:g} is not a finite number above 0.", "Leave it out.")
    return values


def finite(value: float) -> float | None:
    """Return the value; None if it is infinite or not a number."""
    return value if math.isfinite(value) else None
