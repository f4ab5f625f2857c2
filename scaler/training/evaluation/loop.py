"""Evaluate a model on the data of all workers; exact for shares of different sizes."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from scaler.core.batch import share_bounds
from scaler.errors import RecipeError
from scaler.metrics.events import EVALUATING, WAITING
from scaler.training.activity import Activity
from scaler.training.data.batches import batches, to_device
from scaler.training.evaluation.results import EvaluationResults, describe
from scaler.training.gradients.gather import gathering
from scaler.training.gradients.losses import evaluated_loss
from scaler.training.model.modes import evaluation_mode
from scaler.training.recipe import Recipe


def evaluate(
    recipe: Recipe,
    model: nn.Module,
    *,
    rank: int,
    world_size: int,
    batch_size: int,
    device: torch.device,
    activity: Activity,
    most_samples: int | None = None,
) -> dict[str, float]:
    """Return each value over every sample of ``eval_data``, the same on every worker.

    Args:
        recipe: its ``evaluate``, or its loss if it has none; its ``metrics``.
        model: not wrapped; keeps its mode.
        rank: of this worker.
        world_size: workers that share the data.
        batch_size: samples in one forward pass.
        device: of the model.
        activity: updated for each batch, because a long evaluation is no hang.
        most_samples: evaluate only this many samples from the start of the data; None: all.
    """
    size = len(recipe.eval_data)  # type: ignore[arg-type]
    size = size if most_samples is None else min(size, most_samples)
    start, stop = share_bounds(size, parts=world_size, index=rank)
    has_samples = stop > start
    # A worker with an empty share runs one sample, to learn the names of the values.
    indices = torch.split(torch.arange(start, stop), batch_size) if has_samples else [torch.tensor([0])]
    results = EvaluationResults(recipe, world_size=world_size, device=device, has_samples=has_samples)
    try:
        add_batches(recipe, model, indices, results, device=device, activity=activity)
        activity.begin(WAITING)
        return results.values()
    finally:
        results.close()


def evaluate_alone(
    recipe: Recipe, model: nn.Module, indices: Iterable[Tensor], *, device: torch.device, activity: Activity
) -> dict[str, float]:
    """Return each value over some batches of ``eval_data``, on this worker alone.

    Args:
        recipe: as for ``evaluate``.
        model: as for ``evaluate``.
        indices: of the samples of each batch.
        device: of the model.
        activity: updated for each batch.
    """
    results = EvaluationResults(recipe, world_size=1, device=device, has_samples=True)
    try:
        add_batches(recipe, model, indices, results, device=device, activity=activity)
        return results.values()
    finally:
        results.close()


def add_batches(
    recipe: Recipe,
    model: nn.Module,
    indices: Iterable[Tensor],
    results: EvaluationResults,
    *,
    device: torch.device,
    activity: Activity,
) -> None:
    """Add the recipe's values for some batches of ``eval_data`` to the results."""
    data = recipe.eval_data
    assert data is not None
    indices = list(indices)
    with torch.no_grad(), evaluation_mode(model), gathering(is_alone=True):
        for index, batch in zip(indices, batches(recipe, data, indices, data_workers=0, pin=False), strict=True):
            activity.begin(EVALUATING)
            batch = to_device(batch, device)
            if results.add(_values(recipe, model, batch), samples=len(index)):
                results.add(_values(recipe, model, batch), samples=len(index))


def _values(recipe: Recipe, model: nn.Module, batch: Any) -> Mapping[Any, Any]:
    """Return the recipe's values for one batch, by name."""
    if recipe.evaluate is not None:
        found = recipe.evaluate(model, batch)
        if not isinstance(found, Mapping):
            raise RecipeError(f"evaluate(model, batch) returned {describe(found)}.", "Return a dict of named values.")
        return found
    assert recipe.loss is not None  # a recipe with step has evaluate
    return evaluated_loss(recipe.loss(model, batch))
