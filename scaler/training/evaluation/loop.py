"""Evaluation shared among the workers, exact over shares of different sizes."""

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
    """Return each value over every sample of ``eval_data``, on every worker the same.

    Args:
        recipe: its ``evaluate``, or its loss where there is none; its ``metrics``.
        model: not wrapped; left in the mode it came in.
        rank: this worker.
        world_size: workers that share the data.
        batch_size: samples in one forward pass.
        device: where the model lives.
        activity: told of each batch, for a long evaluation is no hang.
        most_samples: of the data, from its start; None: all of it.
    """
    size = len(recipe.eval_data)  # type: ignore[arg-type]
    size = size if most_samples is None else min(size, most_samples)
    start, stop = share_bounds(size, parts=world_size, index=rank)
    has_samples = stop > start
    # An empty share runs one sample, to learn the names.
    indices = torch.split(torch.arange(start, stop), batch_size) if has_samples else [torch.tensor([0])]
    tally = EvaluationResults(recipe, world_size=world_size, device=device, has_samples=has_samples)
    try:
        run(recipe, model, indices, tally, device=device, activity=activity)
        activity.begin(WAITING)
        return tally.values()
    finally:
        tally.close()


def evaluate_alone(
    recipe: Recipe, model: nn.Module, indices: Iterable[Tensor], *, device: torch.device, activity: Activity
) -> dict[str, float]:
    """Return each value over some batches of ``eval_data``, on this worker alone.

    Args:
        recipe: as above.
        model: as above.
        indices: of the samples of each batch.
        device: where the model lives.
        activity: told of each batch.
    """
    tally = EvaluationResults(recipe, world_size=1, device=device, has_samples=True)
    try:
        run(recipe, model, indices, tally, device=device, activity=activity)
        return tally.values()
    finally:
        tally.close()


def run(
    recipe: Recipe,
    model: nn.Module,
    indices: Iterable[Tensor],
    tally: EvaluationResults,
    *,
    device: torch.device,
    activity: Activity,
) -> None:
    """Count what the recipe says of some batches of ``eval_data``."""
    data = recipe.eval_data
    assert data is not None
    indices = list(indices)
    with torch.no_grad(), evaluation_mode(model), gathering(is_alone=True):
        for index, batch in zip(indices, batches(recipe, data, indices, data_workers=0, pin=False), strict=True):
            activity.begin(EVALUATING)
            batch = to_device(batch, device)
            if tally.add(_found(recipe, model, batch), samples=len(index)):
                tally.add(_found(recipe, model, batch), samples=len(index))


def _found(recipe: Recipe, model: nn.Module, batch: Any) -> Mapping[Any, Any]:
    """What the recipe says of one batch, by name."""
    if recipe.evaluate is not None:
        found = recipe.evaluate(model, batch)
        if not isinstance(found, Mapping):
            raise RecipeError(f"evaluate(model, batch) returned {describe(found)}.", "Return a dict of named values.")
        return found
    loss = recipe.loss(model, batch)
    is_weighted = isinstance(loss, tuple) and len(loss) == 2
    if not is_weighted and (not isinstance(loss, Tensor) or loss.numel() != 1):
        raise RecipeError(
            f"loss(model, batch) returned {describe(loss)} in the evaluation.",
            "Return a scalar tensor, or (sum, weight).",
        )
    return {"loss": loss}
