"""Estimates, differences and confidences of an experiment as text."""

from scaler.core.intervals import Estimate
from scaler.report.experiment.model import Difference
from scaler.report.text.format import number

FACTOR = 2  # an interval that has half as fast and twice as fast shows no speed


def interval_text(difference: Difference) -> str:
    """Return a difference with its interval.

    Example:
        >>> known = {"verdict": "equivalent", "equivalent": True, "is_as_good": True, "pairs": 3, "each": ()}
        >>> interval_text(Difference(mean=0.001, low=-0.004, high=0.006, level=0.9, **known))
        '+0.001, 90% interval -0.004 to +0.006'
    """
    mean = f"{difference.mean:+.3g}"
    if difference.low is None or difference.high is None:
        return f"{mean}, no interval"
    return f"{mean}, {level_text(difference.level)} interval {difference.low:+.2g} to {difference.high:+.2g}"


def level_text(level: float) -> str:
    """Return a confidence in percent.

    Example:
        >>> level_text(0.9), level_text(0.99875)
        ('90%', '99.9%')
    """
    return f"{100 * level:.3g}%"


def estimate_text(estimate: Estimate | None, digits: int = 3) -> str:
    """Return a value with its interval, or the bounds that are known.

    Example:
        >>> estimate_text(Estimate(value=1.8234, low=1.7, high=1.95)), estimate_text(Estimate(value=None, low=500.0))
        ('1.82 (1.7 to 1.95)', 'over 500')
        >>> estimate_text(Estimate(value=None, high=2.0)), estimate_text(Estimate(value=None, low=1.0, high=2.0))
        ('under 2', '1 to 2')
    """
    if estimate is None:
        return "–"
    low, high = number(estimate.low, digits), number(estimate.high, digits)
    if estimate.value is None:
        if estimate.has_interval:
            return f"{low} to {high}"
        return f"over {low}" if estimate.low is not None else f"under {high}" if estimate.high is not None else "–"
    value = number(estimate.value, digits)
    return f"{value} ({low} to {high})" if estimate.has_interval and estimate.low != estimate.high else value


def is_speed_known(speed_up: Estimate) -> bool:
    """Return whether the interval of a speed-up leaves out half as fast, or twice as fast.

    Example:
        >>> [is_speed_known(Estimate(value=2.1, low=low, high=3.8)) for low in (0.003, 1.0)]
        [False, True]
    """
    return speed_up.low is None or speed_up.high is None or not (speed_up.low <= 1 / FACTOR and speed_up.high >= FACTOR)


def speed_up_text(speed_up: Estimate | None) -> str:
    """Return a speed-up with its interval; one that may be half as fast and twice as fast is not known.

    Example:
        >>> [speed_up_text(Estimate(value=2.1, low=low, high=3.8)) for low in (0.0029, 1.9)]
        ['not known (0.0029 to 3.8)', '2.1 (1.9 to 3.8)']
    """
    if speed_up is not None and speed_up.value is not None and not is_speed_known(speed_up):
        return f"not known ({number(speed_up.low, 2)} to {number(speed_up.high, 2)})"
    return estimate_text(speed_up, 2)
