"""The moment at which a process's own gradient is complete, before it waits for the others."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from scaler.training.clock import Mark

LEARNT_AFTER = 2  # steps after which the parameter that is last is known


class GradientReady:
    """Marks the moment at which the last gradient of a backward was accumulated.

    At first it listens to every parameter; then only to the one whose gradient came last, which costs a microsecond.

    Args:
        mark: marks this point in the device's work.
    """

    def __init__(self, mark: Callable[[], Mark]) -> None:
        self._mark = mark
        self._handles: list[RemovableHandle] = []
        self._last: tuple[Tensor, Mark] | None = None
        self._steps = 0

    def watch(self, model: nn.Module) -> None:
        """Listen to a model's parameters."""
        self._handles += [
            parameter.register_post_accumulate_grad_hook(self._arrived)  # type: ignore[no-untyped-call]
            for parameter in model.parameters()
            if parameter.requires_grad
        ]

    def take(self, *, synced: Mark) -> Mark:
        """Return the moment in the step that ends; ``synced``, the end of the all-reduce, if it is not known."""
        last, self._last = self._last, None
        self._steps += 1
        if last is None:
            return synced
        if self._steps == LEARNT_AFTER:
            for handle in self._handles:
                handle.remove()
            self._handles = [last[0].register_post_accumulate_grad_hook(self._arrived)]  # type: ignore[no-untyped-call]
        return last[1]

    def _arrived(self, parameter: Tensor) -> None:
        self._last = (parameter, self._mark())
