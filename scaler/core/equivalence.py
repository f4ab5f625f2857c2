"""Is a group of runs as good as the baseline? An equivalence test within a margin that was fixed beforehand.

"No significant difference" is no evidence that two groups are equal: few runs never show a difference. Here equality
has to be shown. The interval of the difference must lie within the margin.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from scaler.core.intervals import deviation
from scaler.core.student_t import two_sided_chance, two_sided_quantile
from scaler.errors import PlanError

_POWER_80 = 0.8416  # the normal quantile of 80 %

Mode = Literal["max", "min"]
Verdict = Literal["equivalent", "better", "worse", "undecided"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Equivalence:
    """What the paired differences of a metric say about one group.

    Args:
        difference: mean of candidate minus baseline, in the metric's unit.
        low: lower end of the interval of the difference; None: one pair, or no spread to judge by.
        high: upper end.
        level: of the interval: ``1 - 2 * alpha``.
        p_equivalent: p-value of the equivalence test; 1 without an interval.
        verdict: ``equivalent``: the interval lies within the margin. ``better`` or ``worse``: not within the margin,
            and on one side of 0. ``undecided``: everything else; more seeds may decide it.
        is_as_good: whether the group is worse by less than the margin, however much better it may be.
    """

    difference: float
    low: float | None
    high: float | None
    level: float
    p_equivalent: float
    verdict: Verdict
    is_as_good: bool


def equivalence(
    differences: Sequence[float], *, margin: float, mode: Mode, alpha: float = 0.05, resolution: float = 0.0
) -> Equivalence:
    """Return what the differences of pairs of runs say: two one-sided t-tests (TOST).

        interval = mean +- q s / sqrt(n)    with q Student's two-sided quantile at level 1 - 2 alpha, n - 1 degrees
        equivalent if -margin < low and high < margin;    as good if -margin < low (``min``: high < margin)

    The chance of calling a group equivalent that differs by the margin or more is at most ``alpha``. The same holds for
    the other verdicts. The differences are taken as independent and about normally distributed.

    Args:
        differences: candidate minus baseline, one for each seed (``scaler.core.intervals.paired_differences``).
        margin: the largest difference that does not matter, in the metric's unit, > 0; fixed before the runs.
        mode: whether a higher (``max``) or a lower (``min``) metric is better.
        alpha: level of the test, in (0, 0.5).
        resolution: the smallest step of the metric, such as 1 / samples for an accuracy; 0: continuous. Differences of
            a coarse metric may be equal by chance, so the standard deviation is taken as at least half a step. Without
            a resolution, differences that are all equal have no interval.

    Raises:
        PlanError: no differences, one that is not finite, or a margin, level or resolution outside its range.

    Sources:
        Schuirmann 1987, https://doi.org/10.1007/BF01068419.

    Example:
        >>> found = equivalence([0.002, -0.001, 0.001], margin=0.01, mode="max")
        >>> found.verdict, round(found.low, 4), round(found.high, 4)
        ('equivalent', -0.0019, 0.0032)
        >>> equivalence([-0.03, -0.04, -0.05], margin=0.01, mode="max").verdict
        'worse'
    """
    if not 0 < margin < math.inf:
        raise PlanError(f"margin = {margin:g} is not a finite number above 0.", "Such as 0.01.")
    if not 0 < alpha < 0.5:
        raise PlanError(f"alpha = {alpha:g} is not in (0, 0.5).", "Such as 0.05.")
    if not 0 <= resolution < math.inf:
        raise PlanError(f"resolution = {resolution:g} is not a finite number of at least 0.", "0 means continuous.")
    level = 1 - 2 * alpha
    spread = deviation(differences)
    mean = math.fsum(differences) / len(differences)
    spread = None if spread is None else max(spread, resolution / 2)
    if not spread:
        return Equivalence(
            difference=mean, low=None, high=None, level=level, p_equivalent=1.0, verdict="undecided", is_as_good=False
        )
    freedom = len(differences) - 1
    error = spread / math.sqrt(len(differences))
    reach = two_sided_quantile(level, freedom=freedom) * error
    low, high = mean - reach, mean + reach
    is_within = -margin < low and high < margin
    sign = 1 if mode == "max" else -1
    verdict: Verdict = "undecided"
    if is_within:
        verdict = "equivalent"
    elif low > 0 or high < 0:
        verdict = "better" if sign * mean > 0 else "worse"
    return Equivalence(
        difference=mean,
        low=low,
        high=high,
        level=level,
        p_equivalent=_above((margin - abs(mean)) / error, freedom),
        verdict=verdict,
        is_as_good=low > -margin if mode == "max" else high < margin,
    )


def pairs_to_decide(
    mean: float, spread: float, *, margin: float, mode: Mode, level: float, most: int = 200
) -> int | None:
    """Return the number of pairs that probably decides whether a group is as good as the baseline, or worse.

    With mean m and standard deviation s of the differences, n pairs decide with a chance of about 80 % where

        q s / sqrt(n) + z s / sqrt(n) < max(margin + m, -m)    (``max``; ``min``: with -m for m)

    with q Student's quantile as in ``equivalence`` and z = 0.84. The first gap is that to "as good", the second that to
    "worse". The seen mean and spread are taken for the true ones, so the number is a guide.

    Args:
        mean: of the differences that were seen.
        spread: their standard deviation, > 0.
        margin: as in ``equivalence``.
        mode: as in ``equivalence``.
        level: of the interval at which the group is tested, in (0, 1).
        most: the largest number that is looked at.

    Returns:
        At least 2. None: ``most`` pairs would not decide.

    Example:
        >>> pairs_to_decide(-0.02, 0.02, margin=0.015, mode="max", level=0.90)
        8
    """
    loss = -mean if mode == "max" else mean
    gap = max(margin - loss, loss)

    def decides(pairs: int) -> bool:
        reach = two_sided_quantile(level, freedom=pairs - 1) + _POWER_80
        return reach * spread / math.sqrt(pairs) < gap

    return bisect_left(range(most), True, lo=2, key=decides) if decides(most) else None


def _above(t: float, freedom: float) -> float:
    """Return ``P(T > t)`` for Student's T."""
    half = two_sided_chance(t, freedom) / 2
    return half if t > 0 else 1 - half


