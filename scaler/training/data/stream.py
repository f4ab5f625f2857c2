"""Data in the source's own order: iterables, and sources that can seek.

Both wrap what a recipe gives. A sample's number is its place in the training: epoch ``e`` of ``n`` samples has the
numbers ``e * n`` to ``(e + 1) * n - 1``. So a step's samples, their shares and the place of a resume are the same on
any number of workers. What the two kinds promise: docs/data-sources.md.
"""

from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from scaler.core.seeds import stream_seed
from scaler.errors import RecipeError
from scaler.training.data.reading import END, Reading, Snapshot, has_state, set_epoch, start_state
from scaler.training.randomness import seed_everything


class InOwnOrder:
    """Data that scaler does not put into an order; a sample's index is its number in the training."""

    order: ClassVar[str]  # what events and reports call it


def own_order(data: object) -> str | None:
    """Return the kind of data whose order is not drawn by scaler; None: scaler draws it."""
    return data.order if isinstance(data, InOwnOrder) else None


class Ranges(InOwnOrder, Dataset[Any]):
    """A source that can seek, as a dataset whose index is a sample's number.

    Args:
        source: ``read_range(start, stop)`` returns the samples ``start`` to ``stop - 1`` of an epoch. A method
            ``set_epoch(epoch)`` is called before the samples of another epoch are read.
        size: samples of an epoch.
        name: of the data, for errors.
    """

    order = "ranges"

    def __init__(self, source: Any, size: int, *, name: str) -> None:
        self._source, self._size, self._name = source, size, name
        self._epoch: int | None = None

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, number: int) -> Any:
        return self.__getitems__([number])[0]

    def __getitems__(self, numbers: Sequence[int]) -> list[Any]:
        """Return the samples with these numbers; each run of consecutive numbers in an epoch is read at once."""
        samples: list[Any] = []
        first = 0
        for at in range(1, len(numbers) + 1):
            if at == len(numbers) or numbers[at] != numbers[at - 1] + 1 or numbers[at] % self._size == 0:
                samples += self._read(*divmod(numbers[first], self._size), at - first)
                first = at
        return samples

    def _read(self, epoch: int, start: int, count: int) -> list[Any]:
        if epoch != self._epoch:
            set_epoch(self._source, epoch)
            self._epoch = epoch
        samples = list(self._source.read_range(start, start + count))
        if len(samples) != count:
            raise RecipeError(
                f"{self._name}.read_range({start}, {start + count}) returned {len(samples)} samples, not {count}.",
                f"It must return the samples of that range; an epoch has {self._size}.",
            )
        return samples


class Stream(InOwnOrder):
    """An iterable, each iteration of which yields the samples of one epoch. Every worker reads all of it.

    Args:
        source: each ``iter(source)`` starts an epoch. A method ``set_epoch(epoch)`` is called before.
        size: samples of an epoch.
        name: of the data, for errors.

    Attributes:
        snapshot: of a place that the training has passed; None: there is none, or the source's state is not used.
        uses_state: whether the source's state is used, because the check at the start has shown that it is exact.
    """

    order = "stream"

    def __init__(self, source: Any, size: int, *, name: str) -> None:
        self._source, self._size, self._name = source, size, name
        self.snapshot: Snapshot | None = None
        self.uses_state = False
        self._start: Any = None

    def __len__(self) -> int:
        return self._size

    def reading(self, *, seed: int) -> "StreamReading":
        """Return a new reading of the stream. ``seed`` is the job's."""
        snapshot = self.snapshot if self.uses_state else None
        return StreamReading(self.first_reading(seed=seed), self._size, snapshot, name=self._name)

    def has_state(self) -> bool:
        """Return whether the source can save its place."""
        return has_state(self._source)

    def first_reading(self, *, seed: int) -> Reading:
        """Return a reading that has not begun, for a check of the first samples."""
        if self._start is None:
            self._start = start_state(self._source)
        return Reading(self._source, seed=seed, start=self._start, uses_state=self.uses_state)

    def took_batch(self, place: Snapshot) -> None:
        """Note that the training has used a batch; ``place`` comes with it."""
        self.snapshot = place

    def places(self) -> Any:
        """Return what a checkpoint holds of this worker's reading: a snapshot, the same for every worker."""
        return self.snapshot

    def load_places(self, places: Sequence[Any]) -> None:
        """Continue at the first worker's place, also on another number of workers."""
        self.snapshot = places[0] if places else None


