"""The step with which ``torch.distributed.checkpoint`` makes the state of an optimizer that has none."""

import torch
from torch.distributed.tensor import DTensor


def is_initialization(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether a step that begins trains nothing: no state yet, learning rates of 0 and gradients of 0.

    ``get_optimizer_state_dict`` and ``set_optimizer_state_dict`` take such a step before they save or load.
    """
    if optimizer.state or any(float(group["lr"]) != 0.0 for group in optimizer.param_groups):
        return False
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    own = [each.to_local() if isinstance(each, DTensor) else each for each in gradients]
    return not any(bool(each.any()) for each in own)
