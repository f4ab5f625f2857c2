"""Check a recipe's data, and wrap those that have an order of their own (docs/data-sources.md)."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import replace
from typing import Any

from scaler.core.nearest import did_you_mean
from scaler.errors import RecipeError
from scaler.training.recipe.eval import Eval
from scaler.training.recipe.failures import describe_type, error_text, recipe_traceback
from scaler.training.recipe.recipe import EVALUATE_OVER, Recipe

KINDS = (
    "Give a map-style dataset (len() and [index]), an object with read_range(start, stop), or an iterable that starts "
    "a new epoch at each iter()."
)


def with_data(recipe: Recipe, path: str) -> Recipe:
    """Return a recipe with data that training can read, and its ``evals`` as ``Eval`` objects.

    Args:
        recipe: as its function returned it.
        path: of the function, for messages.

    Raises:
        RecipeError: the data cannot be used, or their length is not known.
    """
    stated = recipe.num_samples
    if stated is not None and (isinstance(stated, bool) or not isinstance(stated, int) or stated < 1):
        raise RecipeError(f"{path}: num_samples = {stated!r}.", "It must be a number of samples, 1 or more.")
    if recipe.sampler is not None:
        train_data = _in_order_of_sampler(recipe, path)
    else:
        train_data = _readable(recipe.train_data, "train_data", path, stated, sharded=recipe.sharded)
    evals = {name: _readable_eval(recipe, name, given, path) for name, given in _named_evals(recipe, path).items()}
    eval_data = None if recipe.eval_data is None else _readable(recipe.eval_data, "eval_data", path)
    return replace(recipe, train_data=train_data, eval_data=eval_data, evals=evals)


def datasets(recipe: Recipe) -> dict[str, Any]:
    """Return all data of a recipe by name: ``train_data``, ``eval_data``, and ``evals[NAME]``."""
    evals = {f"evals[{name}]": one.data for name, one in recipe.evals.items() if isinstance(one, Eval)}
    found = {"train_data": recipe.train_data, "eval_data": recipe.eval_data, **evals}
    return {name: data for name, data in found.items() if data is not None}


def _readable(data: Any, name: str, path: str, stated: int | None = None, *, sharded: bool = False) -> Any:
    """Return a map-style dataset unchanged, and any other data as a ``Stream``, ``Shards`` or ``Ranges``."""
    from scaler.training.data.shards import Shards
    from scaler.training.data.stream import Ranges, Stream

    is_map_style = isinstance(data, Sized) and _has_items(data)
    can_seek = not is_map_style and callable(getattr(data, "read_range", None))
    if sharded and (is_map_style or can_seek):
        raise RecipeError(
            f"{path}: sharded = True, and {name} is {describe_type(data)}, of which every worker reads its share "
            "already.",
            "Leave sharded out: it is for iterables.",
        )
    if not is_map_style and not can_seek:
        _require_iterable(data, name, path)
    size = _size(data, name, path, stated)
    if is_map_style:
        return data
    if sharded:
        return Shards(data, size)
    return Ranges(data, size, name=name) if can_seek else Stream(data, size, name=name)


def _in_order_of_sampler(recipe: Recipe, path: str) -> Any:
    """Return the training data in the order of the recipe's sampler."""
    from torch.utils.data import BatchSampler, DistributedSampler

    from scaler.training.data.sampled import Sampled

    data, sampler, given = recipe.train_data, recipe.sampler, f"{path}: sampler is {describe_type(recipe.sampler)}"
    if isinstance(sampler, BatchSampler):
        raise RecipeError(
            f"{given}, which yields batches; the learning rate follows the batch of the job, and scaler makes the "
            "batches.",
            "Give the order of the samples, for example sampler=batch_sampler.sampler. For batches by length, yield "
            "the indices of one batch after the other.",
        )
    if isinstance(sampler, DistributedSampler):
        raise RecipeError(
            f"{given}, which yields one worker's share.", "Leave it out, or give the order of all samples."
        )
    if isinstance(sampler, Iterator) or not isinstance(sampler, Iterable):
        raise RecipeError(
            f"{given}.", "Give an object whose __iter__ yields the indices of an epoch, such as a torch Sampler."
        )
    if not (isinstance(data, Sized) and _has_items(data)):
        raise RecipeError(
            f"{path}: sampler is given, and train_data is {describe_type(data)}, which has an order of its own.",
            "Leave sampler out, or give a map-style dataset.",
        )
    _size(data, "train_data", path, None)
    return Sampled(data, sampler, _size(sampler, "sampler", path, recipe.num_samples))


