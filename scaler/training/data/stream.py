"""Data in the source's own order: iterables, and sources that can seek.

Both wrap what a recipe gives. A sample's number is its place in the training: epoch ``e`` of ``n`` samples has the
numbers ``e * n`` to ``(e + 1) * n - 1``. So a step's samples, their shares and the place of a resume are the same on
any number of workers. What the two kinds promise: docs/data-sources.md.
"""

from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from scaler.core.seeds import stream_seed
from scaler.errors import RecipeError
from scaler.training.randomness import SeparateRandomness, seed_everything

_END = object()


class Ranges(Dataset[Any]):
    """A source that can seek, as a dataset whose index is a sample's number.

    Args:
        source: ``read_range(start, stop)`` returns the samples ``start`` to ``stop - 1`` of an epoch. A method
            ``set_epoch(epoch)`` is called before the samples of another epoch are read.
        size: samples of an epoch.
        name: ``train_data`` or ``eval_data``, for errors.
    """

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
            _set_epoch(self._source, epoch)
            self._epoch = epoch
        samples = list(self._source.read_range(start, start + count))
        if len(samples) != count:
            raise RecipeError(
                f"{self._name}.read_range({start}, {start + count}) returned {len(samples)} samples, not {count}.",
                f"It must return the samples of that range; an epoch has {self._size}.",
            )
        return samples


class Stream:
    """An iterable, each iteration of which yields the samples of one epoch.

    Args:
        source: each ``iter(source)`` starts an epoch. A method ``set_epoch(epoch)`` is called before.
        size: samples of an epoch.
        name: ``train_data`` or ``eval_data``, for errors.
    """

    def __init__(self, source: Any, size: int, *, name: str) -> None:
        self._source, self._size, self._name = source, size, name

    def __len__(self) -> int:
        return self._size

    def reading(self, *, seed: int) -> "Reading":
        """Return a new reading of the stream. ``seed`` is the job's."""
        return Reading(self._source, self._size, seed, name=self._name)


class Reading:
    """Reads a stream forward, and drops the samples that are not asked for.

    Random numbers that the source draws (a shuffle buffer, augmentation) start from the seed and the epoch, and are
    separate from those of this process. So the order is the same on every worker and after a resume.
    """

    def __init__(self, source: Any, size: int, seed: int, *, name: str) -> None:
        self._source, self._size, self._seed, self._name = source, size, seed, name
        self._randomness = SeparateRandomness()
        self._epoch: int | None = None
        self._read = 0  # samples of the epoch that were read
        self._samples: Iterator[Any] = iter(())

    def samples(self, numbers: Iterable[int]) -> list[Any]:
        """Return the samples with these ascending numbers.

        Raises:
            RecipeError: an epoch has fewer samples than stated, or more.
        """
        with self._randomness:
            return [self._sample(*divmod(number, self._size)) for number in numbers]

    def _sample(self, epoch: int, place: int) -> Any:
        if self._epoch is not None and epoch > self._epoch:
            while self._read < self._size:  # to find out whether the epoch has as many as stated
                self._next()
        if epoch != self._epoch or place < self._read:
            self._begin(epoch)
        while self._read < place:
            self._next()
        return self._next()

    def _begin(self, epoch: int) -> None:
        self._randomness.seed(stream_seed(self._seed, "stream", epoch))
        _set_epoch(self._source, epoch)
        self._epoch, self._read, self._samples = epoch, 0, iter(self._source)

    def _next(self) -> Any:
        sample = next(self._samples, _END)
        if sample is _END:
            raise self._wrong_size(f"ended after {self._read} samples of epoch {self._epoch}")
        self._read += 1
        if self._read == self._size and next(self._samples, _END) is not _END:
            raise self._wrong_size(f"has more than {self._read} samples in epoch {self._epoch}")
        return sample

    def _wrong_size(self, what: str) -> RecipeError:
        stated = f"len({self._name})" + (" or scaler.Recipe(num_samples=...)" if self._name == "train_data" else "")
        return RecipeError(
            f"{self._name} {what}, and {self._size} are stated.", f"Every epoch must have the number in {stated}."
        )


class StreamBatches(IterableDataset[Any]):
    """The samples of each batch of a stream, as a ``DataLoader`` reads them in this process or in a separate one.

    Args:
        stream: to read.
        numbers: the samples of each batch, ascending.
        seed: of the job.
        is_seeded: whether to seed this process for each batch before it is collated: for a separate process.
    """

    def __init__(self, stream: Stream, numbers: Iterable[Tensor], *, seed: int, is_seeded: bool) -> None:
        self._stream, self._numbers, self._seed, self._is_seeded = stream, numbers, seed, is_seeded

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
            if self._is_seeded:
                seed_everything(stream_seed(self._seed, "data", numbers[0]))
            yield samples


class LoadedSamples(Dataset[Any]):
    """Samples that were loaded once, so that augmentation does not change them between two readings."""

    def __init__(self, samples: Sequence[Any]) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Any:
        return deepcopy(self._samples[index])  # some collate functions change their samples


def own_order(data: object) -> str | None:
    """Return ``stream`` or ``ranges`` for data that are used in their own order; None: scaler draws the order."""
    return {Stream: "stream", Ranges: "ranges"}.get(type(data))


def _set_epoch(source: Any, epoch: int) -> None:
    set_epoch = getattr(source, "set_epoch", None)
    if callable(set_epoch):
        set_epoch(epoch)
