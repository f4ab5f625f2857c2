"""What training asks of any kind of data: some of its samples, and its place for a checkpoint."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from scaler.training.data.sampled import Sampled
from scaler.training.data.shards import Shards
from scaler.training.data.stream import LoadedSamples, Stream


def load_samples(data: Any, numbers: Sequence[int], *, seed: int) -> LoadedSamples:
    """Return samples by their numbers, which ascend; an iterable is read from its start.

    Args:
        data: one of the recipe's, of any kind.
        numbers: of the samples; of shards, the first ones of rank 0's part are returned, by a collective.
        seed: of the job.
    """
    if isinstance(data, Stream):
        return LoadedSamples(data.reading(seed=seed).samples(numbers))
    if isinstance(data, Shards):
        samples = [data.first(len(numbers), seed=seed)]
        if dist.is_initialized():
            dist.broadcast_object_list(samples, 0)
        return LoadedSamples(samples[0])
    if isinstance(data, Sampled):
        order = data.ordered(seed=seed)
        return load_samples(data.data, order.indices(torch.tensor(numbers)).tolist(), seed=seed)
    get_all = getattr(data, "__getitems__", None)
    return LoadedSamples(get_all(numbers) if callable(get_all) else [data[index] for index in numbers])


def gather_places(data: Any, *, world_size: int) -> list[Any]:
    """Return every worker's place in data that are read forward, for a checkpoint; empty for other data.

    A collective for data of which every worker reads a part.
    """
    if not isinstance(data, Stream | Shards):
        return []
    mine = data.places()
    if world_size == 1 or isinstance(data, Stream):  # every worker has the same place in a stream, or a later one
        return [mine]
    places: list[Any] = [None] * world_size
    dist.all_gather_object(places, mine)
    return places


def load_places(data: Any, places: Sequence[Any]) -> None:
    """Continue to read data at the places in a checkpoint."""
    if isinstance(data, Stream | Shards):
        data.load_places([place for place in places if place is not None] if isinstance(data, Stream) else places)
