"""A loader that counts what it yields. Everything else is the loader's own."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from scaler.errors import TrainingError

Fetch = Callable[[Callable[[], Any]], Any]


class CountedLoader:
    """Yields the batches of a loader, and counts them.

    Attributes that this class does not have are the loader's, such as ``dataset`` and ``sampler``.

    Args:
        loader: any iterable of batches.
        fetch: gets a function that returns the next batch; counts its samples and returns it. It raises
            ``StopIteration`` when the training is over.

    Attributes:
        loader: the loader itself.
    """

    def __init__(self, loader: Any, fetch: Fetch) -> None:
        self.loader, self._fetch = loader, fetch

    def __iter__(self) -> Iterator[Any]:
        source = iter(self.loader)
        while True:
            try:
                batch = self._fetch(lambda: next(source))
            except StopIteration:
                return
            yield batch

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)


def samples_of(batch: Any) -> int:
    """Return the samples in a batch: the length of the first dimension of its first tensor, or of a list.

    A list of dicts inside a batch, and a list of tensors of different lengths inside a batch, have a part for each
    sample, as in detection.

    Raises:
        TrainingError: the batch has no tensor and no list.

    Example:
        >>> import torch
        >>> samples_of([torch.zeros(8, 3), torch.zeros(8)]), samples_of({"ids": torch.zeros(4, 16)}), samples_of(["a"])
        (8, 4, 1)
        >>> images, targets = [torch.zeros(3, 8, 8), torch.zeros(3, 8, 8)], [{"boxes": torch.zeros(5, 4)}, {}]
        >>> samples_of((images, targets))
        2
    """
    first = batch[0] if isinstance(batch, list | tuple) and batch else batch
    found = len(first) if isinstance(first, Tensor) and first.dim() else _samples_of(batch)
    if found is None:
        raise TrainingError(
            f"a batch is a {type(batch).__name__}, and its number of samples is not known.",
            "Iterate over the loader itself, and count: run.count(number of samples in this process).",
        )
    return found


def _samples_of(batch: Any) -> int | None:
    if isinstance(batch, Tensor):
        return len(batch) if batch.dim() else 1
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    elif not isinstance(batch, list | tuple):
        batch = list(vars(batch).values()) if hasattr(batch, "__dict__") else []
    parts = [part for part in batch if isinstance(part, Tensor | Mapping | list | tuple)]
    if not parts:
        return len(batch) or None
    if not any(isinstance(part, Tensor) for part in parts):
        for part in parts:
            if _is_a_part_a_sample(part):
                return len(part)
    return next((found for part in parts if (found := _samples_of(part)) is not None), None)


def _is_a_part_a_sample(part: Any) -> bool:
    """Return whether a list inside a batch has a part for each sample, not a tensor of all samples for each input."""
    if not isinstance(part, list | tuple) or not part:
        return False
    if all(isinstance(each, Mapping) for each in part):
        return True
    return all(isinstance(each, Tensor) for each in part) and len({_samples_of(each) for each in part}) > 1
