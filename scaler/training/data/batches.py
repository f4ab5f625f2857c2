"""Batches of a dataset, loaded in this process or in separate processes."""

import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate

from scaler.errors import RecipeError
from scaler.training.data.containers import moved, to_device
from scaler.training.data.order import EpochOrder, StepIndices
from scaler.training.data.sampled import Sampled
from scaler.training.data.shards import ShardBatches, Shards
from scaler.training.data.stream import SamplesRead, Stream, StreamBatches
from scaler.training.recipe import Recipe

__all__ = ["EpochOrder", "StepIndices", "batches", "to_device"]


def batches(
    recipe: Recipe,
    dataset: Any,
    indices: Any,
    *,
    data_workers: int,
    pin: bool,
    seeds: Iterable[int] | None = None,
    seed: int = 0,
) -> Iterator[Any]:
    """Yield a batch for every tensor of indices in ``indices``.

    Tensors in memory are indexed directly. Other datasets are read through torch's ``DataLoader``, which asks a dataset
    with ``__getitems__`` for a whole batch.

    Args:
        recipe: its ``collate`` is used.
        dataset: one of the recipe's. ``Stream`` and ``Shards`` are read forward: their indices ascend.
        indices: an iterable of tensors.
        data_workers: processes that load batches ahead of time.
        pin: whether batches are copied to pinned memory, which a GPU can read.
        seeds: a seed for each batch that a separate process loads. Its random numbers (augmentation) start from the
            seed, so they differ between epochs, and a resumed run draws the same ones. None: torch's seeds are used.
            Without separate processes, loading uses the random numbers of this process, which a checkpoint contains.
        seed: the job's, from which the random numbers of a ``Stream``, of ``Shards`` and of a sampler start.

    Raises:
        RecipeError: a stream or sampler has another number of samples than stated.
    """
    if isinstance(dataset, Sampled):
        dataset, indices = dataset.data, dataset.ordered(seed=seed).translated(indices)
    if type(dataset) is TensorDataset and recipe.collate is None:  # a subclass may change indexing
        tensors = dataset.tensors
        for index in indices:
            parts = tuple(tensor[index] for tensor in tensors)
            yield tuple(part.pin_memory() for part in parts) if pin else parts
        return
    source: dict[str, Any]
    if isinstance(dataset, Stream | Shards):
        source = {"dataset": _read_forward(dataset, indices, seeds, seed, data_workers), "batch_size": None}
    else:
        is_seeded = data_workers > 0 and seeds is not None
        lists = (index.tolist() for index in indices)
        source = {
            "dataset": _Seeded(dataset) if is_seeded else dataset,
            "batch_sampler": _Requests(zip(seeds or (), lists, strict=False) if is_seeded else lists),
        }
    loader = DataLoader(
        **source,
        collate_fn=_Collated(recipe.collate or default_collate, pin=pin),
        num_workers=data_workers,
        pin_memory=pin,
        generator=torch.Generator(),  # creating a loader draws a number, but not from the global generator
    )
    for batch in loader:
        if batch is None:  # a process whose turn it is not yet
            continue
        if isinstance(batch, RecipeError):
            raise batch
        if isinstance(batch, SamplesRead):
            if batch.place is not None:
                dataset.took_batch(batch.place)
            batch = batch.samples
        yield batch.value if pin else batch


def _read_forward(
    dataset: Stream | Shards, numbers: Any, seeds: Any, seed: int, data_workers: int
) -> StreamBatches | ShardBatches:
    keeps_place = seeds is not None  # these are given for the training
    if isinstance(dataset, Shards):
        return dataset.batches(numbers, seed=seed, data_workers=data_workers, keeps_place=keeps_place)
    return StreamBatches(dataset, numbers, seed=seed, is_seeded=data_workers > 0, keeps_place=keeps_place)


_LOST = re.compile(r"DataLoader worker \(pid(\(s\))? [\d, ]+\) (exited unexpectedly|is killed by signal)")


def is_lost_data_process(error: BaseException) -> bool:
    """Return whether an error only says that a data-loading process was killed or crashed.

    torch's ``DataLoader`` has no class for this error. The recipe's own exceptions in such a process keep their class.

    Example:
        >>> is_lost_data_process(RuntimeError("DataLoader worker (pid 417) is killed by signal: Killed. "))
        True
        >>> is_lost_data_process(RuntimeError("no such column"))
        False
    """
    return isinstance(error, RuntimeError) and _LOST.match(str(error)) is not None


class _Seeded(Dataset[Any]):
    """A dataset that seeds a data-loading process for each batch; its index is a seed and the batch's indices."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self._dataset = dataset

    def __getitems__(self, request: tuple[int, Sequence[int]]) -> Sequence[Any] | RecipeError:
        seed, indices = request
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        whole = getattr(self._dataset, "__getitems__", None)
        if callable(whole):
            try:
                items: Sequence[Any] = whole(indices)
            except RecipeError as error:  # ``DataLoader`` would change its text
                return error
            return items
        return [self._dataset[index] for index in indices]


class _Requests:
    """The batches that a ``DataLoader`` asks a dataset for; an iterable for one pass."""

    def __init__(self, requests: Iterator[Any]) -> None:
        self._requests = requests

    def __iter__(self) -> Iterator[Any]:
        return self._requests


class _Collated:
    """Makes a batch of samples; an error in place of the samples is returned.

    Args:
        collate: makes a batch from a list of samples.
        pin: whether to make a ``_Batch``, because a ``DataLoader`` that pins memory would turn tuples into lists.
    """

    def __init__(self, collate: Callable[[list[Any]], Any], *, pin: bool) -> None:
        self._collate, self._pin = collate, pin

    def __call__(self, samples: list[Any] | SamplesRead | RecipeError | None) -> Any:
        if samples is None or isinstance(samples, RecipeError):
            return samples
        if isinstance(samples, SamplesRead):
            return SamplesRead(samples=self(samples.samples), place=samples.place)
        return _Batch(self._collate(samples)) if self._pin else self._collate(samples)


class _Batch:
    """A batch that pins its own memory and keeps the types of its containers."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def pin_memory(self) -> "_Batch":
        """Return the batch with its tensors in pinned memory; ``DataLoader`` calls this."""
        return _Batch(moved(self.value, lambda part: part.pin_memory(), method="pin_memory"))
