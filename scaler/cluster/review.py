"""Decide during a run whether it continues: a search does so at certain evaluations."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Decision = Literal["continue", "stop"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Review:
    """Where a run waits for a decision, and who decides.

    After the first evaluation at or after each place, the workers take one more step, and wait.

    Args:
        places: in samples seen, rising.
        decide: called with the samples seen and the values of the evaluation; the run waits until it returns.
        reason: who asks the workers to stop, for the run's events.
    """

    places: Sequence[int]
    decide: Callable[[int, Mapping[str, float | None]], Decision]
    reason: str


def is_due(places: Sequence[int], *, before: int, now: int) -> bool:
    """Return whether one of the places lies after ``before`` and not after ``now``; all are samples seen.

    Example:
        >>> [is_due([100, 300], before=before, now=now) for before, now in ((0, 90), (90, 120), (120, 290))]
        [False, True, False]
    """
    return any(before < place <= now for place in places)


def places_between(first: float, ratio: float, end: float) -> list[int]:
    """Return ``first``, ``first * ratio``, ``first * ratio**2``, ... before ``end``, in whole samples.

    Example:
        >>> places_between(100, 3, 1000)
        [100, 300, 900]
    """
    found, place = [], first
    while place < end:
        found.append(round(place))
        place *= ratio
    return list(dict.fromkeys(found))  # short ones may round to the same
