"""Combine the values of an evaluation over all batches and workers."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from scaler.errors import RecipeError
from scaler.metrics.mean import Mean
from scaler.metrics.means import means_of
from scaler.training.data.containers import to_cpu
from scaler.training.evaluation.metric_objects import MetricObject, has_rows, is_metric, values_of
from scaler.training.model.sharding import whole
from scaler.training.process_group import max_over_workers, object_from_rank_0
from scaler.training.recipe import Recipe
from scaler.training.recipe.failures import describe_type

NUMBER, ROWS, OBJECT = "a number", "rows", "a metric object"
EVALUATE_SAYS = "evaluate(model, batch) returned"


class EvaluationResults:
    """The values of one evaluation.

    Args:
        recipe: its ``metrics``.
        world_size: workers that share the data.
        device: of the process group.
        is_sharded: whether every worker must evaluate equally often.
    """

    def __init__(self, recipe: Recipe, *, world_size: int, device: torch.device, is_sharded: bool = False) -> None:
        self._metrics, self._world_size, self._device = recipe.metrics, world_size, device
        self._is_sharded = is_sharded
        self._wanted, self._wants_all = _parameters(recipe)
        self._kinds: dict[str, str] = {}
        self._means: dict[str, Mean] = {}
        self._rows: dict[str, list[Any]] = {}
        self._objects: dict[str, MetricObject] = {}

    def add(self, found: Mapping[Any, Any], *, samples: int) -> bool:
        """Add a batch's values; return True if the batch must be evaluated again, because nothing was added.

        This happens for the first batch on several workers, if updates of a metric object must be recorded.

        Args:
            found: what the recipe returned.
            samples: in the batch; 0: its values do not count. Such a batch comes before all others.
        """
        is_first = not self._kinds
        for name, value in found.items():
            self._note(_name(name), self._kind(name, value), value, is_first=is_first)
        unrecorded = [
            one for one in self._objects.values() if is_first and self._world_size > 1 and not one.can_combine
        ]
        if is_first and self._is_again(bool(unrecorded)):
            for one in self._objects.values():
                one.record_updates() if one in unrecorded else one.forget()
            return True
        if not samples:
            for one in self._objects.values():
                one.forget()
            return False
        for name, value in found.items():
            self._count(name, value, samples)
        return False

    def _is_again(self, mine: bool) -> bool:
        """Return whether this worker evaluates its first batch again; with a sharded model, the same on all."""
        if not self._is_sharded:
            return mine
        return bool(max_over_workers([mine], world_size=self._world_size, device=self._device)[0])

    def values(self) -> dict[str, float]:
        """Return the values over all batches of all workers, the same on every worker.

        Raises:
            RecipeError: workers have values of different kinds under one name, or ``metrics`` takes a value that is
                missing.
        """
        kinds = self._kinds_of_all_workers()
        numbers = sorted(name for name, what in kinds.items() if what == NUMBER)
        means = [self._means.get(name, Mean()) for name in numbers]
        both = torch.tensor([[mean.total for mean in means], [mean.weight for mean in means]], dtype=torch.float64)
        if self._world_size > 1:
            both = both.to(self._device)
            dist.all_reduce(both)
        sums, weights = both.cpu().numpy()
        values: dict[str, Any] = dict(zip(numbers, means_of(sums, weights).tolist(), strict=True))
        for name in sorted(name for name, what in kinds.items() if what == OBJECT):
            computed = self._objects[name].value(world_size=self._world_size)
            values |= {
                key: _number(key, value, says="its metric object computes")
                for key, value in values_of(name, computed).items()
            }
        if self._metrics is not None:
            values |= self._of_all(values, self._rows_of_all_workers(kinds))
        return values

    def close(self) -> None:
        """Restore the recipe's metric objects, and empty them."""
        for one in self._objects.values():
            one.close()

    def _kind(self, name: Any, value: Any) -> str:
        if is_metric(value):
            return OBJECT
        return ROWS if (self._wants_all or name in self._wanted) and has_rows(value) else NUMBER

    def _note(self, name: str, what: str, value: Any, *, is_first: bool) -> None:
        before = self._kinds.setdefault(name, what)
        if before != what:
            raise RecipeError(
                f"evaluate(model, batch) returned {name} as {before} for one batch, as {what} for another.",
                "Return the same kind of value for every batch.",
            )
        if what != OBJECT or (name in self._objects and self._objects[name].metric is value):
            return
        if not is_first:
            raise RecipeError(
                f"evaluate(model, batch) returned another metric object for {name} than for the batch before.",
                "Make the object once, outside evaluate, and update and return it for every batch.",
            )
        self._objects[name] = MetricObject(name, value)

    def _count(self, name: str, value: Any, samples: int) -> None:
        what = self._kinds[name]
        if what == ROWS:
            self._rows.setdefault(name, []).append(to_cpu(value))
        elif what == NUMBER:
            mean = self._means.setdefault(name, Mean())
            if isinstance(value, tuple) and len(value) == 2:
                mean.add_sum(_number(name, value[0]), _number(name, value[1]))
            else:
                mean.add(_number(name, value), float(samples))

    def _kinds_of_all_workers(self) -> dict[str, str]:
        """Return the kind of each name over all workers; a worker may have names that others lack."""
        gathered = [self._kinds]
        if self._world_size > 1:
            gathered = [{} for _ in range(self._world_size)]
            dist.all_gather_object(gathered, self._kinds)
        kinds: dict[str, str] = {}
        for name, what in (item for theirs in gathered for item in theirs.items()):
            if kinds.setdefault(name, what) != what or (what == OBJECT and any(name not in some for some in gathered)):
                raise RecipeError(
                    f"evaluate(model, batch) does not return {name} as {what} for every batch.",
                    "Return the same kind of value for every batch.",
                )
        return kinds

    def _rows_of_all_workers(self, kinds: Mapping[str, str]) -> dict[str, Any]:
        """Return the rows of all workers, in the order of the data."""
        mine = {name: _joined(name, parts) for name, parts in self._rows.items()}
        gathered = [mine]
        if self._world_size > 1:
            gathered = [{} for _ in range(self._world_size)]
            dist.all_gather_object(gathered, mine)
        names = [name for name, what in kinds.items() if what == ROWS]
        return {name: _joined(name, [theirs[name] for theirs in gathered if name in theirs]) for name in names}

    def _of_all(self, values: Mapping[str, float], rows: Mapping[str, Any]) -> dict[str, float]:
        """Return the values of ``metrics`` over all the data: rank 0's, because it may draw random numbers."""
        assert self._metrics is not None
        there = {**values, **rows}
        missing = [name for name, is_needed in self._wanted.items() if is_needed and name not in there]
        if missing:
            raise RecipeError(
                f"metrics takes {missing[0]}, which evaluate(model, batch) does not return.",
                f"It returns {', '.join(sorted(there))}.",
            )
        chosen = there if self._wants_all else {name: there[name] for name in self._wanted if name in there}
        found = self._metrics(**chosen)
        if not isinstance(found, Mapping):
            raise RecipeError(f"metrics returned {describe(found)}.", "Return a dict of named values.")
        numbers = {_name(name): _number(name, value, says="metrics returned") for name, value in found.items()}
        twice = sorted(numbers.keys() & values.keys())
        if twice:
            raise RecipeError(f"metrics and evaluate both return {twice[0]}.", "Give one of them another name.")
        return object_from_rank_0(numbers, world_size=self._world_size)


