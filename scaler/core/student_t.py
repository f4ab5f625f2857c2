"""Student's t: confidence intervals of differences of means, for a few repeats."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

from scaler.errors import PlanError

_HALVINGS = 200  # of the interval around the quantile: more than the digits of a float
_TERMS = 10_000  # at most, of the continued fraction; it takes about sqrt(freedom)
_TINY = 1e-300


@dataclass(frozen=True, kw_only=True, slots=True)
class MeanDifference:
    """A difference of two means and its confidence interval."""

    difference: float  # the second mean minus the first
    margin: float  # half the interval's length
    known_margin: float  # the same if the standard deviations were known exactly
    freedom: float  # degrees of freedom

    @property
    def is_beyond_noise(self) -> bool:
        """Whether 0 is outside the interval."""
        return abs(self.difference) > self.margin

    @property
    def has_too_few_values(self) -> bool:
        """Whether 0 is in the interval only because the standard deviations are estimated from few values."""
        return self.known_margin < abs(self.difference) <= self.margin


def compare_means(first: Sequence[float], second: Sequence[float], *, level: float) -> MeanDifference | None:
    """Return the difference of the means of two groups, with its interval; None if no group shows a spread.

        margin = q sqrt(v1 + v2),  v = s^2 / n,  freedom = (v1 + v2)^2 / (v1^2 / (n1 - 1) + v2^2 / (n2 - 1))

    with s the standard deviation and n the number of values of a group, and q Student's two-sided quantile. The groups
    may have different spreads (Welch). A group of one value has no estimate of its spread, and gets that of the other
    group: ``margin = q s sqrt(1 / n1 + 1 / n2)`` with the other group's ``n - 1`` degrees of freedom. Values are taken
    as independent and about normally distributed.

    Args:
        first: one value for each repeat of the first group, at least one.
        second: the same for the second group.
        level: of the interval, in (0, 1).

    Returns:
        None if no group has two values, or if the values within each group are equal: equal values of a coarse measure
        do not show that there is no spread.

    Sources:
        Welch 1947, https://doi.org/10.1093/biomet/34.1-2.28; Satterthwaite 1946, https://doi.org/10.2307/3002019.

    Example:
        >>> found = compare_means([1.0, 2.0, 3.0], [5.0, 6.0, 7.0], level=0.95)
        >>> found.difference, round(found.margin, 3), found.freedom, found.is_beyond_noise
        (4.0, 2.267, 4.0, True)
    """
    variances = [_variance(values) for values in (first, second)]
    known = [variance for variance in variances if variance is not None]
    if not known or not any(known):
        return None
    difference = math.fsum(second) / len(second) - math.fsum(first) / len(first)
    if len(known) == 1:
        freedom = float(max(len(first), len(second)) - 1)
        error = math.sqrt(known[0] * (1 / len(first) + 1 / len(second)))
    else:
        parts = [known[0] / len(first), known[1] / len(second)]
        error = math.sqrt(sum(parts))
        shares = [part / sum(parts) for part in parts]
        freedom = 1 / (shares[0] ** 2 / (len(first) - 1) + shares[1] ** 2 / (len(second) - 1))
    return MeanDifference(
        difference=difference,
        margin=two_sided_quantile(level, freedom=freedom) * error,
        known_margin=NormalDist().inv_cdf((1 + level) / 2) * error,
        freedom=freedom,
    )


def _variance(values: Sequence[float]) -> float | None:
    """Return the unbiased variance; None for a single value."""
    if len(values) < 2:
        return None
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


@lru_cache(maxsize=256)  # a test of many groups and a simulation ask for few different ones, and each takes 0.8 ms
def two_sided_quantile(level: float, *, freedom: float) -> float:
    """Return t with ``P(-t < T < t) = level`` for Student's T.

        P(|T| > t) = I_x(freedom / 2, 1 / 2)  at  x = freedom / (freedom + t^2)

    with I the regularised incomplete beta function, which is inverted by bisection.

    Args:
        level: in (0, 1).
        freedom: degrees of freedom, >= 1, not necessarily whole.

    Raises:
        PlanError: a value outside its range.

    Sources:
        https://dlmf.nist.gov/8.17 (8.17.22, the continued fraction).

    Example:
        >>> [round(two_sided_quantile(0.95, freedom=n), 3) for n in (1, 2, 10, 1e6)]
        [12.706, 4.303, 2.228, 1.96]
    """
    if not 0 < level < 1:
        raise PlanError(f"level = {level:g} is not in (0, 1).", "Such as 0.95.")
    if not 1 <= freedom < math.inf:
        raise PlanError(f"freedom = {freedom:g} is not a number of at least 1.", "Use two values or more.")
    low, high = 0.0, 1.0
    while two_sided_chance(high, freedom) > 1 - level:
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if two_sided_chance(middle, freedom) > 1 - level:
            low = middle
        else:
            high = middle
    return high


def two_sided_chance(t: float, freedom: float) -> float:
    """Return ``P(|T| > |t|)`` for Student's T: the two-sided p-value of ``t``.

    Args:
        t: a finite number.
        freedom: degrees of freedom, >= 1, not necessarily whole.

    Example:
        >>> [round(two_sided_chance(t, 8), 4) for t in (0.0, 2.306, -5.041)]
        [1.0, 0.05, 0.001]
    """
    squared = t * t
    return incomplete_beta(freedom / 2, 0.5, freedom / (freedom + squared), squared / (freedom + squared))


def f_chance(f: float, *, numerator: float, denominator: float) -> float:
    """Return ``P(F > f)`` for Fisher's F: the p-value of a ratio of two variances.

    Args:
        f: the ratio, >= 0.
        numerator: degrees of freedom of the variance above the line, > 0.
        denominator: degrees of freedom of the variance below it, > 0.

    Example:
        >>> [round(f_chance(f, numerator=2, denominator=10), 4) for f in (0.0, 4.103, 7.559)]
        [1.0, 0.05, 0.01]
    """
    whole = denominator + numerator * f
    return incomplete_beta(denominator / 2, numerator / 2, denominator / whole, numerator * f / whole)


def incomplete_beta(a: float, b: float, x: float, rest: float) -> float:
    """Return the regularised incomplete beta function ``I_x(a, b)``.

    Args:
        a: > 0.
        b: > 0.
        x: in [0, 1].
        rest: ``1 - x``, which the caller knows without the loss of digits.

    Sources:
        https://dlmf.nist.gov/8.17 (8.17.22, the continued fraction).

    Example:
        >>> round(incomplete_beta(2.0, 3.0, 0.5, 0.5), 4)
        0.6875
    """
    if not rest:
        return 1.0
    if not x:
        return 0.0
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(rest))
    if x < (a + 1) / (a + b + 2):  # here the fraction converges fast
        return front * _fraction(a, b, x) / a
    return 1 - front * _fraction(b, a, rest) / b


def _fraction(a: float, b: float, x: float) -> float:
    """Return the continued fraction of the incomplete beta function, by Lentz's method."""
    c, d = 1.0, 1 / _not_zero(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, _TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d, c = 1 / _not_zero(1 + term * d), _not_zero(1 + term / c)
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value


def _not_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
