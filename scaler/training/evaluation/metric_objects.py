"""Metrics that are objects: torchmetrics' ``update``, ``compute`` and ``reset``, over the data of all workers.

The states of torchmetrics' objects are put together, each by the reduction that it was added with, however many samples
a worker has, also none (torchmetrics' own synchronisation needs some on each). Of any other object, what ``update`` was
given is sent to every worker and given again there: so keep it small.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from scaler.errors import RecipeError
from scaler.training.data.batches import to_device

Call = tuple[tuple[Any, ...], dict[str, Any]]  # what update was given


def is_metric(value: object) -> bool:
    """Whether a value is an object with ``update``, ``compute`` and ``reset``; a dict has an ``update`` too."""
    return all(callable(getattr(value, name, None)) for name in ("update", "compute", "reset"))


class MetricObject:
    """A recipe's metric object, for the length of one evaluation.

    Args:
        name: that ``evaluate`` gives it.
        metric: as ``evaluate`` returned it for the first batch, which it has been updated with.
    """

    def __init__(self, name: str, metric: Any) -> None:
        self._name, self.metric = name, metric
        self._calls: list[Call] | None = None

    @property
    def can_add_up(self) -> bool:
        """Whether the states of several workers can be put together: whether it is torchmetrics'."""
        return bool(_parts(self.metric))

    def listen(self) -> None:
        """Empty the object, and keep what ``update`` is given from here on.

        Raises:
            RecipeError: the object takes no attribute, so that its ``update`` cannot be followed.
        """
        calls: list[Call] = []
        self.metric.reset()
        update = self.metric.update

        def kept(*args: Any, **kwargs: Any) -> Any:
            calls.append(to_device((args, kwargs), torch.device("cpu")))
            return update(*args, **kwargs)

        try:
            self.metric.update = kept
        except AttributeError:
            raise RecipeError(
                f"evaluate(model, batch) returned {self._name}, a {type(self.metric).__name__} whose update cannot be "
                "followed.",
                "Make it a class without __slots__, or a torchmetrics.Metric.",
            ) from None
        self._calls = calls

    def close(self) -> None:
        """Empty the object, and leave it as it was given."""
        if self._calls is not None:
            del self.metric.update
            self._calls = None
        self.metric.reset()

    def value(self, *, world_size: int, has_samples: bool) -> Any:
        """Return what the object computes over the data of all workers, on every worker."""
        if world_size > 1 and self._calls is not None:
            self._replay(world_size, self._calls if has_samples else [])
        elif world_size > 1:
            self._put_together(world_size, has_samples=has_samples)
        return _computed(self.metric)

    def _replay(self, world_size: int, calls: Sequence[Call]) -> None:
        everyones: list[Sequence[Call]] = [[] for _ in range(world_size)]
        dist.all_gather_object(everyones, calls)
        del self.metric.update
        self._calls = None
        self.metric.reset()
        for args, kwargs in (call for theirs in everyones for call in theirs):
            self.metric.update(*args, **kwargs)

    def _put_together(self, world_size: int, *, has_samples: bool) -> None:
        parts = _parts(self.metric)
        mine = [_State(part._update_count if has_samples else 0, _state(part)) for part in parts]
        everyones: list[list[_State]] = [[] for _ in range(world_size)]
        dist.all_gather_object(everyones, mine)
        for part, states in zip(parts, zip(*everyones, strict=True), strict=True):
            with_samples = [state for state in states if state.updates]
            part.reset()
            for name, reduction in part._reductions.items() if with_samples else ():
                reduced = _reduced(self._name, reduction, [state.values[name] for state in with_samples])
                setattr(part, name, to_device(reduced, part.device))
            part._update_count = sum(state.updates for state in with_samples)
            part._computed = None


class _State(NamedTuple):
    """One worker's state of one torchmetrics object, on the CPU."""

    updates: int
    values: Mapping[str, Any]


def _parts(metric: Any) -> list[Any]:
    """The torchmetrics objects with a state of their own in a metric: itself, a collection's, a wrapper's."""
    if not isinstance(metric, nn.Module):
        return []
    if isinstance(metric, nn.ModuleDict):  # a collection: listing it gives members of a group their state
        list(metric.items())
    return [part for part in metric.modules() if hasattr(part, "_reductions") and hasattr(part, "_update_count")]


def _state(part: Any) -> dict[str, Any]:
    return {name: to_device(getattr(part, name), torch.device("cpu")) for name in part._reductions}


def _reduced(name: str, reduction: Any, values: Sequence[Any]) -> Any:
    """One state of all workers, as torchmetrics reduces it."""
    if isinstance(values[0], list):
        return [item for value in values for item in value]
    how = getattr(reduction, "__name__", "")
    if how == "dim_zero_mean" and any(not torch.equal(value, values[0]) for value in values):
        raise RecipeError(
            f"evaluate(model, batch) returned {name}, whose state is a mean over workers, which workers with different "
            "numbers of samples have not.",
            "Return the predictions, and compute it in scaler.Recipe(metrics=...).",
        )
    if how == "dim_zero_cat":
        return torch.cat([value if value.ndim else value.unsqueeze(0) for value in values])
    stacked = torch.stack(list(values))
    return stacked if reduction is None else reduction(stacked)


def _computed(metric: Any) -> Any:
    """What a metric computes from the state that it has; torchmetrics' would ask the other workers once more."""
    parts = _parts(metric)
    before = [part._to_sync for part in parts]
    for part in parts:
        part._to_sync = False
    try:
        value = metric.compute()
    finally:
        for part, to_sync in zip(parts, before, strict=True):
            part._to_sync = to_sync
    return value


def values_of(name: str, computed: Any) -> dict[str, Any]:
    """Return a metric's values by name; one that computes several has ``name_part`` for each.

    Example:
        >>> values_of("f1", 0.5), values_of("scores", {"f1": 0.5, "recall": 1.0})
        ({'f1': 0.5}, {'scores_f1': 0.5, 'scores_recall': 1.0})
    """
    if isinstance(computed, Mapping):
        return {f"{name}_{part}": value for part, value in computed.items()}
    return {name: computed}


def rows_of(value: object) -> bool:
    """Whether a value has rows, one a sample: a tensor or array with dimensions, or a list."""
    if isinstance(value, Tensor):
        return value.ndim > 0
    return isinstance(value, list) or (hasattr(value, "__array__") and getattr(value, "ndim", 0) > 0)
