"""A small recipe that does what real ones do to a cluster: raise, die, take its time."""

import os
import signal
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

import scaler


def build(trouble: str = "none", at_call: int = 60, marker: str = "") -> scaler.Recipe:
    """``trouble`` strikes rank 1 at its ``at_call``-th loss; with a ``marker`` file, only once."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(1000, 4, generator=generator)
    labels = (inputs.sum(1) > 0).long()
    calls = 0

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        nonlocal calls
        calls += 1
        if trouble == "slow":
            time.sleep(0.02)
        elif calls == at_call and dist.is_initialized() and dist.get_rank() == 1:
            strike(trouble, marker)
        return cross_entropy(model(batch[0]), batch[1])

    print("the recipe was built")
    data = TensorDataset(inputs, labels)
    return scaler.Recipe(model=nn.Linear(4, 2), train_data=data, eval_data=data, loss=loss)


def strike(trouble: str, marker: str) -> None:
    if trouble == "raise":
        raise KeyError("no such column")
    if trouble == "kill" and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
