"""The order of the samples, and batches of them.

The order is a function of the seed and the epoch alone. The world size only cuts a step's samples into shares, so every
sample is used exactly once an epoch on any number of workers, and a resumed run goes on in the same order.
"""

import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate

from scaler.training.data.containers import moved, to_device
from scaler.training.data.order import EpochOrder, StepIndices
from scaler.training.recipe import Recipe

__all__ = ["EpochOrder", "StepIndices", "batches", "to_device"]


def batches(
    recipe: Recipe,
    dataset: Dataset[Any],
    indices: Any,
    *,
    data_workers: int,
    pin: bool,
    seeds: Iterable[int] | None = None,
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
        seeds: of each batch, where a process loads it: its random numbers (augmentation) begin with the seed, so that
            they differ from epoch to epoch and a resumed run draws the same. None: they are torch's. Without such
            processes loading draws from this process's own, which a checkpoint holds.
    """
    if type(dataset) is TensorDataset and recipe.collate is None:  # a subclass may do more when it is indexed
        tensors = dataset.tensors
        for index in indices:
            yield tuple(tensor[index] for tensor in tensors)
        return
    lists = (index.tolist() for index in indices)
    loader = DataLoader(
        _Seeded(dataset) if data_workers and seeds is not None else dataset,
        batch_sampler=_Requests(zip(seeds, lists, strict=False) if data_workers and seeds is not None else lists),
        collate_fn=_Wrapped(recipe.collate or default_collate) if pin else recipe.collate,
        num_workers=data_workers,
        pin_memory=pin,
        generator=torch.Generator(),  # of its own: making a loader draws a number
    )
    for batch in loader:
        yield batch.value if pin else batch


_LOST = re.compile(r"DataLoader worker \(pid(\(s\))? [\d, ]+\) (exited unexpectedly|is killed by signal)")


def is_lost_data_process(error: BaseException) -> bool:
    """Return whether an error only says that a process that loads data was killed, or crashed.

    torch's ``DataLoader`` has no class for it; the recipe's own exceptions in such a process arrive as themselves.

    Example:
        >>> is_lost_data_process(RuntimeError("DataLoader worker (pid 417) is killed by signal: Killed. "))
        True
        >>> is_lost_data_process(RuntimeError("no such column"))
        False
    """
    return isinstance(error, RuntimeError) and _LOST.match(str(error)) is not None


class _Seeded(Dataset[Any]):
    """A dataset that seeds a loading process's random numbers for each batch; it is asked for a seed and indices."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self._dataset = dataset

    def __getitems__(self, request: tuple[int, Sequence[int]]) -> Sequence[Any]:
        seed, indices = request
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        whole = getattr(self._dataset, "__getitems__", None)
        if callable(whole):
            items: Sequence[Any] = whole(indices)
            return items
        return [self._dataset[index] for index in indices]


class _Requests:
    """What a ``DataLoader`` asks a dataset for, a batch each; it is gone through once."""

    def __init__(self, requests: Iterator[Any]) -> None:
        self._requests = requests

    def __iter__(self) -> Iterator[Any]:
        return self._requests


class _Wrapped:
    """Collates into a ``_Batch``, for a ``DataLoader`` that pins memory: it would make lists of tuples.

    Args:
        collate: of a list of samples.
    """

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self._collate = collate

    def __call__(self, samples: list[Any]) -> "_Batch":
        return _Batch(self._collate(samples))


class _Batch:
    """A batch that pins its own memory, with every container as it is."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def pin_memory(self) -> "_Batch":
        """Return the batch with its tensors in pinned memory; ``DataLoader`` calls it."""
        return _Batch(moved(self.value, lambda part: part.pin_memory(), method="pin_memory"))
