"""Check before the first step how the training data can be read, if they are an iterable."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from scaler.errors import RecipeError
from scaler.training.data.reading import END, Reading, has_state
from scaler.training.data.shards import Shards
from scaler.training.data.stream import Stream
from scaler.training.recipe import Recipe
from scaler.training.start_checks.data_digests import digest

SAMPLES = 4  # read before the state is saved, and compared after it is loaded


def check_stream(recipe: Recipe, *, world_size: int, data_workers: int) -> None:
    """Find out whether an iterable continues exactly at a saved state, and whether its parts differ between workers.

    A state that is not exact (a shuffle buffer that is filled again) is not used: a resume then reads the epoch from
    its start. Called by all workers.

    Args:
        recipe: its training data; nothing is checked unless they are an iterable with a state, or in parts.
        world_size: workers that read it.
        data_workers: of the job; if there are any, such processes read the samples, because files that a source opens
            here must not be shared with processes that start later.

    Raises:
        RecipeError: two workers or processes have the same part.
    """
    data = recipe.train_data
    if not (isinstance(data, Shards) or (isinstance(data, Stream) and data.has_state())):
        return
    processes = data_workers if isinstance(data, Shards) else min(1, data_workers)
    loader = DataLoader(
        _FirstDigests(data, parts=max(1, processes)),
        batch_size=None,
        num_workers=processes,
        collate_fn=_unchanged,
        generator=torch.Generator(),
    )
    mine: list[tuple[list[str], bool]] = []
    with suppress(Exception):  # the training shows an exception of the source
        mine = list(loader)
    gathered = [mine]
    if world_size > 1:
        gathered = [mine] * world_size
        dist.all_gather_object(gathered, mine)
    data.uses_state = all(found and all(is_exact for _, is_exact in found) for found in gathered)
    firsts = [tuple(first) for found in gathered for first, _ in found if first]
    if isinstance(data, Shards) and len(set(firsts)) < len(firsts):
        raise RecipeError(
            "sharded = True, but two workers or data-loading processes read the same part of train_data.",
            "For workers, give it a method shard(num_shards, index), or let __iter__ use torch.distributed.get_rank(). "
            "For train.data_workers above 1, let __iter__ use torch.utils.data.get_worker_info(). Or leave sharded "
            "out.",
        )


class _FirstDigests(IterableDataset[Any]):
    """Digests of the first samples, and whether the source yields the same ones after its state was loaded."""

    def __init__(self, data: Stream | Shards, *, parts: int) -> None:
        self._data, self._parts = data, parts

    def __iter__(self) -> Iterator[tuple[list[str], bool]]:
        process = get_worker_info()
        if isinstance(self._data, Shards):
            part = process.id if process is not None else 0
            reading = self._data.reading(seed=0, part=part, parts=self._parts)
        else:
            reading = self._data.first_reading(seed=0)
        with reading.randomness:
            reading.begin(0)
            first, snapshot = _digests(reading), None
            if has_state(reading.source):
                snapshot = reading.snapshot()
            second, is_exact = _digests(reading), False
            if snapshot is not None:
                reading.restore(snapshot)
                is_exact = _digests(reading) == second
        yield first + second, is_exact


def _digests(reading: Reading) -> list[str]:
    samples = (reading.next() for _ in range(SAMPLES))
    return [digest(sample) for sample in samples if sample is not END]


def _unchanged(value: Any) -> Any:
    return value
