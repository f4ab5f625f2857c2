"""Exceptions in a forward pass in which the workers wait for each other."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist
from torch import nn

from scaler.training.model.sharding import outside_forward, shard_again
from scaler.training.process_group import is_lost_peer

WAIT = timedelta(seconds=30)  # for the slowest worker to get to its exception


class LoneFailure(BaseException):
    """An exception that not every worker has; not an ``Exception``, because no check may continue after it.

    Args:
        error: the exception.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@contextmanager
def failing_together(model: nn.Module, *, is_sharded: bool, world_size: int) -> Iterator[None]:
    """Let an exception in a ``with`` block end this worker, unless every worker has one.

    If one worker leaves a forward pass of a sharded model, the others wait in it for that worker and cannot leave it,
    so it must end. If all workers have left it, they can run the next forward pass together.

    Args:
        model: not wrapped; after the exception it can run again.
        is_sharded: whether it is sharded; if not, the exception is raised unchanged.
        world_size: workers in torch's default process group.

    Raises:
        LoneFailure: another worker has no exception, or is gone.
        RecipeError: the exception says that the recipe uses a sharded model's weights outside ``forward``.
    """
    try:
        yield
    except Exception as error:
        if not is_sharded:
            raise
        if is_lost_peer(error) or not _is_on_all_workers(world_size):
            raise LoneFailure(outside_forward(error) or error) from error
        shard_again(model)
        if (failure := outside_forward(error)) is not None:
            raise failure from error
        raise


@contextmanager
def lone_failures_raised() -> Iterator[None]:
    """Raise the exception itself instead of a ``LoneFailure`` from a ``with`` block."""
    try:
        yield
    except LoneFailure as lone:
        raise lone.error from lone.error.__cause__


def _is_on_all_workers(world_size: int) -> bool:
    """Return whether every worker calls this, within ``WAIT``."""
    if world_size == 1:
        return True
    try:
        # It waits until all workers create it. It ends with the default group: if this worker closed it now, one that
        # is still connecting would take this worker for gone.
        dist.new_group(backend="gloo", timeout=WAIT)
    except RuntimeError:
        return False
    return True
