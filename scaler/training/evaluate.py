"""Evaluation shared among the workers, exact over shares of different sizes."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from scaler.core.batch import share_bounds
from scaler.errors import RecipeError
from scaler.training.data import batches, to_device
from scaler.training.modes import evaluating
from scaler.training.recipe import Recipe, kind
from scaler.training.watch import EVALUATING, WAITING, Watch


def evaluate(
    recipe: Recipe,
    model: nn.Module,
    *,
    rank: int,
    world_size: int,
    batch_size: int,
    device: torch.device,
    watch: Watch,
    most_samples: int | None = None,
) -> dict[str, float]:
    """Return the mean of each value over every sample of ``eval_data``, on every worker the same.

    Args:
        recipe: its ``evaluate``, or its loss where there is none.
        model: not wrapped; left in the mode it came in.
        rank: this worker.
        world_size: workers that share the data.
        batch_size: samples in one forward pass.
        device: where the model lives.
        watch: told of each batch, for a long evaluation is no hang.
        most_samples: of the data, from its start; None: all of it.
    """
    data = recipe.eval_data
    assert data is not None
    size = len(data)  # type: ignore[arg-type]
    size = size if most_samples is None else min(size, most_samples)
    start, stop = share_bounds(size, parts=world_size, index=rank)
    indices = (
        list(torch.split(torch.arange(start, stop), batch_size))
        if stop > start
        else [torch.zeros(1, dtype=torch.int64)]
    )
    sums: dict[str, float] = {}
    weights: dict[str, float] = {}
    with torch.no_grad(), evaluating(model):
        for index, batch in zip(indices, batches(recipe, data, indices, data_workers=0, pin=False), strict=True):
            watch.now(EVALUATING)
            counted = len(index) if stop > start else 0  # an empty share runs one sample, to learn the names
            for name, (value, weight) in _values(recipe, model, to_device(batch, device), counted).items():
                sums[name] = sums.get(name, 0.0) + value * weight
                weights[name] = weights.get(name, 0.0) + weight
    watch.now(WAITING)
    names = sorted(sums)
    if world_size > 1:  # a value may be there for some batches only, so for some workers only
        theirs: list[list[str]] = [[] for _ in range(world_size)]
        dist.all_gather_object(theirs, names)
        names = sorted({name for some in theirs for name in some})
    both = torch.tensor([[part.get(name, 0.0) for name in names] for part in (sums, weights)], dtype=torch.float64)
    if world_size > 1:
        both = both.to(device)
        dist.all_reduce(both)
    means = (both[0] / both[1]).tolist()
    return dict(zip(names, means, strict=True))


def _values(recipe: Recipe, model: nn.Module, batch: Any, samples: int) -> dict[str, tuple[float, float]]:
    """The means over one batch, each with its weight."""
    if recipe.evaluate is not None:
        found = recipe.evaluate(model, batch)
        if not isinstance(found, Mapping):
            raise RecipeError(f"evaluate(model, batch) returned {described(found)}.", "Return a dict of named means.")
        return {_name(name): (_number(name, value), float(samples)) for name, value in found.items()}
    loss = recipe.loss(model, batch)
    if isinstance(loss, tuple) and len(loss) == 2:
        total, weight = loss
        divisor = float(weight)
        return {"loss": (float(total) / divisor if divisor else 0.0, divisor if samples else 0.0)}
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise RecipeError(
            f"loss(model, batch) returned {described(loss)} in the evaluation.",
            "Return a scalar tensor, or (sum, weight).",
        )
    return {"loss": (float(loss), float(samples))}


def _name(name: object) -> str:
    if not isinstance(name, str):
        raise RecipeError(f"evaluate(model, batch) named a value {name!r}.", "Names are texts, such as accuracy.")
    return name


def _number(name: str, value: object) -> float:
    """One of the evaluation's values; a tensor must hold one number."""
    try:
        if not isinstance(value, str):  # "0.9" is a number to float, and a mistake here
            return float(value)  # type: ignore[arg-type]
        raise TypeError(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise RecipeError(
            f"evaluate(model, batch) returned {name} = {described(value)}, not a number.",
            "Return the mean over the batch's samples: a float, or a tensor of one number.",
        ) from None


def described(value: object) -> str:
    """Return what a recipe returned, in a few words.

    Example:
        >>> [described(value) for value in (torch.zeros(2, 3), None, "high", 3)]
        ['a tensor of shape (2, 3)', 'None', "'high'", '3']
    """
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return repr(value) if isinstance(value, str | int | float | None) else kind(value)
