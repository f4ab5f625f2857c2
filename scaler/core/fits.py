"""Intervals of the parameters of a fit: how far a parameter can move before the fit becomes too bad.

A fit by least squares has a sum of squares R. Hold one parameter at a value v and fit the others again: R(v). The
interval has each v with

    R(v) - R(best) <= q^2 s^2

where s^2 is the variance of one point around the fit and q is Student's two-sided quantile. For a model that is linear
in its parameters this is the usual interval, and for a ratio of two parameters it is Fieller's. Where the points do not
bound a parameter, the interval has no end. One from a standard error or a bootstrap has an end there, without meaning.

A point is the mean of the repeats at one batch size or number of workers. The spread of the repeats is not used for the
interval: a batch size whose learning rate is not tuned as well as that of the others is off the curve in each repeat.
The variance is that of the points around the curve, and there must be more points than parameters.
docs/decisions/0053-intervals-of-fits.md has the measured coverage of this interval and of others.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import mul
from typing import Self

from scaler.core.student_t import f_chance, two_sided_quantile

_DOUBLINGS = 200
_HALVINGS = 40
_CLOSE = 1e-5


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
    def of(cls, repeats: Mapping[int, Sequence[float]]) -> Self:
        """Return the groups of ``place -> repeats``; a place has at least one repeat."""
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

    def rise(self, squares: float, *, parameters: int, level: float) -> float:
        """Return by how much a sum of squares may rise inside an interval: ``q^2 s^2``.

        Args:
            squares: the smallest sum of squares.
            parameters: number of fitted parameters, fewer than there are places.
            level: of the interval, in (0, 1).
        """
        freedom = len(self.places) - parameters
        return two_sided_quantile(level, freedom=freedom) ** 2 * squares / freedom

    def p_misfit(self, distances: Sequence[float], *, parameters: int) -> float | None:
        """Return the p-value of the test that the places lie on the curve; None without repeats.

        A small one says that the distances from the curve are larger than the repeats explain: more repeats do not make
        the interval shorter, and more places do.

        Args:
            distances: mean minus fit at each place.
            parameters: number of fitted parameters.

        Sources:
            The lack-of-fit test: Draper and Smith 1998, Applied Regression Analysis, chapter 2.
        """
        freedom, repeats = len(self.places) - parameters, sum(self.counts) - len(self.places)
        if not repeats:
            return None
        between = math.fsum(count * gap**2 for count, gap in zip(self.counts, distances, strict=True)) / freedom
        within = self.within / repeats
        return f_chance(between / within, numerator=freedom, denominator=repeats) if within else 0.0


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
        >>> round(minimum(lambda x: (x - 2) ** 2, -10.0, 10.0), 4)
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


def least_squares(columns: Sequence[Sequence[float]], values: Sequence[float]) -> tuple[list[float], float]:
    """Return the coefficients of a linear fit and its sum of squares (Gram-Schmidt).

    Args:
        columns: one for each coefficient, as long as ``values``; linearly independent.
        values: what the sum of ``coefficient * column`` is fitted to.

    Example:
        >>> coefficients, squares = least_squares([[1, 1, 1], [0, 1, 2]], [1.0, 3.0, 5.0])
        >>> [round(c, 9) for c in coefficients], round(squares, 9)
        ([1.0, 2.0], 0.0)
    """
    directions: list[list[float]] = []
    upper: list[list[float]] = []  # column j is the sum over i of upper[j][i] * directions[i]
    for column in [*columns, values]:
        rest, shares = list(column), []
        for direction in directions:
            shares.append(_dot(direction, rest))
            rest = [entry - shares[-1] * unit for entry, unit in zip(rest, direction, strict=True)]
        length = math.sqrt(_dot(rest, rest))
        upper.append([*shares, length])
        directions.append([entry / length for entry in rest] if length else rest)
    found = [0.0] * len(columns)
    for i in reversed(range(len(columns))):
        later = sum(upper[j][i] * found[j] for j in range(i + 1, len(columns)))
        found[i] = (upper[-1][i] - later) / upper[i][i]
    return found, upper[-1][-1] ** 2


def _dot(first: Sequence[float], second: Sequence[float]) -> float:
    return math.fsum(map(mul, first, second))