def _parameters(recipe: Recipe) -> tuple[dict[str, bool], bool]:
    """Return the parameters of ``metrics``, each with whether it is required, and whether it takes any keyword."""
    if recipe.metrics is None:
        return {}, False
    parameters = inspect.signature(recipe.metrics).parameters.values()
    named = [one for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    return {one.name: one.default is one.empty for one in named}, any(one.kind is one.VAR_KEYWORD for one in parameters)


def _joined(name: str, parts: Sequence[Any]) -> Any:
    """Return the rows of all parts as one tensor, list or array."""
    try:
        if all(isinstance(part, Tensor) for part in parts):
            return torch.cat(list(parts))
        if all(isinstance(part, list) for part in parts):
            return [row for part in parts for row in part]
        return np.concatenate([np.asarray(part) for part in parts])
    except (RuntimeError, ValueError) as error:
        shapes = sorted({str(tuple(np.shape(part)[1:])) for part in parts if hasattr(part, "shape")})
        raise RecipeError(
            f"evaluate(model, batch) returned {name} with rows of shapes {', '.join(shapes)}.",
            "Return a list with one item a sample.",
        ) from error


def _name(name: object) -> str:
    if not isinstance(name, str):
        raise RecipeError(f"evaluate(model, batch) named a value {name!r}.", "Names are strings, such as accuracy.")
    return name


def _number(name: object, value: object, *, says: str = EVALUATE_SAYS) -> float:
    """Return a value as a float; a tensor must hold one number."""
    try:
        if not isinstance(value, str):  # float("0.9") is a number, but a string is a mistake
            return float(whole(value) if isinstance(value, Tensor) else value)  # type: ignore[arg-type]
        raise TypeError(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        remedy = "Return the mean over the batch's samples: a float, or a tensor of one number; or (sum, weight)."
        if says == EVALUATE_SAYS and has_rows(value):
            remedy += "\nFor a value with one row a sample, use scaler.Recipe(metrics=...)."
        raise RecipeError(
            f"{says} {name} = {describe(value)}, not a number.",
            remedy if says == EVALUATE_SAYS else "A value is a float, or a tensor of one number.",
        ) from None


def describe(value: object) -> str:
    """Return what a recipe returned, for a message.

    Example:
        >>> [describe(value) for value in (torch.zeros(2, 3), None, "high", 3)]
        ['a tensor of shape (2, 3)', 'None', "'high'", '3']
    """
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return repr(value) if isinstance(value, str | int | float | None) else describe_type(value)
