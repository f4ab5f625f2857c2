"""The speed of training from measured stretches of steps, and the time of a step at a batch that was not measured."""

import math
from collections.abc import Mapping, Sequence

from scaler.core.intervals import Estimate

WARM_UP = 0.1  # share of a run's first samples that its speed leaves out


def speeds(
    starts: Sequence[float], end: float, samples_per_s: Sequence[float | None], *, parts: int = 1
) -> tuple[float, ...]:
    """Return the samples a second in equal parts of a run, without its first tenth; parts without steps are left out.

    Each speed is all samples over all time: the harmonic mean over stretches, weighted by their samples.

    Args:
        starts: samples seen at the start of each stretch of steps, rising.
        end: samples seen at the end of the last one.
        samples_per_s: of each stretch; None and 0: not known.
        parts: into how many parts the run is divided, >= 1.

    Example:
        >>> speeds([0, 100, 200, 300], 400, [1.0, 50.0, 100.0, 100.0])
        (75.0,)
        >>> speeds([0, 100, 200, 300], 400, [1.0, 50.0, 100.0, 50.0], parts=2)
        (66.66666666666667, 50.0)
    """
    if not starts:
        return ()
    first = starts[0] + WARM_UP * (end - starts[0])
    samples, seconds = [0.0] * parts, [0.0] * parts
    for start, stop, speed in zip(starts, [*starts[1:], end], samples_per_s, strict=False):
        if speed and stop > start >= first:
            part = min(int(parts * (start - first) / (end - first)), parts - 1)
            samples[part] += stop - start
            seconds[part] += (stop - start) / speed
    return tuple(done / took for done, took in zip(samples, seconds, strict=True) if took)


def step_time_at(measured: Mapping[int, Estimate], samples: float) -> Estimate | None:
    """Return the time of a step with so many samples on a worker, in seconds.

    A step takes ``t = a + b * samples`` with a and b of at least 0: it gets no faster with more samples, and the time
    of a sample gets no longer. Between two measured sizes, t lies on the straight line between them. Beyond them, the
    line through the nearest two is continued, and the range goes from a fixed time of a step to a fixed time of a
    sample; with one measured size, there is only that range.

    Args:
        measured: samples of a step on one worker -> its time in seconds, with a range; values are > 0.
        samples: to estimate, > 0.

    Returns:
        No value where one size was measured, and it is another. None: nothing was measured.

    Example:
        >>> measured = {64: Estimate(value=1.0, low=0.9, high=1.2), 128: Estimate(value=1.5, low=1.4, high=1.6)}
        >>> step_time_at(measured, 96)
        Estimate(value=1.25, low=1.15, high=1.4)
        >>> step_time_at(measured, 256)
        Estimate(value=2.5, low=1.4, high=3.2)
        >>> step_time_at({64: Estimate(value=1.0, low=0.9, high=1.2)}, 128)
        Estimate(value=None, low=0.9, high=2.4)
    """
    sizes = sorted(measured)
    if not sizes:
        return None
    if same := [size for size in sizes if size == samples]:
        return measured[same[0]]
    below = [size for size in sizes if size < samples]
    above = [size for size in sizes if size > samples]
    if below and above:
        ends = below[-1], above[0]
        parts = [
            _on_line(ends, [_part(measured[size], name) for size in ends], samples) for name in ("low", "value", "high")
        ]
        return Estimate(low=parts[0], value=parts[1], high=parts[2])
    nearest = below[-1] if below else above[0]
    found, factor = measured[nearest], samples / nearest
    low = _part(found, "low") * min(1.0, factor)
    high = _part(found, "high") * max(1.0, factor)
    if len(sizes) == 1:
        return Estimate(value=None, low=low, high=high)
    two = (sizes[-2], sizes[-1]) if below else (sizes[0], sizes[1])
    value = _on_line(two, [_part(measured[size], "value") for size in two], samples)
    return Estimate(value=min(max(value, low), high), low=low, high=high)


def _part(estimate: Estimate, name: str) -> float:
    part = getattr(estimate, name)
    return estimate.value or math.nan if part is None else float(part)


def _on_line(places: Sequence[float], values: Sequence[float], place: float) -> float:
    share = (place - places[0]) / (places[1] - places[0])
    return values[0] + share * (values[1] - values[0])
