"""An exponential moving average of the weights."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from scaler.training.gradients.norm import values_of
from scaler.training.model.names import load_model_state, model_state

Tensors = tuple[Tensor, ...] | list[Tensor]


class WeightAverage:
    """An exponential moving average of a model, the same on every worker. Buffers are copied, not averaged.

        average <- decay * average + (1 - decay) * weights        after each step; the first step copies the weights

    Args:
        model: the model to average, not wrapped.
    """

    def __init__(self, model: nn.Module) -> None:
        self._decay = 0.0
        self._averaged = AveragedModel(model, multi_avg_fn=self._lerp)

    @property
    def model(self) -> nn.Module:
        """The averaged model."""
        module: nn.Module = self._averaged.module
        return module

    def update(self, model: nn.Module, *, decay: float) -> None:
        """Add a step's weights; ``decay`` is the share of the average that is kept."""
        self._decay = decay
        self._averaged.update_parameters(model)

    def state_dict(self) -> dict[str, Any]:
        """Return the average for a checkpoint: ``weights`` by the model's own names, and the number of updates."""
        return {"weights": model_state(self.model), "updates": self._averaged.n_averaged}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        load_model_state(self.model, state["weights"])
        self._averaged.n_averaged.copy_(state["updates"])

    @torch.no_grad()
    def _lerp(self, averaged: Tensors, current: Tensors, _: Tensor | int) -> None:
        torch._foreach_lerp_(values_of(averaged), values_of(current), 1.0 - self._decay)
