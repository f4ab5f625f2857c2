"""Speed over the baseline, and the cost of a time, from the runs of two groups."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from scaler.core.intervals import Estimate, harmonic_mean
from scaler.core.samples_to_target import Reached, ratio_to_baseline
from scaler.core.speedup import speed_ups
from scaler.report.run.model import Report

Repeats = tuple[float, ...]


def faster_to_target(
    times: Mapping[int, Reached], base: Mapping[int, Reached], *, level: float
) -> tuple[Estimate | None, Repeats]:
    """Return how many times as fast as the baseline a group reaches the target, and the same of each seed.

    It is the median over seeds of the baseline's time over the group's: throughput and statistical efficiency together.

    Args:
        times: seed -> when the group's run reached the target, in seconds.
        base: the same of the baseline.
        level: of the interval, in (0, 1).
    """
    common = sorted(times.keys() & base.keys())
    if not common:
        return None, ()
    pairs = [(base[seed].value, times[seed].value) for seed in common]
    each = tuple(theirs / ours for theirs, ours in pairs if theirs is not None and ours)
    return ratio_to_baseline(times, base, level=level), each


def faster_in_steps(speeds: Sequence[float], base: Sequence[float], *, level: float) -> tuple[Estimate | None, Repeats]:
    """Return how many times the baseline's throughput a group has, and the same of each run.

    Args:
        speeds: samples a second of each run of the group.
        base: the same of the baseline.
        level: of the interval, in (0, 1).
    """
    if not speeds or not base:
        return None, ()
    mean = harmonic_mean(base)
    return speed_ups({1: base, 2: speeds}, level=level)[1].speed_up, tuple(speed / mean for speed in speeds)


def cost_of(time_s: Estimate | None, reports: Sequence[Report]) -> Estimate | None:
    """Return the cost of a time on the workers of some runs; None: they have no price, or the time is not known."""
    prices = [price for report in reports if (price := price_per_s(report)) is not None]
    if time_s is None or not prices:
        return None
    price = fmean(prices)
    ends = [None if end is None else price * end for end in (time_s.value, time_s.low, time_s.high)]
    return Estimate(value=ends[0], low=ends[1], high=ends[2])


def price_per_s(report: Report) -> float | None:
    """Return what all workers of a run cost a second; None: there is no price."""
    return None if report.cost is None else report.cost.price_per_worker_hour * report.plan["world_size"] / 3600
