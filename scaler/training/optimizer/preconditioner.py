"""Gradients as Adam and RMSprop will divide them."""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

from torch import Tensor, nn

from scaler.errors import JobFileError
from scaler.training.optimizer.settings import Optimizer, decay_of_steps


class Preconditioner:
    """Divides gradients as Adam and RMSprop will: by the root of their running squares.

        squares = beta2 * v + (1 - beta2) * mean(v) / (1 - beta2 ** t)     and with Adam, / (1 - beta2 ** (t + 1))

    with ``v`` the running squares after ``t`` steps, and the mean over the parameter. The optimizer itself has this
    step's squared gradient where the mean stands, which bounds what it makes of a coordinate that was dead (a ReLU's):
    here the mean of the parameter's squares does, for one divisor must serve every part of the step and the whole, or
    the estimates are biased. It is known before the step, and on every worker the same. Without it, one coordinate that
    wakes outweighs all others for good; and so do the first steps, whose ``v`` is that of a gradient or two.

    Args:
        optimizer: keeps ``exp_avg_sq`` or ``square_avg``.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}

    def is_ready(self) -> bool:
        """Whether the optimizer has taken a step."""
        return len(self._optimizer.state) > 0

    def __call__(self, parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return what the gradients become; the gradients stay as they are.

        Those of parameters that have not taken a step yet, just unfrozen, are left out; of those that had no gradient
        but 0 so far, nothing remains.
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
                f"scale.rule = adascale finds no running squares in {type(self._optimizer).__name__}.",
                "It is for sgd, adam, adamw and rmsprop.",
            )
        steps = float(state["step"] if "step" in state else group["step"])
        usual = found.mean() / (1.0 - decay**steps)
        usual = usual.where(usual > 0.0, inf)  # of all 0, nothing can be said
        squares: Tensor = decay * found + (1.0 - decay) * usual
        return squares / (1.0 - decay ** (steps + 1.0)) if "exp_avg_sq" in state else squares
