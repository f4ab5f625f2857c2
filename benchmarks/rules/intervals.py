"""Means with their intervals."""

import math
import statistics
from collections.abc import Sequence

from scipy import stats


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return a mean and half of its 90 % interval; infinite when a run diverged."""
    if not all(math.isfinite(value) for value in values):
        return math.inf, math.inf
    half = float(stats.t.ppf(0.95, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.fmean(values), half


def shown(found: tuple[float, float], digits: int) -> str:
    """Return an interval as it is written."""
    mean, half = found
    return "diverged" if math.isinf(mean) else f"{mean:+.{digits}f} ± {half:.{digits}f}"
