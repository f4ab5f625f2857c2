"""A curve as one line of text."""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from math import isfinite

LEVELS = "▁▂▃▄▅▆▇█"
WIDTH = 40
UNKNOWN = "·"


def sparkline(
    values: Sequence[float | None], *, keep: Callable[[Iterable[float]], float] = max, width: int = WIDTH
) -> str:
    """Return a curve as at most ``width`` block characters, from the least to the greatest value.

    Args:
        values: of the curve, at equal distances; None and values that are not finite are not known. A block without a
            known value is a dot.
        keep: which value of a block is shown: ``max`` keeps spikes, ``min`` keeps dips.
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
    """The index of a block character; the middle one for a flat curve."""
    if least == greatest:
        return len(LEVELS) // 2 - 1
    return round((value - least) / (greatest - least) * (len(LEVELS) - 1))
