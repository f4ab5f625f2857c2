"""A learning-rate scheduler for frameworks that require one; the learning rate is written without it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler


class LoopScheduler(LRScheduler):
    """Shows the learning rates that a loop of ``scaler.start`` writes; its ``step`` does nothing.

    Args:
        optimizer: one that the loop prepares, now or later.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer  # LRScheduler's own __init__ would write learning rates
        self.base_lrs = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
        self.last_epoch = self._step_count = 0  # which frameworks read

    def step(self, epoch: int | None = None) -> None:
        """Do nothing: a hook of the optimizer writes the learning rate right before its step."""

    def get_lr(self) -> list[Any]:
        """Return the learning rate in each group of the optimizer."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def get_last_lr(self) -> list[Any]:
        """Return each group's learning rate in the optimizer's last step; before its first step, in the next one."""
        return self.get_lr()

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the state is in ``run.state_dict()``."""
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load nothing, also from the state of another scheduler."""