class StreamReading:
    """Reads a stream forward, and drops the samples that are not asked for.

    Args:
        reading: of the source.
        size: samples of an epoch.
        snapshot: where to begin, if it lies in the epoch of the first sample and not after this sample.
        name: of the data, for errors.
    """

    def __init__(self, reading: Reading, size: int, snapshot: Snapshot | None, *, name: str) -> None:
        self._reading, self._size, self._snapshot, self._name = reading, size, snapshot, name

    def samples(self, numbers: Iterable[int]) -> list[Any]:
        """Return the samples with these ascending numbers.

        Raises:
            RecipeError: an epoch has fewer samples than stated, or more.
        """
        with self._reading.randomness:
            return [self._sample(*divmod(number, self._size)) for number in numbers]

    def snapshot_when_due(self) -> Snapshot | None:
        """Return the present place, at most once a second; None: it is not due, or the source's state is not used."""
        with self._reading.randomness:
            return self._reading.snapshot_when_due()

    def _sample(self, epoch: int, place: int) -> Any:
        reading = self._reading
        if reading.epoch is not None and epoch > reading.epoch:
            while reading.read < self._size:  # to find out whether the epoch has as many as stated
                self._next()
        if epoch != reading.epoch or place < reading.read:
            self._begin(epoch, place)
        while reading.read < place:
            self._next()
        return self._next()

    def _begin(self, epoch: int, place: int) -> None:
        saved, self._snapshot = self._snapshot, None
        if saved is not None and saved["epoch"] == epoch and saved["read"] <= place:
            self._reading.restore(saved)
        else:
            self._reading.begin(epoch)

    def _next(self) -> Any:
        reading = self._reading
        sample = reading.next()
        if sample is END:
            raise self._wrong_size(f"ended after {reading.read} samples of epoch {reading.epoch}")
        if reading.read == self._size and not reading.is_at_end():
            raise self._wrong_size(f"has more than {reading.read} samples in epoch {reading.epoch}")
        return sample

    def _wrong_size(self, what: str) -> RecipeError:
        stated = f"len({self._name})" + (" or scaler.Recipe(num_samples=...)" if self._name == "train_data" else "")
        return RecipeError(
            f"{self._name} {what}, and {self._size} are stated.", f"Every epoch must have the number in {stated}."
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplesRead:
    """The samples of one batch, and the place of the reading after them.

    Attributes:
        samples: not yet collated; after ``collate``, the batch.
        place: for ``took_batch`` of the stream; None: nothing to save.
    """

    samples: Any
    place: Any = None

    def pin_memory(self) -> "SamplesRead":
        """Return the batch in pinned memory; ``DataLoader`` calls this."""
        return replace(self, samples=self.samples.pin_memory())


class StreamBatches(IterableDataset[Any]):
    """The samples of each batch of a stream, as a ``DataLoader`` reads them in this process or in a separate one.

    Args:
        stream: to read.
        numbers: the samples of each batch, ascending.
        seed: of the job.
        is_seeded: whether to seed this process for each batch before it is collated: for a separate process.
        keeps_place: whether the place is saved in checkpoints: for the training.
    """

    def __init__(
        self, stream: Stream, numbers: Iterable[Tensor], *, seed: int, is_seeded: bool, keeps_place: bool
    ) -> None:
        self._stream, self._numbers, self._seed, self._is_seeded = stream, numbers, seed, is_seeded
        self._keeps_place = keeps_place

    def __iter__(self) -> Iterator[Any]:
        """Yield each batch's samples; a ``RecipeError`` is yielded, because ``DataLoader`` would change its text."""
        reading = self._stream.reading(seed=self._seed)
        for wanted in self._numbers:
            numbers = wanted.tolist()
            try:
                samples = reading.samples(numbers)
            except RecipeError as error:
                yield error
                return
            place = reading.snapshot_when_due() if self._keeps_place else None
            if self._is_seeded:
                seed_everything(stream_seed(self._seed, "data", numbers[0]))
            yield SamplesRead(samples=samples, place=place)


class LoadedSamples(Dataset[Any]):
    """Samples that were loaded once, so that augmentation does not change them between two readings."""

    def __init__(self, samples: Sequence[Any]) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Any:
        return deepcopy(self._samples[index])  # some collate functions change their samples
