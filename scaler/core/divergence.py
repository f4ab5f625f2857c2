"""Tell a training that has blown up from one that is noisy, by its losses alone."""

from bisect import bisect_left, insort
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, Self

from scaler.errors import PlanError


@dataclass(frozen=True, kw_only=True, slots=True)
class DivergenceState:
    """What is remembered between steps; never more than ``DivergenceGuard.window`` losses.

    Args:
        recent: losses the next one is judged by, oldest first.
        ordered: the same, sorted; carried along because sorting 100 numbers every step would cost more than the rest.
        above: steps in a row whose loss was above the limit.

    Example:
        >>> DivergenceState.from_dict({"recent": [0.5, 0.25], "above": 1})
        DivergenceState(recent=(0.5, 0.25), ordered=(0.25, 0.5), above=1)
    """

    recent: tuple[float, ...] = ()
    ordered: tuple[float, ...] = ()
    above: int = 0

    @property
    def median(self) -> float | None:
        """The running median; None before the first loss."""
        count = len(self.ordered)
        if count == 0:
            return None
        return self.ordered[count // 2] if count % 2 else (self.ordered[count // 2 - 1] + self.ordered[count // 2]) / 2

    def to_dict(self) -> dict[str, list[float] | int]:
        """Return plain values for a checkpoint."""
        return {"recent": list(self.recent), "above": self.above}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Return the state that ``to_dict`` wrote."""
        recent = tuple(state["recent"])
        return cls(recent=recent, ordered=tuple(sorted(recent)), above=state["above"])


@dataclass(frozen=True, kw_only=True, slots=True)
class DivergenceGuard:
    """When a training counts as diverged.

    At once: a loss that is nan, inf or -inf. And a loss above ``multiple`` times the median of the last ``window``
    losses, ``confirm`` steps in a row. Losses above that limit stay out of the window, so that a training which blows
    up is still measured by what it was before. A median of 0 or less has no multiples: such a training (a likelihood
    density, a reward) is judged by nan and inf only.

    The defaults were chosen on digits (an MLP, SGD; 48 healthy runs at batch 1 to 256, 30 that a learning rate too
    high blew up, at once or after 300 steps). What a healthy run does to single steps is the hard part: at batch 1 or
    2, most losses late in training are near 0, and ten times their median is ordinary.

        multiple  confirm  window  grace    healthy runs stopped    diverged runs found
              10        3     100      2    12 of 48                29 of 30, within 11 steps
              10       10     100      2     0 of 48                29 of 30, within 18 steps (the default)
              10       10      50      2     1 of 48                29 of 30, within 18 steps
              10       10     100     10     0 of 48                12 of 30
              20       10     100      2     0 of 48                15 of 30

    What it does not see: a loss that grows by less than multiple ** (2 / window) a step, 4.7 %, whose median keeps up
    until it is inf; one that blows up within ``grace`` and stays there; a model that falls back to chance, where that
    is less than ``multiple`` times the usual loss.

    Args:
        multiple: how many times the running median is too much, > 1.
        window: how many losses the median is taken over, >= 1.
        grace: losses to have before the first is judged by the median, in [1, window]. Small on purpose: a learning
            rate that is too high shows in the first ten steps, and they must not become the measure.
        confirm: steps in a row above the limit that make it a divergence, >= 1; fewer are an outlier.

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

    def __post_init__(self) -> None:
        if not self.multiple > 1.0:
            raise PlanError(f"divergence.multiple = {self.multiple:g} is not above 1.", "It multiplies a usual loss.")
        if self.window < 1:
            raise PlanError(f"divergence.window = {self.window} is not a number of steps.", "It is 1 or more.")
        if not 1 <= self.grace <= self.window:
            raise PlanError(
                f"divergence.grace = {self.grace} is not in [1, {self.window}].",
                "It counts losses of the window; raise divergence.window for a longer grace.",
            )
        if self.confirm < 1:
            raise PlanError(f"divergence.confirm = {self.confirm} is not a number of steps.", "1: at the first.")

    def observe(self, state: DivergenceState, loss: float | None) -> tuple[DivergenceState, str | None]:
        """Return the state after a step, and why it is a divergence; None: it is not.

        Args:
            state: what the steps before left behind.
            loss: the step's loss, the mean over its samples; None: not known, and nothing changes.

        Example:
            >>> DivergenceGuard().observe(DivergenceState(), float("nan"))[1]
            'loss is nan'
        """
        if loss is None:
            return state, None
        if not isfinite(loss):
            return state, f"loss is {loss}"
        median = state.median
        judged = median is not None and median > 0.0 and len(state.recent) >= self.grace
        if median is not None and judged and loss > self.multiple * median:
            above = state.above + 1
            reason = None if above < self.confirm else self._reason(loss, median, steps=len(state.recent), above=above)
            return DivergenceState(recent=state.recent, ordered=state.ordered, above=above), reason
        return self._admit(state, loss), None

    def _admit(self, state: DivergenceState, loss: float) -> DivergenceState:
        ordered = list(state.ordered)
        gone = max(len(ordered) + 1 - self.window, 0)  # more than one after a resume with a shorter window
        for old in state.recent[:gone]:
            del ordered[bisect_left(ordered, old)]
        insort(ordered, loss)
        return DivergenceState(recent=(*state.recent[gone:], loss), ordered=tuple(ordered))

    def _reason(self, loss: float, median: float, *, steps: int, above: int) -> str:
        reason = f"loss {loss:.3g} is {loss / median:.3g} times the running median {median:.3g} of {steps} steps"
        return reason if above == 1 else f"{reason}; {above} steps in a row are above {self.multiple:g} times it"
