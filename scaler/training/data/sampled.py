"""A map-style dataset in the order of the recipe's sampler."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from operator import index
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from scaler.core.seeds import stream_seed
from scaler.errors import RecipeError
from scaler.training.data.reading import set_epoch
from scaler.training.data.stream import InOwnOrder
from scaler.training.randomness import SeparateRandomness


class Sampled(InOwnOrder, Dataset[Any]):
    """A dataset whose index is a sample's number in the training: epoch times length plus place in the epoch.

    Args:
        data: map-style.
        sampler: each ``iter(sampler)`` yields the indices of an epoch; ``set_epoch(epoch)`` is called before.
        size: samples of an epoch.

    Attributes:
        data: the dataset in its own order.
    """

    order = "sampler"

    def __init__(self, data: Any, sampler: Iterable[int], size: int) -> None:
        self.data, self._sampler, self._size = data, sampler, size
        self._digested: SamplerOrder | None = None

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, number: int) -> Any:
        """Return a sample in the order of seed 0: to compare the order between workers and attempts."""
        if self._digested is None:
            self._digested = self.ordered(seed=0)
        return self.data[int(self._digested.indices(torch.tensor([number])))]

    def ordered(self, *, seed: int) -> "SamplerOrder":
        """Return the order of the epochs for a job's seed."""
        return SamplerOrder(self._sampler, self._size, len(self.data), seed=seed)


class SamplerOrder:
    """The order of every epoch that a sampler gives.

    It is the same on every worker and after a resume: the random numbers that the sampler draws from the global
    generators, or from a ``torch.Generator`` in its attribute ``generator``, start from the seed and the epoch.

    Args:
        sampler: of the recipe.
        size: samples of an epoch.
        data_size: samples of the dataset.
        seed: of the job.
    """

    def __init__(self, sampler: Iterable[int], size: int, data_size: int, *, seed: int) -> None:
        self._sampler, self._size, self._data_size, self._seed = sampler, size, data_size, seed
        self._randomness = SeparateRandomness()
        self._epoch: int | None = None
        self._order = torch.empty(0, dtype=torch.int64)

    def translated(self, numbers: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the dataset's indices for each tensor of numbers."""
        return map(self.indices, numbers)

    def indices(self, numbers: Tensor) -> Tensor:
        """Return the dataset's indices for ascending numbers of samples.

        Raises:
            RecipeError: the sampler yields something other than the stated number of indices.
        """
        epochs = torch.div(numbers, self._size, rounding_mode="floor")
        found = [
            self._in_epoch(epoch)[numbers[epochs == epoch] - epoch * self._size]
            for epoch in range(int(epochs[0]), int(epochs[-1]) + 1)
        ]
        return found[0] if len(found) == 1 else torch.cat(found)

    def _in_epoch(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            self._order = torch.tensor(self._read(epoch), dtype=torch.int64)
            self._epoch = epoch
        return self._order

    def _read(self, epoch: int) -> Sequence[int]:
        seed = stream_seed(self._seed, "sampler", epoch)
        with self._randomness:
            self._randomness.seed(seed)
            generator = getattr(self._sampler, "generator", None)
            if isinstance(generator, torch.Generator):
                generator.manual_seed(seed)
            set_epoch(self._sampler, epoch)
            yielded = list(islice(iter(self._sampler), self._size + 1))
        order = [_index(each) for each in yielded]
        if len(order) != self._size:
            many = f"more than {self._size}" if len(order) > self._size else str(len(order))
            raise RecipeError(
                f"the sampler yields {many} indices in epoch {epoch}, and {self._size} are stated.",
                "Every epoch must have the number in len(sampler) or scaler.Recipe(num_samples=...).",
            )
        outside = [each for each in order if not 0 <= each < self._data_size]
        if outside:
            raise RecipeError(
                f"the sampler yields the index {outside[0]}, and train_data has {self._data_size} samples.",
                f"Yield indices from 0 to {self._data_size - 1}.",
            )
        return order


def _index(value: Any) -> int:
    try:
        return index(value)
    except TypeError:
        raise RecipeError(
            f"the sampler yields {value!r:.80}, not an index.",
            "Yield the index of one sample at a time; scaler makes the batches.",
        ) from None
