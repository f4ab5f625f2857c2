"""Curves as one line of text."""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from math import isfinite

LEVELS = "▁▂▃▄▅▆▇█"
WIDTH = 40
UNKNOWN = "·"


def sparkline(
    values: Sequence[float | None], *, keep: Callable[[Iterable[float]], float] = max, width: int = WIDTH
) -> str:
    """Return a curve as a line of at most ``width`` blocks, the least value lowest and the greatest highest.

    Args:
        values: of the curve, at even places; None, and what is not finite, is not known, and a dot where a block has
            nothing else.
        keep: which of the values that share a block it shows: ``max``, so that no spike is lost, or ``min``.
        width: at least 1.

    Example:
        >>> sparkline([1, 2, 3, None, 5, 8]), sparkline([4, 4, 4]), sparkline([]), sparkline([0, 9, 0, 0], width=2)
        ('▁▂▃·▅█', '▄▄▄', '', '█▁')
    """
    count = min(width, len(values))
    edges = [index * len(values) // count for index in range(count + 1)] if count else [0]
    kept = []
    for start, end in pairwise(edges):
        known = [value for value in values[start:end] if value is not None and isfinite(value)]
        kept.append(keep(known) if known else None)
    shown = [value for value in kept if value is not None]
    least, greatest = (min(shown), max(shown)) if shown else (0.0, 0.0)
    return "".join(UNKNOWN if value is None else LEVELS[_level(value, least, greatest)] for value in kept)


def _level(value: float, least: float, greatest: float) -> int:
    """Which block; the middle one where a curve is flat."""
    if least == greatest:
        return len(LEVELS) // 2 - 1
    return round((value - least) / (greatest - least) * (len(LEVELS) - 1))
