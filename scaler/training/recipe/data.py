"""Check a recipe's data, and wrap those that have an order of their own (docs/data-sources.md)."""

from collections.abc import Iterable, Iterator, Sized
from dataclasses import replace
from typing import Any

from scaler.errors import RecipeError
from scaler.training.recipe.failures import describe_type, error_text, recipe_traceback
from scaler.training.recipe.recipe import Recipe

KINDS = (
    "Give a map-style dataset (len() and [index]), an object with read_range(start, stop), or an iterable that starts "
    "a new epoch at each iter()."
)


def with_data(recipe: Recipe, path: str) -> Recipe:
    """Return a recipe with data that training can read.

    Args:
        recipe: as its function returned it.
        path: of the function, for messages.

    Raises:
        RecipeError: the data cannot be used, or their length is not known.
    """
    stated = recipe.num_samples
    if stated is not None and (isinstance(stated, bool) or not isinstance(stated, int) or stated < 1):
        raise RecipeError(f"{path}: num_samples = {stated!r}.", "It must be a number of samples, 1 or more.")
    train_data = _readable(recipe.train_data, "train_data", path, stated)
    if recipe.eval_data is None:
        return replace(recipe, train_data=train_data)
    return replace(recipe, train_data=train_data, eval_data=_readable(recipe.eval_data, "eval_data", path, None))


def _readable(data: Any, name: str, path: str, stated: int | None) -> Any:
    """Return a map-style dataset unchanged, and any other data as a ``Stream`` or ``Ranges``."""
    from scaler.training.data.stream import Ranges, Stream

    is_map_style = isinstance(data, Sized) and _has_items(data)
    can_seek = not is_map_style and callable(getattr(data, "read_range", None))
    if not is_map_style and not can_seek:
        _require_iterable(data, name, path)
    size = _size(data, name, path, stated)
    if is_map_style:
        return data
    return Ranges(data, size, name=name) if can_seek else Stream(data, size, name=name)


def _require_iterable(data: Any, name: str, path: str) -> None:
    """Raise an error unless every ``iter(data)`` can be an epoch."""
    from torch.utils.data import DataLoader

    if isinstance(data, DataLoader):
        raise RecipeError(
            f"{path}: {name} is a DataLoader, which yields batches.", f"Give its dataset: {name}=loader.dataset."
        )
    if callable(getattr(data, "streaming_split", None)):  # Ray is imported in scaler/cluster only
        raise RecipeError(
            f"{path}: {name} is a Ray Dataset, whose split among workers depends on their number.",
            "Write it once and read the files: dataset.write_parquet(folder). docs/data-sources.md has a class that "
            "reads them, and says what an iterable over dataset.iter_rows() needs.",
        )
    if isinstance(data, Iterator):
        raise RecipeError(
            f"{path}: {name} is {describe_type(data)}, which can be read only once.",
            "Give an object whose __iter__ starts a new epoch, such as a class with a generator as its __iter__.",
        )
    if not isinstance(data, Iterable):
        raise RecipeError(f"{path}: {name} is {describe_type(data)}.", KINDS)


def _size(data: Any, name: str, path: str, stated: int | None) -> int:
    """Return the samples of an epoch, without reading any."""
    if not isinstance(data, Sized):
        if stated is None:
            what = "scaler.Recipe(num_samples=...)" if name == "train_data" else "a method __len__"
            raise RecipeError(
                f"{path}: {name} is {describe_type(data)} without len().", f"State the samples of an epoch: {what}."
            )
        return stated
    try:
        size = len(data)
    except Exception as error:
        raise RecipeError(f"{path}: len({name}) failed: {error_text(error)}", recipe_traceback(error)) from error
    if size == 0:
        remedy = "Leave eval_data out for no evaluation." if name == "eval_data" else "There is nothing to train on."
        raise RecipeError(f"{path}: {name} is empty.", remedy)
    if stated is not None and stated != size:
        raise RecipeError(f"{path}: num_samples = {stated}, but len({name}) is {size}.", "Leave num_samples out.")
    return size


def _has_items(data: object) -> bool:
    """Return whether a sample can be read by its index; the ``__getitem__`` of torch's base class only raises."""
    from torch.utils.data import Dataset, IterableDataset

    if isinstance(data, IterableDataset):
        return False
    own = getattr(type(data), "__getitem__", None)
    return hasattr(data, "__getitems__") or (own is not None and own is not Dataset.__getitem__)
