"""The batch identity, and how a global batch is shared among workers and micro-steps.

    global_batch_size = sum over workers, sum over micro-steps, of per_worker_batch_size

The batch need not be a multiple of the number of workers: shares differ by at most one sample.
"""

from dataclasses import dataclass
from math import ceil

from scaler.errors import PlanError


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """The samples of one optimizer step and how they are divided."""

    global_batch_size: int  # samples over all workers
    per_worker_batch_size: int  # the most samples in one forward/backward
    grad_accum_steps: int  # forward/backwards per worker


def weak_batch(*, data_parallel_size: int, per_worker_batch_size: int, grad_accum_steps: int) -> Batch:
    """Return the batch that grows with the workers (weak scaling).

    Example:
        >>> weak_batch(data_parallel_size=2, per_worker_batch_size=64, grad_accum_steps=2).global_batch_size
        256
    """
    return Batch(
        global_batch_size=data_parallel_size * per_worker_batch_size * grad_accum_steps,
        per_worker_batch_size=per_worker_batch_size,
        grad_accum_steps=grad_accum_steps,
    )


def strong_batch(
    *,
    data_parallel_size: int,
    global_batch_size: int,
    per_worker_batch_size: int | None,
    grad_accum_steps: int | None,
) -> Batch:
    """Return a fixed global batch shared among the workers (strong scaling).

    Args:
        data_parallel_size: number of workers that share it, >= 1; those that work on the same samples count once.
        global_batch_size: samples per optimizer step, >= 1; need not be a multiple of anything.
        per_worker_batch_size: the most samples in one forward/backward; None: no limit.
        grad_accum_steps: forward/backwards per step; None: as few as ``per_worker_batch_size`` allows.

    Raises:
        PlanError: ``grad_accum_steps`` micro-steps of ``per_worker_batch_size`` cannot hold a worker's share.

    Example:
        >>> strong_batch(
        ...     data_parallel_size=3, global_batch_size=256, per_worker_batch_size=32, grad_accum_steps=None
        ... )
        Batch(global_batch_size=256, per_worker_batch_size=29, grad_accum_steps=3)
    """
    share = ceil(global_batch_size / data_parallel_size)
    cap = share if per_worker_batch_size is None else per_worker_batch_size
    steps = ceil(share / cap) if grad_accum_steps is None else grad_accum_steps
    if steps * cap < share:
        raise PlanError(
            f"scale.global_batch_size = {global_batch_size} in {data_parallel_size} shares gives each worker up to "
            f"{share} samples, but {steps} micro-steps of at most {cap} hold {steps * cap}.",
            f"Leave scale.grad_accum_steps out, or set it to {ceil(share / cap)} or more.",
        )
    return Batch(global_batch_size=global_batch_size, per_worker_batch_size=ceil(share / steps), grad_accum_steps=steps)


def share_bounds(total: int, *, parts: int, index: int) -> tuple[int, int]:
    """Return the bounds of part ``index`` when ``total`` items are divided into ``parts``; larger parts come first.

    Args:
        total: number of items, >= 0.
        parts: number of parts, >= 1.
        index: number of the part, in [0, parts).

    Returns:
        ``(start, stop)``; ``stop - start`` differs by at most one between parts and may be 0.

    Example:
        >>> [share_bounds(10, parts=4, index=i) for i in range(4)]
        [(0, 3), (3, 6), (6, 8), (8, 10)]
    """
    size, larger = divmod(total, parts)
    start = index * size + min(index, larger)
    return start, start + size + (index < larger)


def micro_batch_bounds(
    step_samples: int, *, world_size: int, rank: int, grad_accum_steps: int
) -> list[tuple[int, int]]:
    """Return the bounds of each of a worker's micro-batches in a step of ``step_samples`` samples.

    Shares differ by at most one sample, and so do the micro-batches of a share. With fewer samples than workers, some
    workers have no samples; their list is empty.

    Args:
        step_samples: samples in the step, over all workers.
        world_size: workers that share the step; those that work on the same samples count once.
        rank: of the worker among these, in [0, world_size).
        grad_accum_steps: the most micro-batches of a share.

    Example:
        >>> [micro_batch_bounds(7, world_size=2, rank=rank, grad_accum_steps=2) for rank in (0, 1)]
        [[(0, 2), (2, 4)], [(4, 6), (6, 7)]]
    """
    start, stop = share_bounds(step_samples, parts=world_size, index=rank)
    parts = min(grad_accum_steps, stop - start)
    bounds = (share_bounds(stop - start, parts=parts, index=index) for index in range(parts))
    return [(start + begin, start + end) for begin, end in bounds]
