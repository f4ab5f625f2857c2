"""Parameters that are not trained, or not yet."""

from collections.abc import Mapping, Sequence

from torch import nn

from scaler.plan import PlanGroup


class Freezing:
    """Freezes and unfreezes the parameters of a plan's groups.

    Args:
        parameters: name -> parameter, of the whole model.
        groups: the plan's.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], groups: Sequence[PlanGroup]) -> None:
        self._frozen = [(group, [parameters[name] for name in group.tensors]) for group in groups if group.frozen]

    def apply(self, samples_seen: int) -> bool:
        """Let each parameter be as the plan says after ``samples_seen`` samples; return whether one changed."""
        changed = False
        for group, parameters in self._frozen:
            trained = group.unfreeze_at is not None and samples_seen >= group.unfreeze_at
            for parameter in parameters:
                changed = changed or parameter.requires_grad != trained
                parameter.requires_grad_(trained)
        return changed
