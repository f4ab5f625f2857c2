"""Parameters that are not trained, or not yet."""

from collections.abc import Sequence

from torch import nn

from scaler.plan import PlanGroup
from scaler.training.modes import FrozenStatistics
from scaler.training.names import named_parameters


class Freezing:
    """Freezes and unfreezes the parameters of a plan's groups, and with them the statistics of their normalization.

    Args:
        model: not wrapped, in training mode.
        groups: the plan's.
    """

    def __init__(self, model: nn.Module, groups: Sequence[PlanGroup]) -> None:
        parameters = named_parameters(model)
        self._frozen = [(group, [parameters[name] for name in group.tensors]) for group in groups if group.frozen]
        self._statistics = FrozenStatistics(model)
        self._is_new = True

    def apply(self, samples_seen: int) -> bool:
        """Let each parameter be as the plan says after ``samples_seen`` samples; return whether one changed."""
        changed = False
        frozen: list[nn.Parameter] = []
        for group, parameters in self._frozen:
            trained = group.unfreeze_at is not None and samples_seen >= group.unfreeze_at
            frozen += [] if trained else parameters
            for parameter in parameters:
                changed = changed or parameter.requires_grad != trained
                parameter.requires_grad_(trained)
        if changed or self._is_new:
            self._statistics.hold(frozen)
            self._is_new = False
        return changed
