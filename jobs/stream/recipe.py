"""A stream of sensor readings that is generated, never stored: predict the next value of a noisy oscillation.

The source is read forward only. It can save its place (state_dict), so a resume does not read the epoch again; and it
can be read in parts (shard), with recipe_args.sharded: true.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import IterableDataset, TensorDataset

import scaler

WINDOW = 16
SHARDS = 8  # oscillations of different frequency and phase; a real source has files


class Readings(IterableDataset[tuple[Tensor, Tensor]]):
    """Windows of some oscillations, one after the other in turn, with noise."""

    def __init__(self, num_samples: int, shards: list[int]) -> None:
        self.num_samples, self.shards, self.epoch, self.position = num_samples, shards, 0, 0

    def __len__(self) -> int:
        return self.num_samples

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def shard(self, num_shards: int, index: int) -> "Readings":
        """Return the part of one worker: every num_shards-th oscillation."""
        mine = self.shards[index::num_shards]
        return Readings(self.num_samples * len(mine) // len(self.shards), mine)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for number in range(self.position, self.num_samples):
            self.position = number + 1
            yield self.sample(number)
        self.position = 0

    def sample(self, number: int) -> tuple[Tensor, Tensor]:
        shard = self.shards[number % len(self.shards)]
        generator = torch.Generator().manual_seed((self.epoch * SHARDS + shard) * 2**20 + number)
        start, noise = 2 * torch.pi * torch.rand(1, generator=generator), torch.randn(WINDOW + 1, generator=generator)
        values = torch.sin(start + (0.2 + 0.05 * shard) * torch.arange(WINDOW + 1)) + 0.1 * noise
        return values[:WINDOW], values[WINDOW:]

    def state_dict(self) -> dict[str, Any]:
        """Return the place: how many samples of the epoch were yielded."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next iteration begin at a place."""
        self.position = state["position"]


def build(num_samples: int = 4000, sharded: bool = False) -> scaler.Recipe:
    """Return a small network and the stream."""
    held_out = Readings(512, list(range(SHARDS)))
    held_out.set_epoch(1000)
    windows, targets = zip(*held_out, strict=True)
    return scaler.Recipe(
        model=nn.Sequential(nn.Linear(WINDOW, 64), nn.Tanh(), nn.Linear(64, 1)),
        train_data=Readings(num_samples, list(range(SHARDS))),
        sharded=sharded,
        eval_data=TensorDataset(torch.stack(windows), torch.stack(targets)),
        loss=lambda model, batch: mse_loss(model(batch[0]), batch[1]),
    )
