"""Metric objects with torchmetrics' ``update``, ``compute`` and ``reset``, computed over the data of all workers.

The states of torchmetrics' objects are combined with the reduction that each state was registered with. A worker may
have any number of samples, including none (torchmetrics' own synchronisation needs some on each worker). For any other
object, the arguments of ``update`` are sent to every worker and applied there, so they should be small.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from scaler.errors import RecipeError
from scaler.training.data.containers import to_cpu, to_device

Call = tuple[tuple[Any, ...], dict[str, Any]]  # the arguments of update


def is_metric(value: object) -> bool:
    """Return whether a value has ``update``, ``compute`` and ``reset``; a dict has an ``update`` too."""
    return all(callable(getattr(value, name, None)) for name in ("update", "compute", "reset"))


class MetricObject:
    """A recipe's metric object during one evaluation.

    Args:
        name: that ``evaluate`` gives it.
        metric: as ``evaluate`` returned it for the first batch; it contains this batch.
    """

    def __init__(self, name: str, metric: Any) -> None:
        self._name, self.metric = name, metric
        self._calls: list[Call] | None = None

    @property
    def can_combine(self) -> bool:
        """Whether the states of several workers can be combined, because it is a torchmetrics object."""
        return bool(_parts(self.metric))

    def record_updates(self) -> None:
        """Empty the object, and record the arguments of its ``update`` from now on.

        Raises:
            RecipeError: no attribute of the object can be set, so its ``update`` cannot be recorded.
        """
        calls: list[Call] = []
        self.metric.reset()
        update = self.metric.update

        def kept(*args: Any, **kwargs: Any) -> Any:
            calls.append(to_cpu((args, kwargs)))
            return update(*args, **kwargs)

        try:
            self.metric.update = kept
        except AttributeError:
            raise RecipeError(
                f"evaluate(model, batch) returned {self._name}, a {type(self.metric).__name__} whose update cannot be "
                "recorded.",
                "Make it a class without __slots__, or a torchmetrics.Metric.",
            ) from None
        self._calls = calls

    def forget(self) -> None:
        """Empty the object: the updates so far do not count."""
        if self._calls is not None:
            self._calls.clear()
        self.metric.reset()

    def close(self) -> None:
        """Empty the object, and restore its ``update``."""
        if self._calls is not None:
            del self.metric.update
            self._calls = None
        self.metric.reset()

    def value(self, *, world_size: int) -> Any:
        """Return what the object computes over the data of all workers, the same on every worker."""
        if world_size > 1 and self._calls is not None:
            self._replay(world_size, self._calls)
        elif world_size > 1:
            self._combine(world_size)
        return _computed(self.metric)

    def _replay(self, world_size: int, calls: Sequence[Call]) -> None:
        gathered: list[Sequence[Call]] = [[] for _ in range(world_size)]
        dist.all_gather_object(gathered, calls)
        del self.metric.update
        self._calls = None
        self.metric.reset()
        for args, kwargs in (call for theirs in gathered for call in theirs):
            self.metric.update(*args, **kwargs)

    def _combine(self, world_size: int) -> None:
        parts = _parts(self.metric)
        mine = [_State(part._update_count, _state(part)) for part in parts]
        gathered: list[list[_State]] = [[] for _ in range(world_size)]
        dist.all_gather_object(gathered, mine)
        for part, states in zip(parts, zip(*gathered, strict=True), strict=True):
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
    """Return the torchmetrics objects with own state in a metric: itself, members of a collection, or a wrapped one."""
    if not isinstance(metric, nn.Module):
        return []
    if isinstance(metric, nn.ModuleDict):  # a collection: items() gives the members of a compute group their state
        list(metric.items())
    return [part for part in metric.modules() if hasattr(part, "_reductions") and hasattr(part, "_update_count")]


def _state(part: Any) -> dict[str, Any]:
    return {name: to_cpu(getattr(part, name)) for name in part._reductions}


def _reduced(name: str, reduction: Any, values: Sequence[Any]) -> Any:
    """Return the combined state of all workers, reduced as torchmetrics does it."""
    if isinstance(values[0], list):
        return [item for value in values for item in value]
    how = getattr(reduction, "__name__", "")
    if how == "dim_zero_mean" and any(not torch.equal(value, values[0]) for value in values):
        raise RecipeError(
            f"evaluate(model, batch) returned {name}, whose state is a mean over workers. That is wrong for workers "
            "with different numbers of samples.",
            "Return the predictions, and compute it in scaler.Recipe(metrics=...).",
        )
    if how == "dim_zero_cat":
        return torch.cat([value if value.ndim else value.unsqueeze(0) for value in values])
    stacked = torch.stack(list(values))
    return stacked if reduction is None else reduction(stacked)


def _computed(metric: Any) -> Any:
    """Return what a metric computes from its present state, without torchmetrics' own synchronisation."""
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
    """Return a metric's values by name; if it computes several, each is called ``name_part``.

    Example:
        >>> values_of("f1", 0.5), values_of("scores", {"f1": 0.5, "precision": 1.0})
        ({'f1': 0.5}, {'scores_f1': 0.5, 'scores_precision': 1.0})
    """
    if isinstance(computed, Mapping):
        return {f"{name}_{part}": value for part, value in computed.items()}
    return {name: computed}


def has_rows(value: object) -> bool:
    """Return whether a value has rows, one a sample: a tensor or array with dimensions, or a list."""
    if isinstance(value, Tensor):
        return value.ndim > 0
    return isinstance(value, list) or (hasattr(value, "__array__") and getattr(value, "ndim", 0) > 0)
