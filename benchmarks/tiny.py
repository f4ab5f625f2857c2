"""A recipe with a tiny model, whose workers note when each of their steps begins: a line of epoch seconds a step."""

import os
from pathlib import Path
from time import sleep, time

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import TensorDataset

import scaler

STEP_S = 0.1  # that a step takes at least, so that a run can be stopped


def build(notes: str, samples: int) -> scaler.Recipe:
    """Return an MLP, and random numbers with their sums.

    Args:
        notes: the folder of the notes; each process writes the file of its process id.
        samples: in the training data.
    """

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        if model.training:
            with (Path(notes) / str(os.getpid())).open("a") as file:
                print(time(), file=file)
            sleep(STEP_S)
        return mse_loss(model(batch[0]), batch[1])

    inputs = torch.randn(samples, 8, generator=torch.Generator().manual_seed(0))
    sums = inputs.sum(1, keepdim=True)
    return scaler.Recipe(
        model=nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1)),
        train_data=TensorDataset(inputs, sums),
        eval_data=TensorDataset(inputs[:64], sums[:64]),
        loss=loss,
        loss_over="micro_batch",  # no probe: only the calls of steps are noted
    )