def equivalences(
    groups: Mapping[str, Sequence[float]], *, margin: float, mode: Mode, alpha: float = 0.05, resolution: float = 0.0
) -> dict[str, Equivalence]:
    """Return ``equivalence`` for several groups that are compared with one baseline, by Holm's method.

    With m groups, one of them would pass by chance up to m times as often. So the group with the smallest p-value is
    tested at ``alpha / m``, the next at ``alpha / (m - 1)`` and so on, until one fails; those after it are tested
    at the level of the one that failed. The chance that any group is called equivalent and is not, is then at most
    ``alpha``. Each group's interval has the level at which the group was tested.

    Args:
        groups: name -> the differences of its pairs, as in ``equivalence``.
        margin: as in ``equivalence``.
        mode: as in ``equivalence``.
        alpha: level of all tests together, in (0, 0.5).
        resolution: as in ``equivalence``.

    Raises:
        PlanError: as ``equivalence``.

    Sources:
        Holm 1979, https://www.jstor.org/stable/4615733.

    Example:
        >>> found = equivalences({"a": [0.002, -0.001, 0.001], "b": [0.001, 0.002, 0.0]}, margin=0.01, mode="max")
        >>> [(name, round(one.level, 3), one.verdict) for name, one in found.items()]
        [('a', 0.9, 'equivalent'), ('b', 0.95, 'equivalent')]
    """

    def test(name: str, level: float) -> Equivalence:
        return equivalence(groups[name], margin=margin, mode=mode, alpha=level, resolution=resolution)

    alone = {name: test(name, alpha) for name in groups}
    found: dict[str, Equivalence] = {}
    left, has_failed = len(groups), False
    for name in sorted(groups, key=lambda name: alone[name].p_equivalent):
        found[name] = test(name, alpha / left)
        has_failed = has_failed or found[name].verdict != "equivalent"
        left -= not has_failed
    return {name: found[name] for name in groups}
