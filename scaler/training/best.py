"""The best value of an evaluation in a run."""

from collections.abc import Mapping
from math import isfinite
from typing import Any

from scaler.job.model import Best


class BestValue:
    """Knows the best value so far of the metric that the job names; the same on every worker.

    Args:
        wanted: the job's ``checkpoint.best``; None: there is no best.

    Attributes:
        value: the best so far; None before the first one.
    """

    def __init__(self, wanted: Best | None) -> None:
        self._wanted = wanted
        self.value: float | None = None

    @property
    def metric(self) -> str | None:
        """The metric's name; None without ``checkpoint.best``."""
        return self._wanted.metric if self._wanted is not None else None

    @property
    def of(self) -> list[str] | None:
        """The metric's name and which way is better, as plain values."""
        return [self._wanted.metric, self._wanted.mode] if self._wanted is not None else None

    def is_best(self, values: Mapping[str, float]) -> bool:
        """Return whether an evaluation is better than all before it that were kept."""
        if self._wanted is None or not isfinite(value := values[self._wanted.metric]):
            return False
        sign = 1.0 if self._wanted.mode == "max" else -1.0
        return self.value is None or sign * value > sign * self.value

    def keep(self, values: Mapping[str, float]) -> None:
        """Remember an evaluation as the best one."""
        assert self._wanted is not None
        self.value = values[self._wanted.metric]

    def state_dict(self) -> dict[str, Any]:
        """Return the best value and its metric as plain values, for a checkpoint."""
        return {"best": self.value, "best_of": self.of}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state; a best value of another metric is forgotten."""
        self.value = state["best"] if state["best_of"] == self.of else None
