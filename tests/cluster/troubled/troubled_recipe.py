"""A small recipe that can raise, die, hang or be slow."""

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

SIGNALS = {"kill": signal.SIGKILL, "freeze": signal.SIGSTOP, "terminate": signal.SIGTERM}


def build(
    trouble: str = "none", at_call: int = 60, marker: str = "", most_samples: int = 0, sleep_s: float = 0.0
) -> scaler.Recipe:
    """The trouble happens on rank 1 at its ``at_call``-th loss; with a ``marker`` file, only once.

    A training step takes ``sleep_s`` longer.
    ``out_of_memory`` happens on all ranks whenever a micro-batch has more than ``most_samples``.
    """
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(1000, 4, generator=generator)
    labels = (inputs.sum(1) > 0).long()
    calls = -1  # one batch is evaluated before the first step

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        nonlocal calls
        calls += 1
        time.sleep(sleep_s if model.training else 0)
        if trouble == "out_of_memory" and model.training and len(batch[0]) > most_samples:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        if calls == at_call and dist.is_initialized() and dist.get_rank() == 1:
            trigger(trouble, Path(marker))
        return cross_entropy(model(batch[0]), batch[1])

    print("the recipe was built")
    data = TensorDataset(inputs, labels)
    return scaler.Recipe(model=nn.Linear(4, 2), train_data=data, eval_data=data, loss=loss, loss_over="micro_batch")


def trigger(trouble: str, marker: Path) -> None:
    if trouble == "raise":
        raise KeyError("no such column")
    if trouble == "abort":  # each time
        os.abort()
    if trouble not in ("hang", *SIGNALS) or marker.exists():
        return
    marker.touch()
    if trouble == "hang":
        time.sleep(1e6)
    os.kill(os.getpid(), SIGNALS[trouble])
