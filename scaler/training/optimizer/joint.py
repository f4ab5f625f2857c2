"""Several optimizers that share one loss: one gradient, one clipping and one step for all of them."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from scaler.job import Job
from scaler.plan import Phase
from scaler.training.gradients.norm import clip, total_norm
from scaler.training.optimizer.scaled import ScaledOptimizer


class JointOptimizers:
    """The optimizers of a recipe with one loss, which take each step together.

    The gradient has one norm, over the parameters of all optimizers, and is clipped by it. With fp16 the loss has one
    scale: if any gradient is not finite, no optimizer takes the step.

    Args:
        optimizers: by name.
        job: precision and clipping.
        device: of the parameters.

    Attributes:
        scaler: the loss scaler; without fp16 it does nothing.
    """

    def __init__(self, optimizers: Mapping[str | None, ScaledOptimizer], job: Job, device: torch.device) -> None:
        self._optimizers, self._most_norm = list(optimizers.values()), job.train.clip_grad_norm
        self.scaler = torch.amp.GradScaler(device.type, enabled=job.train.precision == "fp16")
        self._all: Any = _Together(self._optimizers)

    def whole_gradient(self) -> tuple[list[nn.Parameter], Tensor]:
        """Return the parameters with a gradient, and its norm; a scaled gradient is divided by its scale."""
        self.scaler.unscale_(self._all)
        present = [
            (parameter, grad)
            for optimizer in self._optimizers
            for parameter in optimizer.parameters
            if (grad := parameter.grad) is not None
        ]
        return [parameter for parameter, _ in present], total_norm([grad for _, grad in present])

    def step(
        self, trained: Sequence[nn.Parameter], norm: Tensor, step: Phase, *, lr: float, momentum: float | None
    ) -> float:
        """Clip the gradient, take a step of each optimizer and clear the gradient, as ``ScaledOptimizer.step``.

        Returns:
            The learning rate that the optimizers used, as one of the plan; of several, the one farthest from ``lr``.
        """
        if self._most_norm is not None:
            clip(trained, norm, most=self._most_norm)
        with ExitStack() as settings:
            for optimizer in self._optimizers:
                settings.enter_context(optimizer.settings(step, lr=lr, momentum=momentum))
            self.scaler.step(self._all)
        self.scaler.update()
        for optimizer in self._optimizers:
            optimizer.optimizer.zero_grad()
        return max((optimizer.used(step, lr=lr) for optimizer in self._optimizers), key=lambda used: abs(used - lr))


class _Together:
    """What a loss scaler needs of an optimizer, for several: their parameters, and a step."""

    def __init__(self, optimizers: Sequence[ScaledOptimizer]) -> None:
        self._optimizers = optimizers

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for each in self._optimizers for group in each.optimizer.param_groups]

    def step(self) -> None:
        for each in self._optimizers:
            each.take(each.optimizer.step)