def _named_evals(recipe: Recipe, path: str) -> dict[str, Eval]:
    """Return the evaluation sets by name, datasets as ``Eval``."""
    if not isinstance(recipe.evals, Mapping):
        raise RecipeError(
            f"{path}: evals is {describe_type(recipe.evals)}.", "Give a dict: name -> dataset or scaler.Eval(...)."
        )
    for name in recipe.evals:
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
            raise RecipeError(f"{path}: evals has the name {name!r}.", "Use letters, digits, '_', '-' and '.'.")
    return {name: each if isinstance(each, Eval) else Eval(data=each) for name, each in recipe.evals.items()}


def _readable_eval(recipe: Recipe, name: str, given: Eval, path: str) -> Eval:
    """Return an evaluation set with data that can be read.

    Raises:
        RecipeError: a part of it cannot be used.
    """
    from scaler.training.data.stream import Stream

    where = f"{path}: evals[{name}]"
    for what, part in (("evaluate", given.evaluate), ("metrics", given.metrics), ("collate", given.collate)):
        if part is not None and not callable(part):
            raise RecipeError(f"{where}: {what} is {describe_type(part)}.", f"{what} must be a function.")
    if given.metrics is not None and given.evaluate is None and recipe.evaluate is None:
        raise RecipeError(
            f"{where}: metrics is given without evaluate.", "metrics gets its arguments from evaluate: add evaluate."
        )
    if recipe.loss is None and given.evaluate is None and recipe.evaluate is None:
        raise RecipeError(f"{where}: there is neither evaluate nor a loss to evaluate.", "Add evaluate.")
    if given.evaluate_over not in (None, *EVALUATE_OVER):
        hint = did_you_mean(str(given.evaluate_over), EVALUATE_OVER)
        raise RecipeError(
            f"{where}: evaluate_over = {given.evaluate_over!r} is not known.",
            f"{hint}Known: {', '.join(EVALUATE_OVER)}.",
        )
    numbers = ("batch_size", given.batch_size, 1), ("data_workers", given.data_workers, 0)
    for what, number, least in numbers:
        if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < least):
            raise RecipeError(f"{where}: {what} = {number!r}.", f"It must be a whole number, {least} or more.")
    data = _readable(given.data, f"evals[{name}]", path)
    if isinstance(data, Stream) and given.data_workers > 1:
        raise RecipeError(
            f"{where}: data_workers = {given.data_workers}, but its data is an iterable, which one process reads.",
            "Set data_workers to 1, or give the data a method read_range(start, stop).",
        )
    return replace(given, data=data)


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
            states = name in ("train_data", "sampler")
            what = "scaler.Recipe(num_samples=...)" if states else "a method __len__"
            raise RecipeError(
                f"{path}: {name} is {describe_type(data)} without len().", f"State the samples of an epoch: {what}."
            )
        return stated
    try:
        size = len(data)
    except Exception as error:
        raise RecipeError(f"{path}: len({name}) failed: {error_text(error)}", recipe_traceback(error)) from error
    if size == 0:
        trains = name in ("train_data", "sampler")
        remedy = "There is nothing to train on." if trains else f"Leave {name} out for no evaluation."
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
