"""How far the batch can grow from one point of training: a search over multiples of the batch, and what follows.

Each multiple k of the batch has a loss: that of a branch with k times the batch and the rule's learning rate, after the
same samples. k holds if

    loss(k) <= min(loss(j) for every tried j < k) + tolerance

The search doubles k until one does not hold, and then divides the gap between the last k that holds and the first one
that does not. A loss above the tolerance, but not above twice the tolerance, may be noise: it counts only if the next
larger k does not hold either.

Source: Merrill et al. 2025, https://arxiv.org/abs/2505.23971. They stop after doubling, take a tolerance of 0.01 at
losses of about 2.5, and do not ask for a second k.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from math import inf, isfinite, sqrt
from statistics import fmean, stdev

LEAST_SHARE = 0.004  # of the loss: Merrill et al.'s 0.01 at a loss of 2.5
STANDARD_ERRORS = 2.0
CLEAR = 2.0  # times the tolerance: above it, a loss needs no second one


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """What a search has shown so far.

    Args:
        holds: the largest multiple that holds, with every tried one below it; None: not even 1 has a finite loss.
        fails: the smallest tried multiple above ``holds``, which does not hold; None: all tried ones hold, and nothing
            is known beyond ``holds``.
    """

    holds: int | None
    fails: int | None


def bounds(losses: Mapping[int, float], *, tolerance: float) -> Bounds:
    """Return the largest multiple that holds and the smallest one that does not.

    Args:
        losses: loss by multiple; NaN and infinity: the branch diverged.
        tolerance: of the loss, >= 0.

    Example:
        >>> bounds({1: 2.50, 2: 2.49, 4: 2.499, 8: 2.6}, tolerance=0.01)
        Bounds(holds=4, fails=8)
    """
    excess = _excess(losses)
    holds = None
    for multiple, larger in zip_longest(excess, list(excess)[1:]):
        if excess[multiple] <= tolerance:
            holds = multiple
        elif excess[multiple] > CLEAR * tolerance or larger is None or excess[larger] > tolerance:
            return Bounds(holds=holds, fails=multiple)
    return Bounds(holds=holds, fails=None)


def _excess(losses: Mapping[int, float]) -> dict[int, float]:
    """Return how much each loss is above the best one of a smaller multiple, by ascending multiple."""
    best, found = inf, {}
    for multiple, loss in sorted(losses.items()):
        found[multiple] = inf if not isfinite(loss) else 0.0 if best == inf else loss - best
        best = min(best, loss) if isfinite(loss) else best
    return found


def next_multiple(losses: Mapping[int, float], *, tolerance: float, most: int, resolution: float) -> int | None:
    """Return the multiple to try next; None: the search is over.

    It depends on the losses alone, so a search that was interrupted continues with those that are known.

    Args:
        losses: loss by multiple, of those tried so far.
        tolerance: of the loss, >= 0.
        most: the largest multiple to try.
        resolution: the search is over when the first multiple that fails is at most so many times the last that holds,
            or the next whole number; >= 1.

    Example:
        >>> losses = {}
        >>> while (k := next_multiple(losses, tolerance=0.125, most=64, resolution=1.2)) is not None:
        ...     losses[k] = 1.0 + max(0.0, k - 9) / 8
        >>> list(losses), bounds(losses, tolerance=0.125)
        ([1, 2, 4, 8, 16, 11, 9, 10], Bounds(holds=10, fails=11))
    """
    if not losses:
        return 1
    found = bounds(losses, tolerance=tolerance)
    if found.holds is None:
        return None
    if found.fails is None:
        return min(2 * found.holds, most) if found.holds < most else None
    is_clear = _excess(losses)[found.fails] > CLEAR * tolerance
    if found.fails == max(losses) and found.fails < most and not is_clear:
        return min(2 * found.fails, most)
    if found.fails <= max(found.holds + 1, resolution * found.holds):
        return None
    return min(max(round(sqrt(found.holds * found.fails)), found.holds + 1), found.fails - 1)


def seed_tolerance(losses: Sequence[float]) -> float:
    """Return a tolerance from repeats of one branch with other seeds.

        max(2 * stdev(losses) * sqrt(2 / n), 0.004 * mean(losses))    for n losses

    The first part is two standard errors of the difference between two means of n seeds: a smaller difference is not
    seen. Late in training, repeats of a branch differ by less than anyone cares about; there the second part is larger.

    Args:
        losses: one for each seed, finite; with one, the second part alone.

    Example:
        >>> round(seed_tolerance([2.4, 2.5, 2.6]), 4), seed_tolerance([2.5])
        (0.1633, 0.01)
    """
    noise = STANDARD_ERRORS * stdev(losses) * sqrt(2 / len(losses)) if len(losses) > 1 else 0.0
    return max(noise, LEAST_SHARE * abs(fmean(losses)))


def growth_points(held: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return where the batch can change, and its multiple from there on.

    Between two places, the batch is the smaller of their multiples; before the first one it does not grow, and after
    the last one its multiple is taken.

    Args:
        held: samples seen and the largest multiple that holds there, by ascending samples.

    Example:
        >>> growth_points([(100, 4), (500, 8), (900, 6)])
        [(100, 4), (500, 6)]
    """
    points: list[tuple[int, int]] = []
    before = 1
    for place, (samples, multiple) in enumerate(held):
        after = held[place + 1][1] if place + 1 < len(held) else multiple
        safe = min(multiple, after)
        if safe != before:
            points.append((samples, safe))
            before = safe
    return points
