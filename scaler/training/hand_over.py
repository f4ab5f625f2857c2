"""How often workers hand over, in steps, so that all of them can agree on it."""

from time import perf_counter

HAND_OVER_S = 1.0


class Pace:
    """Decides at which steps records are handed over.

    Attributes:
        window: steps from one hand-over to the next, when nothing comes between; on all workers the same.
    """

    def __init__(self) -> None:
        self._steps = 0
        self._due = self.window = 1
        self._began = perf_counter()

    def is_due(self) -> bool:
        """Count a step; return whether it is one of those."""
        self._steps += 1
        return self._steps >= self._due

    def step_time_s(self) -> float:
        """Return this worker's mean time per step since the last hand-over."""
        return (perf_counter() - self._began) / max(self._steps, 1)

    def next_after(self, step_time_s: float) -> None:
        """Set the next hand-over ``HAND_OVER_S`` away; at most ten times as far as the last: first steps are slow."""
        self.window = max(1, min(int(HAND_OVER_S / max(step_time_s, 1e-9)), 10 * self.window))
        self._due = self.window
        self._steps, self._began = 0, perf_counter()

    def after_a_break(self) -> None:
        """Hand over at the next step: an evaluation took its time, and somebody may have asked for something."""
        self._due = 1
