"""Samples to a target: when a run's metric reaches it, and what several runs say together.

A run that ends before it reaches the target still says something: it needs more samples than it had. Leaving such runs
out would make a setting that often fails look fast. So each run gives bounds, and every summary keeps to them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from scaler.core.equivalence import Mode
from scaler.core.intervals import (
    Estimate,
    fewest_for_median,
    finite,
    geometric_mean_interval,
    median_interval,
)
from scaler.errors import PlanError


@dataclass(frozen=True, kw_only=True, slots=True)
class Reached:
    """When one run reached its target, in samples seen by all workers together, or in another unit of the curve.

    Args:
        value: interpolated between two evaluations; None: not known more closely than ``low`` and ``high``.
        low: the run had not reached the target at this point; 0: the first evaluation was at the target.
        high: the first evaluation at the target; ``math.inf``: not reached.
    """

    value: float | None
    low: float
    high: float

    @property
    def is_reached(self) -> bool:
        """Whether the run reached the target."""
        return self.high < math.inf


def reached(curve: Sequence[tuple[float, float]], *, target: float, mode: Mode, hold: int = 2) -> Reached:
    """Return when a curve first reaches the target and stays there.

    The target is reached at the first of ``hold`` evaluations in a row that are at it. In between the evaluation before
    and this one the metric is taken as a straight line. This is not done where the line does not hold: before the first
    evaluation, and after an evaluation that is not finite.

    Args:
        curve: ``(samples seen, metric)`` of each evaluation, in order; the first number may be another clock.
        target: at least this (``max``) or at most this (``min``).
        mode: whether a higher (``max``) or a lower (``min``) metric is better.
        hold: evaluations in a row that must be at the target, >= 1. One evaluation may be there by its noise. 1 is for
            runs that stop at the target.

    Raises:
        PlanError: an empty curve, clocks that do not rise, or ``hold`` below 1.

    Example:
        >>> curve = [(100.0, 0.80), (200.0, 0.90), (300.0, 0.96), (400.0, 0.97)]
        >>> reached(curve, target=0.94, mode="max")
        Reached(value=266.66666666666663, low=200.0, high=300.0)
        >>> reached(curve, target=0.99, mode="max")
        Reached(value=None, low=400.0, high=inf)
    """
    if not curve:
        raise PlanError("The run has no evaluation.", "Set train.eval_every.")
    if hold < 1:
        raise PlanError(f"hold = {hold} is below 1.", "1 takes the first evaluation at the target.")
    clocks = [clock for clock, _ in curve]
    if any(later <= earlier for earlier, later in pairwise(clocks)):
        raise PlanError("The evaluations are not in the order of their samples.", "Sort them, and take each once.")
    sign = 1 if mode == "max" else -1
    gaps = [sign * (metric - target) for _, metric in curve]  # at the target: >= 0; not a number: never
    for index in range(len(curve) - hold + 1):
        if all(gap >= 0 for gap in gaps[index : index + hold]):
            break
    else:
        last = max((clock for clock, gap in zip(clocks, gaps, strict=True) if not gap >= 0), default=0.0)
        return Reached(value=None, low=last, high=math.inf)
    high = clocks[index]
    if index == 0:
        return Reached(value=None, low=0.0, high=high)
    low, before, after = clocks[index - 1], gaps[index - 1], gaps[index]
    if not (math.isfinite(before) and math.isfinite(after)):
        return Reached(value=None, low=low, high=high)
    return Reached(value=low + (high - low) * -before / (after - before), low=low, high=high)


def median_reached(runs: Sequence[Reached], *, level: float) -> Estimate:
    """Return the median over runs of the samples to the target, with its interval.

    If every run has a value, and there are too few for an interval of the median without an assumption, the interval is
    that of the geometric mean, which is the median if the logarithms are normally distributed. A run that did not reach
    the target counts as larger than any value. If the median is not known, ``value`` is None, and ``low`` is the median
    of the lower bounds.

    Args:
        runs: one for each seed, at least one.
        level: of the interval, in (0, 1).

    Raises:
        PlanError: no runs, or a level outside (0, 1).

    Example:
        >>> exact = [Reached(value=value, low=value - 10, high=value + 10) for value in (100.0, 110.0)]
        >>> never = Reached(value=None, low=500.0, high=math.inf)
        >>> median_reached([*exact, never], level=0.90).value
        110.0
        >>> median_reached([exact[0], never, never], level=0.90)
        Estimate(value=None, low=500.0, high=None)
    """
    bounds = [(run.low, run.high) if run.value is None else (run.value, run.value) for run in runs]
    return _median_of_bounds(bounds, level=level)


def ratio_to_baseline(baseline: Mapping[int, Reached], candidate: Mapping[int, Reached], *, level: float) -> Estimate:
    """Return the median over seeds of candidate / baseline, with its interval. Below 1 it needs fewer samples.

    Ratios are taken seed by seed. If the candidate did not reach the target, its ratio has only a lower bound; if the
    baseline did not, only an upper bound; if neither did, the ratio is unknown. The median and its interval are those
    of ``median_reached``. The interval holds for every value that the bounds allow, so with such runs it holds the
    truth at least as often as ``level`` says (docs/decisions/0059-the-answer-of-an-experiment.md).

    Args:
        baseline: seed -> when it reached the target.
        candidate: the same for the group.
        level: of the interval, in (0, 1).

    Raises:
        PlanError: no seed in common, or a level outside (0, 1).

    Example:
        >>> def at(*values):
        ...     return {seed: Reached(value=value, low=value, high=value) for seed, value in enumerate(values)}
        >>> found = ratio_to_baseline(at(100.0, 110.0, 120.0), at(150.0, 154.0, 192.0), level=0.90)
        >>> found.value, round(found.low, 3), round(found.high, 3)
        (1.5, 1.338, 1.676)
    """
    common = sorted(baseline.keys() & candidate.keys())
    if not common:
        raise PlanError("No seed has been run in both groups.", "Run both with the same seeds.")
    bounds = []
    for seed in common:
        (below, above), (low, high) = (
            (run.low, run.high) if run.value is None else (run.value, run.value)
            for run in (baseline[seed], candidate[seed])
        )
        bounds.append((low / above, high / below if below else math.inf))
    return _median_of_bounds(bounds, level=level)


def _median_of_bounds(bounds: Sequence[tuple[float, float]], *, level: float) -> Estimate:
    """Return the median of values that are known to lie between bounds; a bound may be 0 or infinite."""
    lows, highs = [low for low, _ in bounds], [high for _, high in bounds]
    lowest, highest = median_interval(lows, level=level), median_interval(highs, level=level)
    value = lowest.value if lowest.value == highest.value else None
    if len(bounds) >= fewest_for_median(level):
        return Estimate(value=value, low=lowest.low or None, high=highest.high)
    if lows == highs:
        found = geometric_mean_interval(lows, level=level)
        return Estimate(value=value, low=found.low, high=found.high)
    if value is None:  # bounds of the median of these runs, not of a population
        return Estimate(value=None, low=lowest.value or None, high=finite(highest.value or math.inf))
    return Estimate(value=value)
