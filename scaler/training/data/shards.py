"""An iterable of which every worker, and each of its data-loading processes, reads a part of its own.

The parts are endless: a part that ends begins again, as its next epoch. So a step has the planned number of samples
whatever the sizes of the parts; which samples it has depends on the number of workers. docs/data-sources.md says what
is kept at a resume.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from scaler.core.seeds import stream_seed
from scaler.errors import RecipeError
from scaler.training.data.reading import END, Reading, start_state
from scaler.training.data.stream import InOwnOrder, SamplesRead
from scaler.training.randomness import seed_everything


class Shards(InOwnOrder):
    """A source that is read in parts.

    Args:
        source: with ``shard(num_shards, index)``, this method returns a worker's part. Without, ``iter(source)`` must
            yield the part of this worker (``torch.distributed.get_rank``). With several data-loading processes,
            ``iter`` must yield the part of the process (``torch.utils.data.get_worker_info``).
        size: samples of an epoch, over all parts.

    Attributes:
        uses_state: whether the source's state is used, because the check at the start has shown that it is exact.
    """

    order = "shards"

    def __init__(self, source: Any, size: int) -> None:
        self._source, self._size = source, size
        self._places: list[dict[str, Any]] = []  # of this worker's parts; empty: they begin at the start
        self.uses_state = False
        self._start: Any = None
        self._first_epoch = 0
        self._next = 0  # the part that the next batch is from

    def __len__(self) -> int:
        return self._size

    def batches(self, numbers: Iterable[Tensor], *, seed: int, data_workers: int, keeps_place: bool) -> "ShardBatches":
        """Return the samples of each batch, for a ``DataLoader`` with this number of processes."""
        parts = max(1, data_workers)
        if keeps_place and len(self._places) != parts:
            self._places, self._next = [{"epoch": self._first_epoch} for _ in range(parts)], 0
        places = [dict(place) for place in self._places] if keeps_place else [{} for _ in range(parts)]
        return ShardBatches(
            self, numbers, seed=seed, places=places, first=self._next if keeps_place else 0, keeps_place=keeps_place
        )

    def reading(self, *, seed: int, part: int, parts: int) -> Reading:
        """Return a reading of one of this worker's parts, in the process that reads this part."""
        rank, workers = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        index = rank * parts + part
        shard = getattr(self._source, "shard", None)
        if callable(shard):
            source = shard(num_shards=workers, index=rank)
            start = start_state(source)
        else:
            source = self._source
            start = self._start = start_state(source) if self._start is None else self._start
        return Reading(source, seed=seed, stream=f"part {index}", start=start, uses_state=self.uses_state)

    def first(self, count: int, *, seed: int) -> list[Any]:
        """Return the first samples of this worker's part."""
        reading = self.reading(seed=seed, part=0, parts=1)
        with reading.randomness:
            reading.begin(0)
            return [_next(reading) for _ in range(count)]

    def took_batch(self, place: dict[str, Any]) -> None:
        """Note that the training has used a batch; ``place`` comes with it."""
        part = place["part"]
        snapshot = place["snapshot"] or self._places[part].get("snapshot")
        self._places[part] = {"epoch": place["epoch"], "read": place["read"], "snapshot": snapshot}
        self._next = (part + 1) % len(self._places)

    def places(self) -> Any:
        """Return what a checkpoint holds of this worker's reading."""
        return {"places": self._places, "next": self._next} if self._places else None

    def load_places(self, places: Sequence[Any]) -> None:
        """Continue at this worker's place.

        On another number of workers or processes, the parts are others. They begin at the start of a new epoch, so that
        a source that shuffles does not begin with the same samples again.
        """
        rank, workers = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        epochs = [part["epoch"] for worker in places if worker is not None for part in worker["places"]]
        self._first_epoch = max(epochs, default=-1) + 1
        mine = places[rank] if len(places) == workers else None
        self._places, self._next = (mine["places"], mine["next"]) if mine is not None else ([], 0)


class ShardBatches(IterableDataset[Any]):
    """The samples of each batch, read from this worker's parts in turn.

    Args:
        shards: to read.
        numbers: of each batch; only how many there are counts.
        seed: of the job.
        places: where each part begins.
        first: the part that the first batch is from.
        keeps_place: whether places are saved in checkpoints: for the training.
    """

    def __init__(
        self,
        shards: Shards,
        numbers: Iterable[Tensor],
        *,
        seed: int,
        places: Sequence[dict[str, Any]],
        first: int,
        keeps_place: bool,
    ) -> None:
        self._shards, self._numbers, self._seed = shards, numbers, seed
        self._places, self._first, self._keeps_place = places, first, keeps_place

    def __iter__(self) -> Iterator[Any]:
        """Yield the samples of every batch that this process loads.

        The processes take turns. If another process than the first has the first batch, those before it yield None.
        """
        process, parts = get_worker_info(), len(self._places)
        part = process.id if process is not None else 0
        reading = self._shards.reading(seed=self._seed, part=part, parts=parts)
        with reading.randomness:
            _continue_at(reading, self._places[part])
        if part < self._first:
            yield None
        for turn, wanted in enumerate(self._numbers, self._first):
            if turn % parts != part:
                continue
            try:
                with reading.randomness:
                    samples = [_next(reading) for _ in range(len(wanted))]
                    snapshot = reading.snapshot_when_due() if self._keeps_place else None
            except RecipeError as error:
                yield error
                return
            place = {"part": part, "epoch": reading.epoch, "read": reading.read, "snapshot": snapshot}
            if process is not None:
                seed_everything(stream_seed(self._seed, f"data {part}", int(wanted[0])))
            yield SamplesRead(samples=samples, place=place if self._keeps_place else None)


def _continue_at(reading: Reading, place: dict[str, Any]) -> None:
    """Read a part up to a place: from its snapshot, or from the start of the place's epoch."""
    epoch, read, snapshot = place.get("epoch", 0), place.get("read", 0), place.get("snapshot")
    if reading.uses_state and snapshot is not None and snapshot["epoch"] == epoch:
        reading.restore(snapshot)
    else:
        reading.begin(epoch)
    while reading.read < read and reading.next() is not END:
        pass


def _next(reading: Reading) -> Any:
    """Return the next sample of a part; its next epoch begins when one ends."""
    sample = reading.next()
    if sample is not END:
        return sample
    if not reading.read:
        raise RecipeError(
            "a worker's part of train_data has no samples.",
            "Use fewer workers or train.data_workers, or more shards; or leave scaler.Recipe(sharded=True) out.",
        )
    assert reading.epoch is not None
    reading.begin(reading.epoch + 1)
    return _next(reading)
