"""Lower the learning rate when evaluations stop improving: torch's ``ReduceLROnPlateau`` as a pure function.

The product of the cuts is a share of the peak learning rate. It multiplies the learning rate of the rule and the
schedule, so it stays valid after a resize, which changes the peak.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import inf, isfinite
from typing import Any, Literal, Self

from scaler.errors import PlanError


@dataclass(frozen=True, kw_only=True, slots=True)
class PlateauState:
    """The state of ``Plateau`` between evaluations.

    Args:
        best: best value so far; None before the first.
        bad: evaluations in a row that did not improve on ``best``, outside a cooldown.
        cooldown_left: evaluations that are left of the current cooldown.
        factor: product of all cuts, in (0, 1]; multiplies the learning rate.

    Example:
        >>> PlateauState.from_dict(PlateauState(best=0.5, factor=0.1).to_dict())
        PlateauState(best=0.5, bad=0, cooldown_left=0, factor=0.1)
    """

    best: float | None = None
    bad: int = 0
    cooldown_left: int = 0
    factor: float = 1.0

    def to_dict(self) -> dict[str, float | None]:
        """Return plain values for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Return the state that ``to_dict`` wrote."""
        return cls(**state)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plateau:
    """When to cut the learning rate, and by how much. Defaults are torch's.

    A value improves if it is better than the best value so far by more than ``threshold``:

        mode  threshold_mode  improves if
        min   rel             value < best * (1 - threshold)
        min   abs             value < best - threshold
        max   rel             value > best * (1 + threshold)
        max   abs             value > best + threshold

    The first value always improves. After more than ``patience`` evaluations in a row that do not improve, the product
    of the cuts is multiplied by ``factor``, and the next ``cooldown`` evaluations do not count as bad (they can still
    be the best).

    Two properties follow from torch's formulas. For a negative best value, ``rel`` counts an equal value as an
    improvement: use ``abs`` for such a metric. And nan never improves: it counts as bad.

    Args:
        mode: ``min``: lower is better; ``max``: higher is better.
        factor: factor of one cut, in (0, 1).
        patience: bad evaluations in a row that are allowed, >= 0; the next one causes a cut. It does not count steps.
        threshold: smallest improvement that counts, >= 0; with ``threshold_mode: rel`` a share of the best, below 1.
        threshold_mode: ``rel`` or ``abs``.
        cooldown: evaluations after a cut that do not count as bad, >= 0.
        min_factor: smallest product of the cuts, in [0, 1].

    Raises:
        PlanError: a setting outside its range.

    Sources:
        https://docs.pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.ReduceLROnPlateau.html, version 2.13:
        the factor is its ``lr / base_lr`` after every evaluation, to the last bit if base_lr is a power of 2.
        ``min_factor`` is its ``min_lr / base_lr``. There is no ``eps``: torch ignores a cut of the learning rate by
        less than 1e-8, which is every cut of a small learning rate.

    Example:
        >>> plateau, state = Plateau(factor=0.5, patience=1), PlateauState()
        >>> factors = []
        >>> for loss in (1.0, 0.8, 0.9, 0.8, 0.7, 0.7, 0.7):
        ...     state = plateau.step(state, loss)
        ...     factors.append(state.factor)
        >>> factors
        [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25]
    """

    mode: Literal["min", "max"] = "min"
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    threshold_mode: Literal["rel", "abs"] = "rel"
    cooldown: int = 0
    min_factor: float = 0.0

    def __post_init__(self) -> None:
        if self.mode not in ("min", "max"):
            raise PlanError(f"plateau.mode = {self.mode} is not a mode.", "Modes: min, max.")
        if self.threshold_mode not in ("rel", "abs"):
            raise PlanError(f"plateau.threshold_mode = {self.threshold_mode} is not a mode.", "Modes: rel, abs.")
        if not 0.0 < self.factor < 1.0:
            raise PlanError(
                f"plateau.factor = {self.factor:g} is not in (0, 1).",
                "A cut multiplies the learning rate by it, such as 0.1.",
            )
        if not 0.0 <= self.min_factor <= 1.0:
            raise PlanError(f"plateau.min_factor = {self.min_factor:g} is not in [0, 1].", "It is a share of peak_lr.")
        for name, count in (("patience", self.patience), ("cooldown", self.cooldown)):
            if count < 0:
                raise PlanError(f"plateau.{name} = {count} is negative.", "It counts evaluations; 0 means none.")
        if not (self.threshold >= 0.0 and isfinite(self.threshold)):
            raise PlanError(
                f"plateau.threshold = {self.threshold:g} is not a number of 0 or more.",
                "Use 0 to count any improvement.",
            )
        if self.threshold_mode == "rel" and self.threshold >= 1.0:
            raise PlanError(
                f"plateau.threshold = {self.threshold:g} is not below 1, which threshold_mode = rel needs.",
                "It is a share of the best value; for a difference use threshold_mode: abs.",
            )

    def step(self, state: PlateauState, value: float) -> PlateauState:
        """Return the state after one more evaluation that gave ``value``.

        Example:
            >>> Plateau(patience=0).step(PlateauState(best=1.0), 2.0)
            PlateauState(best=1.0, bad=0, cooldown_left=0, factor=0.1)
        """
        improved = self._improves(value, state.best)
        bad = 0 if improved or state.cooldown_left > 0 else state.bad + 1
        best = value if improved else state.best
        if bad > self.patience:
            # The outer min: a min_factor that was raised at a resume must not raise the learning rate.
            factor = min(state.factor, max(state.factor * self.factor, self.min_factor))
            return PlateauState(best=best, bad=0, cooldown_left=self.cooldown, factor=factor)
        return PlateauState(best=best, bad=bad, cooldown_left=max(state.cooldown_left - 1, 0), factor=state.factor)

    def _improves(self, value: float, best: float | None) -> bool:
        if self.mode == "min":
            best = inf if best is None else best
            return value < (best * (1.0 - self.threshold) if self.threshold_mode == "rel" else best - self.threshold)
        best = -inf if best is None else best
        return value > (best * (1.0 + self.threshold) if self.threshold_mode == "rel" else best + self.threshold)
