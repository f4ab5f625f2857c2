"""The order of the samples, and batches of them.

The order is a function of the seed and the epoch alone. The world size only cuts a step's samples into shares, so every
sample is used exactly once an epoch on any number of workers, and a resumed run goes on in the same order.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from scaler.core.seeds import stream_seed
from scaler.plan import Plan
from scaler.training.recipe import Recipe


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
        """Return the indices of the ``size`` samples after ``samples_seen``, also beyond the end of their epoch."""
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


class StepIndices:
    """The micro-batches of every step from a point of training on, for one worker: an iterable, made anew each time.

    It has no end where progress is measured.

    A worker whose share is empty still takes part in the step's all-reduce, so it gets the step's first sample to run
    its model on; ``GradientStep`` gives it the weight 0.
    """

    def __init__(self, plan: Plan, *, seed: int, rank: int, samples_seen: int) -> None:
        self._plan, self._seed, self._rank, self._samples_seen = plan, seed, rank, samples_seen

    def __iter__(self) -> Iterator[Tensor]:
        plan, seen = self._plan, self._samples_seen
        order = EpochOrder(plan.num_samples, seed=self._seed)
        while size := plan.step_size(seen):
            indices = order.slice(seen, size)
            bounds = plan.micro_batch_bounds(size, rank=self._rank, samples_seen=seen) or [(0, 1)]
            yield from (indices[start:stop] for start, stop in bounds)
            seen = plan.next_step(seen + size)


def batches(
    recipe: Recipe,
    dataset: Dataset[Any],
    indices: Any,
    *,
    data_workers: int,
    pin: bool,
    stream: tuple[int, int] = (0, 0),
) -> Iterator[Any]:
    """Yield a batch for every tensor of indices in ``indices``.

    Tensors in memory are indexed at once. Other datasets go through torch's ``DataLoader``, which asks for a whole
    batch where the dataset has ``__getitems__``.

    Args:
        recipe: its ``collate``.
        dataset: of the recipe.
        indices: an iterable of tensors.
        data_workers: processes that load ahead.
        pin: whether batches are copied to memory that a GPU can read.
        stream: seed and rank. The random numbers of loading processes (augmentation) are a function of these and of
            the batch's indices, so that a resumed run draws the same. Without such processes loading draws from this
            process's own, which a checkpoint holds.
    """
    if type(dataset) is TensorDataset and recipe.collate is None:  # a subclass may do more when it is indexed
        tensors = dataset.tensors
        for index in indices:
            yield tuple(tensor[index] for tensor in tensors)
        return
    yield from DataLoader(
        _Seeded(dataset, stream) if data_workers else dataset,
        batch_sampler=_AsLists(indices),
        collate_fn=recipe.collate,
        num_workers=data_workers,
        pin_memory=pin,
        generator=torch.Generator(),  # of its own: making a loader draws a number
    )


class _Seeded(Dataset[Any]):
    """A dataset that seeds a loading process's random numbers for each batch."""

    def __init__(self, dataset: Dataset[Any], stream: tuple[int, int]) -> None:
        self._dataset, self._stream = dataset, stream

    def __getitems__(self, indices: Sequence[int]) -> Sequence[Any]:
        seed, rank = self._stream
        drawn = stream_seed(seed, f"data {rank} {' '.join(map(str, indices))}", 0)
        random.seed(drawn)
        np.random.seed(drawn)
        torch.manual_seed(drawn)
        whole = getattr(self._dataset, "__getitems__", None)
        if callable(whole):
            items: Sequence[Any] = whole(indices)
            return items
        return [self._dataset[index] for index in indices]


class _AsLists:
    """Indices as the lists that datasets expect."""

    def __init__(self, indices: Any) -> None:
        self._indices = indices

    def __iter__(self) -> Iterator[list[int]]:
        return (index.tolist() for index in self._indices)


def to_device(batch: Any, device: torch.device) -> Any:
    """Return the batch with every tensor in it on ``device``, through tuples, lists and dicts."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(part, device) for part in batch))
    if isinstance(batch, tuple | list):
        return type(batch)(to_device(part, device) for part in batch)
    if isinstance(batch, dict):
        return {key: to_device(part, device) for key, part in batch.items()}
    return batch
