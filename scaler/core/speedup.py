"""Throughput, speed-up and efficiency on several numbers of workers, from repeats."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scaler.core.intervals import Estimate, harmonic_mean, mean_interval, positive
from scaler.core.student_t import compare_means
from scaler.errors import PlanError


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeedUp:
    """What one number of workers brings.

    Args:
        num_workers: number of workers.
        repeats: number of measurements.
        samples_per_s: harmonic mean of the measurements, over all workers together.
        speed_up: ``samples_per_s`` over that of the base; 1 for the base.
        efficiency: speed-up over the number of workers in units of the base's; 1 for the base.
        base_workers: the number of workers that the speed-up refers to: the smallest.
        base_samples_per_s: its ``samples_per_s``, the absolute base of the speed-up.
    """

    num_workers: int
    repeats: int
    samples_per_s: Estimate
    speed_up: Estimate
    efficiency: Estimate
    base_workers: int
    base_samples_per_s: float


def speed_ups(samples_per_s: Mapping[int, Sequence[float]], *, level: float) -> tuple[SpeedUp, ...]:
    """Return throughput, speed-up and efficiency of each number of workers, with intervals.

    The interval of the throughput is Student's, of the time of a sample. That of the speed-up is Welch's, of the
    logarithms of the two throughputs. A number of workers with one measurement has the spread of the base, and the
    other way round; without any repeat there is no interval. The measurements are taken as independent: measure each
    number of workers several times, in random order.

    The same numbers serve strong scaling (one global batch) and weak scaling (one batch per worker).

    Args:
        samples_per_s: number of workers -> throughput of each measurement, samples/s over all workers together.
        level: of the intervals, in (0, 1).

    Returns:
        One for each number of workers, rising.

    Raises:
        PlanError: no measurements, a throughput that is not above 0, or a level outside (0, 1).

    Sources:
        Hoefler and Belli 2015, https://doi.org/10.1145/2807591.2807644: rules 1 (the base of a speed-up), 3 (means of
        speeds) and 5 (intervals).

    Example:
        >>> one, two = speed_ups({1: [100.0, 101.0, 99.0], 2: [190.0, 186.0, 188.0]}, level=0.90)
        >>> round(two.speed_up.value, 2), round(two.speed_up.low, 2), round(two.speed_up.high, 2)
        (1.88, 1.85, 1.91)
        >>> round(two.efficiency.value, 2), two.base_workers, round(two.base_samples_per_s)
        (0.94, 1, 100)
    """
    counts = sorted(samples_per_s)
    if not counts or not all(samples_per_s.values()):
        raise PlanError("A number of workers has no throughput.", "Leave it out.")
    base, found = counts[0], []
    logs = {count: [math.log(value) for value in positive(samples_per_s[count])] for count in counts}
    means = {count: harmonic_mean(samples_per_s[count]) for count in counts}
    for count in counts:
        ratio = means[count] / means[base]
        speed_up = Estimate(value=1.0, low=1.0, high=1.0)
        if count != base:
            compared = compare_means(logs[base], logs[count], level=level)
            factor = None if compared is None else math.exp(compared.margin)
            speed_up = Estimate(
                value=ratio,
                low=None if factor is None else ratio / factor,
                high=None if factor is None else ratio * factor,
            )
        times = mean_interval([1 / value for value in samples_per_s[count]], level=level)
        found.append(
            SpeedUp(
                num_workers=count,
                repeats=len(samples_per_s[count]),
                samples_per_s=Estimate(
                    value=means[count],
                    low=None if times.high is None else 1 / times.high,
                    high=1 / times.low if times.low is not None and times.low > 0 else None,
                ),
                speed_up=speed_up,
                efficiency=_scaled(speed_up, base / count),
                base_workers=base,
                base_samples_per_s=means[base],
            )
        )
    return tuple(found)


def _scaled(estimate: Estimate, factor: float) -> Estimate:
    low, high = (None if end is None else factor * end for end in (estimate.low, estimate.high))
    assert estimate.value is not None
    return Estimate(value=factor * estimate.value, low=low, high=high)
