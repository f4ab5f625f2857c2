"""The processes of one's own loop, as torch's default process group has them."""

import os
from dataclasses import dataclass
from typing import TypeVar

import torch.distributed as dist
from torch import Tensor

from scaler.errors import TrainingError

T = TypeVar("T")

# torch's default group, kept until the next loop begins. A script destroys the group and then frees its DDP model. That
# would free the group, too, in C++ and with Python's lock held, for which the group's threads may be waiting: the
# process would hang (torch 2.13). If the last reference is in Python, torch releases the lock first.
_kept: dist.ProcessGroup | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopGroup:
    """One process's place among the processes of a loop.

    Args:
        rank: of this process, in [0, world_size).
        world_size: processes.
        gloo: a group of all of them for small values; None: there is one process.
        meeting_host: a host in the network of the processes.
    """

    rank: int
    world_size: int
    gloo: dist.ProcessGroup | None
    meeting_host: str

    def begin_sum(self, values: Tensor) -> dist.Work | None:
        """Begin to sum values over the processes, in place; None: there is one process, and nothing to wait for."""
        return dist.all_reduce(values, group=self.gloo, async_op=True) if self.gloo is not None else None

    def from_rank_0(self, value: T) -> T:
        """Return rank 0's value; every process calls this."""
        values = [value]
        if self.gloo is not None:
            dist.broadcast_object_list(values, src=0, group=self.gloo)
        return values[0]

    def gathered(self, value: T) -> list[T]:
        """Return every process's value, by rank; every process calls this."""
        values = [value] * self.world_size
        if self.gloo is not None:
            dist.all_gather_object(values, value, group=self.gloo)
        return values


def group_of_processes() -> LoopGroup:
    """Return this process's place; every process calls this at the same time.

    Raises:
        TrainingError: the environment announces several processes, and they have not met yet.
    """
    global _kept
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        _kept = dist.group.WORLD
        return LoopGroup(
            rank=dist.get_rank(),
            world_size=dist.get_world_size(),
            gloo=dist.new_group(backend="gloo"),
            meeting_host=os.environ.get("MASTER_ADDR", "127.0.0.1"),
        )
    announced = os.environ.get("WORLD_SIZE", "1")
    if announced.isdecimal() and int(announced) > 1 and not dist.is_initialized():
        raise TrainingError(
            f"scaler.start before the {announced} processes have met (WORLD_SIZE = {announced}).",
            "Call torch.distributed.init_process_group() first.",
        )
    return LoopGroup(rank=0, world_size=1, gloo=None, meeting_host="127.0.0.1")
