"""Divide gradients as Adam and RMSprop will, for noise measurements."""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

from torch import Tensor, nn

from scaler.errors import JobFileError
from scaler.training.optimizer.settings import Optimizer, decay_of_steps


class Preconditioner:
    """Divides gradients by the root of the optimizer's running squares, as Adam and RMSprop do.

        squares = beta2 * v + (1 - beta2) * mean(v) / (1 - beta2 ** t)     and for Adam, / (1 - beta2 ** (t + 1))

    ``v`` is the running squares after ``t`` steps, and the mean is over the parameter. The optimizer itself uses this
    step's squared gradient in place of the mean. This bounds the update of a coordinate that was dead (of a ReLU, for
    example). Here the mean over the parameter does it, because one divisor must serve every part of the step and the
    whole gradient: otherwise the estimates are biased. The mean is known before the step, and is the same on every
    worker. Without the mean, a coordinate that becomes active would outweigh all others permanently. So would the first
    steps, because their ``v`` comes from one or two gradients.

    Args:
        optimizer: one that keeps ``exp_avg_sq`` or ``square_avg``.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}

    def is_ready(self) -> bool:
        """Return whether the optimizer has taken a step."""
        return len(self._optimizer.state) > 0

    def __call__(self, parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the divided gradients; the given ones are not changed.

        Gradients of parameters that have not taken a step yet (just unfrozen) are left out. A parameter whose gradients
        were all 0 so far gives 0.
        """
        return [
            gradient / (self._squares(parameter, state).sqrt() + self._groups[id(parameter)]["eps"])
            for parameter, gradient in zip(parameters, gradients, strict=True)
            if (state := self._optimizer.state.get(parameter))
        ]

    def _squares(self, parameter: nn.Parameter, state: Mapping[str, Any]) -> Tensor:
        group = self._groups[id(parameter)]
        found = state.get("exp_avg_sq", state.get("square_avg"))
        decay = decay_of_steps(self._optimizer, group)
        if not isinstance(found, Tensor) or decay is None:
            raise JobFileError(
                f"scale.rule = adascale needs running squares, and {type(self._optimizer).__name__} has none.",
                "Use sgd, adam, adamw or rmsprop.",
            )
        steps = float(state["step"] if "step" in state else group["step"])
        usual = found.mean() / (1.0 - decay**steps)
        usual = usual.where(usual > 0.0, inf)  # all gradients were 0: the result is 0
        squares: Tensor = decay * found + (1.0 - decay) * usual
        return squares / (1.0 - decay ** (steps + 1.0)) if "exp_avg_sq" in state else squares
