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
    trouble: str = "none",
    at_call: int = 60,
    marker: str = "",
    most_samples: int = 0,
    sleep_s: float = 0.0,
    sleep_until: str = "",
) -> scaler.Recipe:
    """Return a recipe of 1000 samples that is in trouble.

    Args:
        trouble: happens to rank 1 at its ``at_call``-th loss of training in an attempt. Several, with commas between
            them, happen one in each attempt. ``out_of_memory`` happens to all ranks whenever a micro-batch has more
            than ``most_samples``.
        at_call: counts from 0; with a ``marker``, a checkpoint must be due before it.
        marker: a file in the storage of the run, with one line for each trouble that has happened.
        most_samples: of a micro-batch that fits into memory.
        sleep_s: how much longer a training step takes.
        sleep_until: a file; once it is there, steps no longer take longer.
    """
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(1000, 4, generator=generator)
    labels = (inputs.sum(1) > 0).long()
    calls = -1
    saved = newest_checkpoint(marker)

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        nonlocal calls, sleep_s
        calls += model.training
        if model.training and sleep_s and not (sleep_until and os.path.exists(sleep_until)):
            time.sleep(sleep_s)
        if trouble == "out_of_memory" and model.training and len(batch[0]) > most_samples:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        if model.training and calls == at_call and dist.is_initialized() and dist.get_rank() == 1:
            happen(trouble, marker, saved)
            sleep_s = sleep_s or 0.05  # after a SIGTERM, the group needs a moment to agree on where it saves
        return cross_entropy(model(batch[0]), batch[1])

    print("the recipe was built")
    data = TensorDataset(inputs, labels)
    return scaler.Recipe(model=nn.Linear(4, 2), train_data=data, eval_data=data, loss=loss, loss_over="micro_batch")


def happen(trouble: str, marker: str, saved: int) -> None:
    """Raise, hang, or send this process a signal; with a ``marker``, after a checkpoint of this attempt."""
    if trouble == "raise":
        raise KeyError("no such column")
    if trouble == "abort":  # in each attempt
        os.abort()
    if not marker:
        return
    happened = Path(marker).read_text().splitlines() if Path(marker).exists() else []
    left = trouble.split(",")[len(happened) :]
    if not left:
        return
    while newest_checkpoint(marker) == saved:
        time.sleep(0.01)
    with open(marker, "a") as file:
        file.write(f"{left[0]}\n")
    if left[0] == "hang":
        time.sleep(1e6)
    os.kill(os.getpid(), SIGNALS[left[0]])


def newest_checkpoint(marker: str) -> int:
    """Return the samples of the newest checkpoint that counts, of the one run in the marker's folder; -1: none."""
    return (
        max((int(path.stem) for path in Path(marker).parent.glob("*/checkpoints/*.json")), default=-1) if marker else -1
    )
