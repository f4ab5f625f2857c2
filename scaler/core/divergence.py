"""Detect a training that has diverged, from its losses alone, without false alarms for noisy ones."""

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, Self

from scaler.errors import PlanError

START_STEPS = 10  # the loss at the start is the median of these steps
LOST_SHARE = 0.5  # of the fall from the start to the lowest median: a loss that has risen by more has diverged
LOST_TIMES = 2.0  # times the lowest median: the loss must also be above this, because its fall may be small


@dataclass(frozen=True, kw_only=True, slots=True)
class DivergenceState:
    """The state of ``DivergenceGuard`` between steps: at most ``DivergenceGuard.window`` losses.

    Args:
        recent: the losses that the next one is compared with, oldest first.
        ordered: the same, sorted; kept because sorting 100 numbers in every step would cost more than the rest.
        above: steps in a row whose loss was above the limit of condition 2 (see ``DivergenceGuard``).
        first: the losses at the start, at most ``START_STEPS``.
        low: the lowest running median so far; None before the median covers ``START_STEPS`` losses.
        lost: steps in a row whose loss was above the limit of condition 3.

    Example:
        >>> saved = DivergenceState(recent=(0.5, 0.25), ordered=(0.25, 0.5)).to_dict()
        >>> DivergenceState.from_dict(saved).ordered
        (0.25, 0.5)
    """

    recent: tuple[float, ...] = ()
    ordered: tuple[float, ...] = ()
    above: int = 0
    first: tuple[float, ...] = ()
    low: float | None = None
    lost: int = 0

    @property
    def median(self) -> float | None:
        """The running median; None before the first loss."""
        return _median(self.ordered) if self.ordered else None

    def to_dict(self) -> dict[str, list[float] | float | int | None]:
        """Return plain values for a checkpoint."""
        return {
            "recent": list(self.recent),
            "above": self.above,
            "first": list(self.first),
            "low": self.low,
            "lost": self.lost,
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Return the state that ``to_dict`` wrote."""
        recent = tuple(state["recent"])
        return cls(
            recent=recent,
            ordered=tuple(sorted(recent)),
            above=state["above"],
            first=tuple(state["first"]),
            low=state["low"],
            lost=state["lost"],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class DivergenceGuard:
    """The conditions under which a training counts as diverged.

    1. A loss is nan, inf or -inf: at once.
    2. The loss is above ``multiple`` times the median of the last ``window`` losses, ``confirm`` steps in a row. Losses
       above this limit are not added to the window, so that later losses are compared with those before the divergence.
       If the median is 0 or less, its multiples are no limit: for such a loss (a log-density, a reward) only condition
       1 is checked.
    3. The loss has risen again by half of its fall since the start, ``lasting`` steps in a row. For example, the loss
       of a language model that falls back to chance becomes a few times larger and stays there. The loss is then above

            max(low + 0.5 * (start - low), 2 * low)

       with ``start`` the median of the first 10 losses and ``low`` the lowest running median.

    The defaults were chosen on the digits (an MLP, SGD; 48 healthy runs at batch 1 to 256, and 30 that diverged
    because of a too high learning rate, at once or after 300 steps). Single steps of healthy runs are the difficulty:
    at batch 1 or 2, most losses late in training are near 0, and ten times their median is common.

        multiple  confirm  window  grace    healthy runs stopped    diverged runs found
              10        3     100      2    12 of 48                29 of 30, within 11 steps
              10       10     100      2     0 of 48                29 of 30, within 18 steps (the default)
              10       10      50      2     1 of 48                29 of 30, within 18 steps
              10       10     100     10     0 of 48                12 of 30
              20       10     100      2     0 of 48                15 of 30

    Not detected: a loss that rises within ``grace`` steps and stays high; a loss that never fell; a loss that rises by
    less than half of its fall. A false alarm: the data become so much harder that the loss rises by half of its fall
    for ``lasting`` steps.

    Args:
        multiple: a loss above this many times the running median is too high, > 1.
        window: number of losses that the median is taken over, >= 1.
        grace: number of losses before the first comparison with the median, in [1, window]. It is small on purpose: a
            learning rate that is too high shows in the first ten steps, and these must not raise the median.
        confirm: steps in a row above the limit that count as diverged, >= 1; fewer are outliers.
        lasting: steps in a row above the limit of condition 3 that count as diverged, >= 1; None: not checked.

    Raises:
        PlanError: a setting outside its range.

    Example:
        >>> guard, state = DivergenceGuard(confirm=2), DivergenceState()
        >>> for loss in (2.5, 2.0, 2.2, 30.0, 2.1, 40.0, 50.0):
        ...     state, reason = guard.observe(state, loss)
        >>> reason
        'loss 50 is 23.3 times the running median 2.15 of 4 steps; 2 steps in a row are above 10 times it'
    """

    multiple: float = 10.0
    window: int = 100
    grace: int = 2
    confirm: int = 10
    lasting: int | None = 50

    def __post_init__(self) -> None:
        if not self.multiple > 1.0:
            raise PlanError(
                f"divergence.multiple = {self.multiple:g} is not above 1.", "It multiplies the median of the losses."
            )
        if self.window < 1:
            raise PlanError(f"divergence.window = {self.window} is not a number of steps.", "Use 1 or more.")
        if not 1 <= self.grace <= self.window:
            raise PlanError(
                f"divergence.grace = {self.grace} is not in [1, {self.window}].",
                "It counts losses in the window; for a longer grace, raise divergence.window.",
            )
        if self.confirm < 1:
            raise PlanError(f"divergence.confirm = {self.confirm} is not a number of steps.", "Use 1 or more.")
        if self.lasting is not None and self.lasting < 1:
            raise PlanError(f"divergence.lasting = {self.lasting} is not a number of steps.", "Use 1 or more.")

    def observe(self, state: DivergenceState, loss: float | None) -> tuple[DivergenceState, str | None]:
        """Return the state after a step, and why the training has diverged; None: it has not.

        Args:
            state: the state after the step before.
            loss: the step's loss, the mean over its samples; None: not known, and the state does not change.

        Example:
            >>> DivergenceGuard().observe(DivergenceState(), float("nan"))[1]
            'loss is nan'
        """
        if loss is None:
            return state, None
        if not isfinite(loss):
            return state, f"loss is {loss}"
        state, lost = self._compare_with_start(state, loss)
        median = state.median
        judged = median is not None and median > 0.0 and len(state.recent) >= self.grace
        if median is not None and judged and loss > self.multiple * median:
            above = state.above + 1
            reason = None if above < self.confirm else self._reason(loss, median, steps=len(state.recent), above=above)
            return replace(state, above=above), reason or lost
        return self._admit(state, loss), lost

    def _compare_with_start(self, state: DivergenceState, loss: float) -> tuple[DivergenceState, str | None]:
        """Return the state with the start's losses and the lowest median, and why condition 3 holds, if it does."""
        if self.lasting is None:
            return state, None
        if len(state.first) < START_STEPS:
            return replace(state, first=(*state.first, loss)), None
        low, median = state.low, state.median
        if median is not None and len(state.recent) >= START_STEPS and (low is None or median < low):
            low = median
        if low is None or low <= 0.0:
            return replace(state, low=low, lost=0), None
        start = _median(sorted(state.first))
        limit = max(low + LOST_SHARE * (start - low), LOST_TIMES * low)
        lost = state.lost + 1 if loss > limit else 0
        reason = (
            f"loss {loss:.3g} was {low:.3g} before, and {start:.3g} at the start; {lost} steps in a row are above "
            f"{limit:.3g}"
        )
        return replace(state, low=low, lost=lost), reason if lost >= self.lasting else None

    def is_suspect(self, state: DivergenceState) -> bool:
        """Return whether the last losses were above a limit: a run must not go back to these weights."""
        return state.above > 0 or state.lost >= self.confirm

    def _admit(self, state: DivergenceState, loss: float) -> DivergenceState:
        ordered = list(state.ordered)
        gone = max(len(ordered) + 1 - self.window, 0)  # more than one after a resume with a shorter window
        for old in state.recent[:gone]:
            del ordered[bisect_left(ordered, old)]
        insort(ordered, loss)
        return replace(state, recent=(*state.recent[gone:], loss), ordered=tuple(ordered), above=0)

    def _reason(self, loss: float, median: float, *, steps: int, above: int) -> str:
        reason = f"loss {loss:.3g} is {loss / median:.3g} times the running median {median:.3g} of {steps} steps"
        return reason if above == 1 else f"{reason}; {above} steps in a row are above {self.multiple:g} times it"


def _median(ordered: Sequence[float]) -> float:
    middle, is_odd = divmod(len(ordered), 2)
    return ordered[middle] if is_odd else (ordered[middle - 1] + ordered[middle]) / 2
