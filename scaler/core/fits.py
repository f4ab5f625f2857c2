"""Intervals of the parameters of a fit: how far a parameter can move before the fit becomes too bad.

A fit by least squares has a sum of squares R. Hold one parameter at a value v and fit the others again: R(v). The
interval has each v with

    R(v) - R(best) <= q^2 s^2

where s^2 is the variance of one point around the fit and q is Student's two-sided quantile. For a model that is linear
in its parameters this is the usual interval, and for a ratio of two parameters it is Fieller's. Where the points do not
bound a parameter, the interval has no end. One from a standard error or a bootstrap has an end there, without meaning.

The points are grouped: several repeats at each batch size or number of workers. If the groups lie farther from the
curve than the spread of the repeats explains, the curve is not exact or the groups were not tuned equally well. Then
the variance is that of the groups around the curve, which has few degrees of freedom.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from scaler.core.student_t import f_chance, two_sided_quantile

MISFIT_LEVEL = 0.25  # p-value below which the groups' distances from the curve count, and not the repeats' spread
_DOUBLINGS = 200
_HALVINGS = 40
_CLOSE = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class Groups:
    """Repeats at several places, as least squares needs them.

    Args:
        places: the batch sizes or numbers of workers, rising.
        means: mean of the repeats at each place.
        counts: number of repeats at each place.
        within: sum of the squares of the repeats' distances from the means of their places.
    """

    places: tuple[float, ...]
    means: tuple[float, ...]
    counts: tuple[int, ...]
    within: float

    @classmethod
    def of(cls, repeats: Mapping[int, Sequence[float]]) -> "Groups":
        """Return the groups of ``place -> repeats``."""
        places = sorted(repeats)
        means = [math.fsum(repeats[place]) / len(repeats[place]) for place in places]
        return cls(
            places=tuple(map(float, places)),
            means=tuple(means),
            counts=tuple(len(repeats[place]) for place in places),
            within=math.fsum(
                (value - mean) ** 2 for place, mean in zip(places, means, strict=True) for value in repeats[place]
            ),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Scatter:
    """The variance of one point around a fit.

    Args:
        variance: s^2, in squared units of the values.
        freedom: its degrees of freedom.
        p_misfit: p-value of the test that the groups lie on the curve; None without repeats.
        is_of_groups: whether the variance is that of the groups around the curve.
    """

    variance: float
    freedom: int
    p_misfit: float | None
    is_of_groups: bool

    def rise(self, level: float) -> float:
        """Return by how much the sum of squares may rise inside an interval: ``q^2 s^2``."""
        return float(two_sided_quantile(level, freedom=self.freedom) ** 2 * self.variance)


def scatter(groups: Groups, between: float, *, parameters: int) -> Scatter:
    """Return the variance of one point around a fit to groups.

    Args:
        groups: what was fitted, with more places than parameters.
        between: sum over the groups of ``count * (mean - fit)^2``.
        parameters: number of fitted parameters.

    Sources:
        The lack-of-fit test: Draper and Smith 1998, Applied Regression Analysis, section 2.2. The choice between the
        two variances is ours; docs/decisions/0053-intervals-of-fits.md has its measured coverage.
    """
    places, repeats = len(groups.places) - parameters, sum(groups.counts) - len(groups.places)
    p_misfit = None
    if repeats:
        within = groups.within / repeats
        p_misfit = f_chance(between / places / within, numerator=places, denominator=repeats) if within else 0.0
    if p_misfit is None or p_misfit < MISFIT_LEVEL:
        return Scatter(variance=between / places, freedom=places, p_misfit=p_misfit, is_of_groups=True)
    variance = (between + groups.within) / (places + repeats)
    return Scatter(variance=variance, freedom=places + repeats, p_misfit=p_misfit, is_of_groups=False)


def profile_interval(
    squares: Callable[[float], float], best: float, *, rise: float, step: float, ends: tuple[float, float]
) -> tuple[float | None, float | None]:
    """Return where a sum of squares has risen by ``rise`` on both sides of its minimum; None: nowhere before that end.

    Args:
        squares: value of the parameter -> sum of squares with the other parameters fitted again.
        best: where it is smallest.
        rise: how much it may rise, >= 0.
        step: first distance from ``best`` to look at, > 0.
        ends: where to stop looking.

    Example:
        >>> low, high = profile_interval(lambda v: (v - 3) ** 2, 3.0, rise=4.0, step=0.1, ends=(-100.0, 100.0))
        >>> round(low, 6), round(high, 6)
        (1.0, 5.0)
    """
    most = squares(best) + rise

    def end(direction: int, limit: float) -> float | None:
        inside, distance = best, step
        for _ in range(_DOUBLINGS):
            outside = best + direction * distance
            if direction * (outside - limit) >= 0:
                outside = limit
            if squares(outside) > most:
                break
            if outside == limit:
                return None
            inside, distance = outside, 2 * distance
        else:
            return None
        for _ in range(_HALVINGS):
            middle = (inside + outside) / 2
            if middle in (inside, outside):
                break
            if squares(middle) > most:
                outside = middle
            else:
                inside = middle
        return (inside + outside) / 2

    return end(-1, ends[0]), end(1, ends[1])


def minimum(function: Callable[[float], float], low: float, high: float, *, looks: int = 48) -> float:
    """Return where a function of one number is smallest between two ends: the best of a grid, then golden section.

    Example:
        >>> round(minimum(lambda x: (x - 2) ** 2, -10.0, 10.0), 6)
        2.0
    """
    grid = [low + (high - low) * look / looks for look in range(looks + 1)]
    best = min(range(looks + 1), key=lambda look: function(grid[look]))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, looks)]
    golden = (math.sqrt(5) - 1) / 2
    left, right = high - golden * (high - low), low + golden * (high - low)
    at_left, at_right = function(left), function(right)
    while high - low > _CLOSE:  # the error of the function is of the order of its square
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - golden * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + golden * (high - low)
            at_right = function(right)
    return left if at_left <= at_right else right


def least_squares(
    columns: Sequence[Sequence[float]], values: Sequence[float], weights: Sequence[float]
) -> tuple[list[float], float]:
    """Return the coefficients of a linear fit and its weighted sum of squares (Gram-Schmidt).

    Args:
        columns: one for each coefficient, as long as ``values``; linearly independent.
        values: what the sum of ``coefficient * column`` is fitted to.
        weights: of each value's squared distance, > 0.

    Example:
        >>> coefficients, squares = least_squares([[1, 1, 1], [0, 1, 2]], [1.0, 3.0, 5.0], [1, 1, 1])
        >>> [round(c, 9) for c in coefficients], round(squares, 9)
        ([1.0, 2.0], 0.0)
    """
    roots = [math.sqrt(weight) for weight in weights]
    directions: list[list[float]] = []
    upper: list[list[float]] = []  # column j is the sum over i of upper[j][i] * directions[i]
    for column in [*columns, values]:
        rest = [root * entry for root, entry in zip(roots, column, strict=True)]
        shares = []
        for direction in directions:
            share = _dot(direction, rest)
            shares.append(share)
            rest = [entry - share * unit for entry, unit in zip(rest, direction, strict=True)]
        length = math.sqrt(_dot(rest, rest))
        upper.append([*shares, length])
        directions.append([entry / length for entry in rest] if length else rest)
    found = [0.0] * len(columns)
    for i in reversed(range(len(columns))):
        later = sum(upper[j][i] * found[j] for j in range(i + 1, len(columns)))
        found[i] = (upper[-1][i] - later) / upper[i][i]
    return found, upper[-1][-1] ** 2


def _dot(first: Sequence[float], second: Sequence[float]) -> float:
    return math.fsum(a * b for a, b in zip(first, second, strict=True))
