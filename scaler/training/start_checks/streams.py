"""Check before the first step that iterables can be read as training will read them."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, IterableDataset

from scaler.errors import RecipeError
from scaler.training.data.reading import END, Reading, has_state
from scaler.training.data.shards import Shards
from scaler.training.data.stream import Stream
from scaler.training.process_group import agree
from scaler.training.recipe import Recipe
from scaler.training.start_checks.data_digests import digest

SAMPLES = 4  # read before the state is saved, and compared after it is loaded


def require_readable_streams(recipe: Recipe, *, world_size: int, data_workers: int) -> None:
    """Raise an error if the training data are an iterable that cannot be read as it says; called by all workers.

    Args:
        recipe: its training data.
        world_size: workers that read it.
        data_workers: of the job; if there are any, one such process reads the samples, because files that a source
            opens here must not be shared with processes that start later.

    Raises:
        RecipeError: the source does not continue at a saved state; or all workers have the same part.
    """
    data = recipe.train_data
    if not isinstance(data, Stream | Shards):
        return
    loader = DataLoader(
        _FirstDigests(data),
        batch_size=None,
        num_workers=min(1, data_workers),
        collate_fn=_unchanged,
        generator=torch.Generator(),
    )
    before, after = [], None
    with suppress(Exception):  # the training shows an exception of the source
        before, after = next(iter(loader))
    error = None
    if after is not None and after != before[SAMPLES:]:
        error = RecipeError(
            f"train_data does not continue at its saved state: after load_state_dict, its samples {SAMPLES} to "
            f"{2 * SAMPLES - 1} are others.",
            "state_dict must hold the whole place, also a shuffle buffer. Or give an object without state_dict: a "
            "resume then reads the epoch from its start.",
        )
    agree(error, world_size=world_size)
    if not isinstance(data, Shards) or world_size == 1:
        return
    gathered: list[list[str]] = [[] for _ in range(world_size)]
    dist.all_gather_object(gathered, before)
    firsts = [tuple(found) for found in gathered if found]
    if len(set(firsts)) < len(firsts):
        raise RecipeError(
            "sharded = True, but two workers read the same part of train_data.",
            "Give it a method shard(num_shards, index), or let __iter__ use torch.distributed.get_rank(); or leave "
            "sharded out.",
        )


class _FirstDigests(IterableDataset[Any]):
    """Digests of the first samples; and of some that are read again from a saved state, None without a state."""

    def __init__(self, data: Stream | Shards) -> None:
        self._data = data

    def __iter__(self) -> Iterator[tuple[list[str], list[str] | None]]:
        reading = self._data.first_reading(seed=0)
        with reading.randomness:
            reading.begin(0)
            before, snapshot = _digests(reading), None
            if len(before) == SAMPLES and has_state(reading.source):
                snapshot = reading.snapshot()
            before += _digests(reading)
            if snapshot is None:
                yield before, None
                return
            reading.restore(snapshot)
            yield before, _digests(reading)


def _digests(reading: Reading) -> list[str]:
    samples = (reading.next() for _ in range(SAMPLES))
    return [digest(sample) for sample in samples if sample is not END]


def _unchanged(value: Any) -> Any:
    return value
