"""The gradient noise scale at the newest measured step, while the gradient shrinks.

``|G|^2`` falls while a model learns, often as 1/t. An average over a run is then dominated by its beginning: after 400
steps the noise scale was 2,856, and an average gave 165. ``NoiseHistory`` keeps the last measured steps. It fits a
straight line to the newest of them, as many as lie on one line. The noise scale is the value of this line at the newest
step.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite, sqrt
from operator import mul
from typing import Any, NamedTuple, Self

from scaler.core.noise_scale import GradientSquares
from scaler.errors import PlanError

MOST_KEPT = 256  # measured steps; the line is fitted to at most half of them
FEWEST_FITTED = 5  # measured steps: a line and its scatter are three numbers
FEWEST_MEASURED = 2 * FEWEST_FITTED
AGREEMENT = 0.95  # probability that two lines through the same trend agree, for signal and variance each
AGREEMENT_OF_FEWEST = 0.99  # the same for the two shortest lines, without which there is no estimate
ROUNDING = 1e-9  # relative difference that two lines may have without scatter


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseScale:
    """The noise scale at the newest measured step, in samples, with its interval.

    Args:
        noise_scale: variance over signal; None: the signal is not above the noise.
        lower: lower end of the interval.
        upper: upper end; None: no bound, because the signal may be 0.
        fitted_steps: number of the newest measured steps that the line is fitted to.
    """

    noise_scale: float | None
    lower: float
    upper: float | None
    fitted_steps: int


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseHistory:
    """The estimates of ``|G|^2`` and ``tr(Sigma)`` of the last measured steps, and the noise scale at the newest.

    A straight line is fitted (least squares) to the signals of the last n measured steps, and another to the variances.
    The steps are taken as evenly spaced:

        noise_scale = variance line / signal line, at the newest step

    n is found by halving: all steps kept, half of them, a quarter and so on, down to 5. A line through n steps is
    accepted if its value at the newest step differs from that of the line through n / 2 by no more than their scatter
    explains, and if all shorter lines are accepted. The line through half of the largest accepted n is used:
    the scatter may have hidden a bend in the trend, and the error that a bend causes is a quarter at n / 2.

    Args:
        signals: ``GradientSquares.signal`` of each measured step, oldest first; at most 256.
        variances: ``GradientSquares.variance`` of each measured step.

    Example:
        >>> history = NoiseHistory()
        >>> for step in range(1, 81):  # |G|^2 falls as 1 / step, with a scatter of 50 %; the true end value is 80 * 10
        ...     signal, variance = (1 + (-1) ** (step // 2) / 2) / step, 10.0 + (-1) ** step
        ...     history = history.update(GradientSquares(signal=signal, variance=variance))
        >>> present = history.present()
        >>> present.fitted_steps, [round(value) for value in (present.noise_scale, present.lower, present.upper)]
        (20, [823, 559, 1527])
    """

    signals: tuple[float, ...] = ()
    variances: tuple[float, ...] = ()

    def update(self, squares: GradientSquares | None) -> Self:
        """Return the history with one more step's estimates; None (a step without estimates) changes nothing."""
        if squares is None:
            return self
        return type(self)(
            signals=(*self.signals[1 - MOST_KEPT :], squares.signal),
            variances=(*self.variances[1 - MOST_KEPT :], squares.variance),
        )

    def present(self, level: float = 0.9) -> NoiseScale | None:
        """Return the noise scale at the newest measured step, with its confidence interval.

        The interval is Fieller's of a ratio: all phi >= 0 at which ``variance - phi * signal`` is not significantly
        different from 0 at the newest step. In simulations with a ``|G|^2`` that is constant, falls as 1/t, falls
        exponentially (to 1/10 and 1/1000) or drops at once, it covered the true noise scale in 90 to 96 of 100 runs.

        Args:
            level: probability that the interval covers the true noise scale, in (0, 1).

        Returns:
            None if it is not known: fewer than 10 measured steps, a trend that bends within the last 10, or no phi >= 0
            that fits.

        Raises:
            PlanError: ``level`` outside (0, 1).

        Sources:
            Fieller 1954, https://doi.org/10.1111/j.2517-6161.1954.tb00159.x, restricted to phi >= 0; if the set has two
            parts, the interval covers both. Steps are taken as independent.
            Lepski 1991, https://doi.org/10.1137/1135065: the longest window that agrees with all shorter ones.
        """
        if not 0.0 < level < 1.0:
            raise PlanError(f"level = {level:g} is not in (0, 1).", "It is a probability, such as 0.9.")
        used = None
        for shorter, longer in pairwise(self._lines()):
            if not shorter.agrees_with(longer):
                break
            used = shorter
        return used.noise_scale(level) if used is not None else None

    @property
    def noise_scale(self) -> float | None:
        """The noise scale at the newest measured step, in samples; None: not known."""
        present = self.present()
        return present.noise_scale if present is not None else None

    def _lines(self) -> Iterator["_Lines"]:
        """Yield lines through the newest steps: through the fewest, then twice as many, and at last through all."""
        count, counts = len(self.signals), []
        while count >= FEWEST_FITTED:
            counts.append(count)
            count //= 2
        return (
            _Lines(_Line.through(self.signals[-count:]), _Line.through(self.variances[-count:]), count)
            for count in reversed(counts)
        )

    def to_dict(self) -> dict[str, list[float]]:
        """Return plain numbers for a checkpoint."""
        return {"signals": list(self.signals), "variances": list(self.variances)}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Return the history that ``to_dict`` wrote."""
        return cls(signals=tuple(state["signals"]), variances=tuple(state["variances"]))


class _Line(NamedTuple):
    """A straight line through evenly spaced values, by least squares."""

    values: Sequence[float]
    mean: float
    slope: float

    @classmethod
    def through(cls, values: Sequence[float]) -> Self:
        count = len(values)
        slope = sum(map(mul, values, _half_places(count))) * 6.0 / (count * (count * count - 1.0))
        return cls(values, sum(values) / count, slope)

    @property
    def newest(self) -> float:
        """The line at the newest value."""
        return self.mean + self.slope * (len(self.values) - 1.0) / 2.0

    def residuals(self) -> list[float]:
        """Return the distance of each value from the line."""
        mean, half, places = self.mean, self.slope / 2.0, _half_places(len(self.values))
        return [value - mean - half * place for value, place in zip(self.values, places, strict=True)]


class _Lines(NamedTuple):
    """Two straight lines: one through the signals and one through the variances of the same steps."""

    signal: _Line
    variance: _Line
    steps: int

    def scatter(self) -> tuple[float, float, float]:
        """Return the scatter about the lines: of the signal, of the variance, and their covariance."""
        signal, variance = self.signal.residuals(), self.variance.residuals()
        pairs = ((signal, signal), (variance, variance), (signal, variance))
        first, second, joint = (sum(map(mul, one, other)) / (self.steps - 2.0) for one, other in pairs)
        return first, second, joint

    @property
    def leverage(self) -> float:
        """The variance of a line at its newest step, divided by one step's scatter: near 4 / n."""
        return (4.0 * self.steps - 2.0) / (self.steps * (self.steps + 1.0))

    def agrees_with(self, longer: "_Lines") -> bool:
        """Return whether a line through more steps has the same value at the newest step, within the scatter."""
        # Least squares is efficient, so the variance that a longer line saves is that of the difference (Hausman 1978).
        signal_scatter, variance_scatter, _ = self.scatter()
        level = AGREEMENT_OF_FEWEST if self.steps < FEWEST_MEASURED else AGREEMENT
        gained = _student(level, freedom=self.steps - 2.0) * sqrt(self.leverage - longer.leverage)
        return all(
            abs(mine - theirs) <= gained * sqrt(scatter) + ROUNDING * abs(mine)  # false for nan
            for mine, theirs, scatter in (
                (self.signal.newest, longer.signal.newest, signal_scatter),
                (self.variance.newest, longer.variance.newest, variance_scatter),
            )
        )

    def noise_scale(self, level: float) -> NoiseScale | None:
        """Return the ratio at the newest step and its Fieller interval; None if no ratio >= 0 fits.

            (variance - phi * signal)^2 <= q^2 * leverage * (s_vv - 2 * phi * s_sv + phi^2 * s_ss)

        with s the scatters and q Student's quantile.
        """
        scale = _student(level, freedom=self.steps - 2.0) ** 2 * self.leverage
        signal, variance = self.signal.newest, self.variance.newest
        signal_scatter, variance_scatter, joint_scatter = self.scatter()
        ends = _nonnegative_solutions(
            signal * signal - scale * signal_scatter,
            signal * variance - scale * joint_scatter,
            variance * variance - scale * variance_scatter,
        )
        if ends is None:
            return None
        return NoiseScale(
            noise_scale=variance / signal if signal > 0.0 and variance > 0.0 else None,
            lower=ends[0],
            upper=ends[1],
            fitted_steps=self.steps,
        )


def _half_places(count: int) -> range:
    """Return ``count`` evenly spaced positions relative to their mean, in units of half their distance."""
    return range(1 - count, count, 2)


def _nonnegative_solutions(a: float, b: float, c: float) -> tuple[float, float | None] | None:
    """Return the smallest interval of all x >= 0 with ``a x^2 - 2 b x + c <= 0``; an upper end of None: no bound.

    With Fieller's coefficients there are roots if a > 0: the ratio of the averages is between them.
    """
    inside = b * b - a * c
    if not isfinite(inside):  # squares of a run that has diverged
        return None
    if a == 0.0 or (a < 0.0 and inside < 0.0):  # for all x, or nearly
        return 0.0, None
    root = sqrt(max(inside, 0.0))
    first, second = sorted(((b - root) / a, (b + root) / a))
    if a > 0.0:  # between the roots
        return None if second < 0.0 else (max(first, 0.0), second)
    return (0.0 if first >= 0.0 else max(second, 0.0)), None  # outside them


def _student(level: float, *, freedom: float) -> float:
    """Return Student's two-sided quantile, within 2 % from 3 degrees of freedom at ``level`` 0.9, 4 % at 0.95.

    Source: Abramowitz and Stegun 1964, 26.7.5, https://people.math.sfu.ca/~cbm/aands/page_949.htm, two terms.
    """
    from statistics import NormalDist  # takes 20 ms to import, and only an interval needs it

    z = NormalDist().inv_cdf((1.0 + level) / 2.0)
    return z + (z**3 + z) / (4.0 * freedom) + (5.0 * z**5 + 16.0 * z**3 + 3.0 * z) / (96.0 * freedom**2)
