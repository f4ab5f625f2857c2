"""The order of the samples, and each worker's micro-batches of every step.

The order depends only on the seed and the epoch, or is the source's own. The number of workers only decides how a
step's samples are shared. So every sample is used exactly once an epoch on any number of workers, and a resumed run
keeps the order.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from scaler.core.seeds import stream_seed
from scaler.plan import Plan


class EpochOrder:
    """The seeded permutation of every epoch.

    Args:
        num_samples: size of the training set.
        seed: the job's seed, in [0, 2**32).
    """

    def __init__(self, num_samples: int, *, seed: int) -> None:
        self._num_samples = num_samples
        self._seed = seed
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def slice(self, samples_seen: int, size: int) -> Tensor:
        """Return the indices of the ``size`` samples after ``samples_seen``; they may reach into the next epochs."""
        epoch, position = divmod(samples_seen, self._num_samples)
        here = min(size, self._num_samples - position)
        found = self._in_epoch(epoch, position, here)
        return found if here == size else torch.cat([found, self.slice(samples_seen + here, size - here)])

    def _in_epoch(self, epoch: int, position: int, size: int) -> Tensor:
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(stream_seed(self._seed, "order", epoch))
            self._order = torch.randperm(self._num_samples, generator=generator)
            self._epoch = epoch
        return self._order[position : position + size]


class OwnOrder:
    """The order of a source that has its own: a sample's index is its number in the whole training."""

    def slice(self, samples_seen: int, size: int) -> Tensor:
        """Return the numbers of the ``size`` samples after ``samples_seen``."""
        return torch.arange(samples_seen, samples_seen + size)


class StepIndices:
    """One worker's micro-batches of every step after ``samples_seen``, as index tensors; every iteration starts there.

    The iteration has no end where progress is measured. With ``own_order``, samples are used in the source's own order.

    A worker with an empty share still takes part in the step's all-reduce. It gets the step's first sample to run its
    model on, and ``GradientStep`` gives this sample the weight 0.
    """

    def __init__(self, plan: Plan, *, seed: int, rank: int, samples_seen: int, own_order: bool = False) -> None:
        self._plan, self._seed, self._rank, self._samples_seen = plan, seed, rank, samples_seen
        self._own_order = own_order

    def __iter__(self) -> Iterator[Tensor]:
        return (indices for _, indices in self._micro_batches())

    def seeds(self) -> Iterator[int]:
        """Yield a seed for the loading of each micro-batch, which depends only on its place in the training."""
        return (stream_seed(self._seed, "data", position) for position, _ in self._micro_batches())

    def _micro_batches(self) -> Iterator[tuple[int, Tensor]]:
        """Yield each micro-batch with its first position: samples of the whole training before it."""
        plan, seen = self._plan, self._samples_seen
        order = OwnOrder() if self._own_order else EpochOrder(plan.num_samples, seed=self._seed)
        while size := plan.step_size(seen):
            indices = order.slice(seen, size)
            bounds = plan.micro_batch_bounds(size, rank=self._rank, samples_seen=seen) or [(0, 1)]
            yield from ((seen + start, indices[start:stop]) for start, stop in bounds)
            seen = plan.next_step(seen + size)
