"""Evaluate a model on the data of all workers; exact for shares of different sizes."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from scaler.core.batch import share_bounds
from scaler.core.seeds import stream_seed
from scaler.errors import RecipeError
from scaler.metrics.events import EVALUATING, WAITING
from scaler.training.activity import Activity
from scaler.training.data.batches import batches, to_device
from scaler.training.data.stream import Stream
from scaler.training.evaluation.results import EvaluationResults, describe
from scaler.training.gradients.gather import gathering
from scaler.training.gradients.losses import evaluated_loss
from scaler.training.model.modes import evaluation_mode
from scaler.training.model.sharding import outside_forward, shard_again, whole_numbers
from scaler.training.randomness import random_state_kept, seed_batch
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
    whole_batches: bool = False,
    data_workers: int = 0,
    is_sharded: bool = False,
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
        whole_batches: whether workers share whole batches, which are then the same on any number of workers. False:
            they share samples, evenly.
        data_workers: processes that load batches.
        is_sharded: whether the model is sharded: every worker evaluates equally many batches then, because they wait
            for each other in each.
    """
    size = len(recipe.eval_data)  # type: ignore[arg-type]
    size = size if most_samples is None else min(size, most_samples)
    unit = batch_size if whole_batches else 1
    units = -(-size // unit)
    first, end = share_bounds(units, parts=world_size, index=rank)
    share = torch.arange(min(size, first * unit), min(size, end * unit))
    indices = list(torch.split(share, batch_size)) if len(share) else []
    padding = None
    if is_sharded:
        largest = -(-units // world_size)
        wanted = -(-largest * unit // batch_size)  # batches of the largest share
        if len(indices) < wanted <= len(share) and not whole_batches:
            indices = list(torch.tensor_split(share, wanted))
        if len(indices) < wanted:
            padding = torch.arange(min(size, batch_size))
    elif not indices:
        padding = torch.tensor([0])  # to learn the names of the values
    results = EvaluationResults(recipe, world_size=world_size, device=device, is_sharded=is_sharded)
    return _evaluated(
        recipe, model, indices, results, padding=padding, device=device, activity=activity, data_workers=data_workers
    )


def evaluate_alone(
    recipe: Recipe, model: nn.Module, indices: Iterable[Tensor], *, device: torch.device, activity: Activity, seed: int
) -> dict[str, float]:
    """Return each value over some batches of ``eval_data``, on this worker alone.

    Args:
        recipe: as for ``evaluate``.
        model: as for ``evaluate``.
        indices: of the samples of each batch.
        device: of the model.
        activity: updated for each batch.
        seed: of the random numbers.
    """
    results = EvaluationResults(recipe, world_size=1, device=device)
    return _evaluated(recipe, model, indices, results, device=device, activity=activity, seed=seed)


def _evaluated(
    recipe: Recipe,
    model: nn.Module,
    indices: Iterable[Tensor],
    results: EvaluationResults,
    *,
    device: torch.device,
    activity: Activity,
    padding: Tensor | None = None,
    data_workers: int = 0,
    seed: int = 0,
) -> dict[str, float]:
    """Return the recipe's values for some batches of ``eval_data``, after a batch ``padding`` that does not count.

    Random numbers start from the seed and the first sample of each batch. Those of the training are kept.
    """
    counts = [0] * (padding is not None) + [len(index) for index in indices]
    indices, data = [*([padding] if padding is not None else []), *indices], recipe.eval_data
    is_random = not (isinstance(data, Stream) or type(data) is TensorDataset)  # loading may draw from the globals
    seeds = [stream_seed(seed, "evaluation data", int(index[0])) for index in indices] if is_random else None
    source = batches(recipe, data, indices, data_workers=data_workers, pin=False, seeds=seeds)
    try:
        with random_state_kept(device), evaluation_mode(model), gathering(is_alone=True):
            with torch.no_grad():
                for number, index in enumerate(indices):
                    activity.begin(EVALUATING)
                    if seeds is not None:
                        seed_batch(seeds[number], device)
                    batch = to_device(next(source), device)
                    again = True
                    while again:  # a second time if metric objects are recorded from now on
                        seed_batch(stream_seed(seed, "evaluation", int(index[0])), device)
                        again = results.add(_values(recipe, model, batch), samples=counts[number])
            shard_again(model)
            activity.begin(WAITING)
            seed_batch(seed, device)
            return results.values()
    finally:
        results.close()


def _values(recipe: Recipe, model: nn.Module, batch: Any) -> Mapping[Any, Any]:
    """Return the recipe's values for one batch, by name."""
    try:
        with whole_numbers(model):
            if recipe.evaluate is not None:
                found = recipe.evaluate(model, batch)
            else:
                assert recipe.loss is not None  # a recipe with step has evaluate
                found = evaluated_loss(recipe.loss(model, batch))
    except Exception as error:
        if (failure := outside_forward(error)) is not None:
            raise failure from error
        raise
    if not isinstance(found, Mapping):
        raise RecipeError(f"evaluate(model, batch) returned {describe(found)}.", "Return a dict of named values.")
    return found
