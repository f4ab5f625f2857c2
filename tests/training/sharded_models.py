"""A small model of blocks, and its shards as ``strategy: fsdp`` makes them."""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from scaler.job.fsdp import Fsdp
from scaler.training.parallel.sharded import Sharded


class Net(nn.Module):
    """Two blocks and a head, of float64."""

    def __init__(self, *inside: Callable[[], nn.Module], seed: int = 3) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.blocks = nn.ModuleList(
            [nn.Sequential(nn.Linear(6, 6), nn.Tanh(), *(make() for make in inside)) for _ in range(2)]
        )
        self.head = nn.Linear(6, 2)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.encode(x))
        return found

    def encode(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def sharded(model: Net) -> Net:
    """Return the model, sharded over torch's default process group."""
    Sharded(Fsdp(), shard=dist.get_world_size(), device=torch.device("cpu")).distribute(model)
    return model
