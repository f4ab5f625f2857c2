"""Find values of the evaluation that depend on how its data is cut into batches and shares.

Such a value (an F1, a root, a ratio that ``evaluate`` computes for each batch) has a mean over batches that differs
from the value over all the data, and changes with the number of workers. The check evaluates some samples whole and in
parts. Thresholds and their measurements: docs/decisions/0033-metrics.md.
"""

from collections.abc import Mapping
from dataclasses import replace
from math import isfinite, isnan

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from scaler.core.seeds import stream_seed
from scaler.errors import RecipeError
from scaler.job import Job
from scaler.training.activity import Activity
from scaler.training.data.sources import load_samples
from scaler.training.data.stream import Stream
from scaler.training.evaluation.loop import evaluate_alone
from scaler.training.model.sharding import computing_dtypes
from scaler.training.process_group import object_from_rank_0
from scaler.training.recipe import Recipe

PARTS = 4
LEAST_SAMPLES = 8  # samples in the check if a batch has fewer and the data has enough
TOLERANCE = 1e-4  # relative difference; or 16 times the eps of the weights' dtype, if that is more
REMEDY = (
    "For a mean with weights of samples or tokens: return (sum, weight).\n"
    "For a function of all predictions, such as F1: update and return a torchmetrics object, or return the "
    "predictions, and compute it in scaler.Recipe(metrics=...).\n"
    'To report the mean over batches anyway: scaler.Recipe(evaluate_over="batch").'
)


def cut_error(
    recipe: Recipe,
    model: nn.Module,
    job: Job,
    *,
    batch_size: int,
    device: torch.device,
    activity: Activity,
    shared_by: int = 1,
) -> RecipeError | None:
    """Return the error for values that depend on the cut; None: there are none, or the recipe accepts them.

    A batch is evaluated whole and in parts. A value that differs is evaluated again in other parts, because the
    difference may be rounding, and with other random numbers, because random values differ too.

    Args:
        recipe: its evaluation.
        model: not wrapped. A model with layers that use the batch's statistics in evaluation mode is not checked.
        job: its seed selects the samples.
        batch_size: samples in a forward pass.
        device: of the model.
        activity: updated for each batch.
        shared_by: workers that have a part of the model each; with several, rank 0's values decide on all of them.
    """
    is_accepted = recipe.evaluate_over == "batch" or (recipe.evaluate is None and recipe.loss_over == "micro_batch")
    size = len(recipe.eval_data)  # type: ignore[arg-type]
    sees_batch = any(isinstance(module, _BatchNorm) and module.running_mean is None for module in model.modules())
    if is_accepted or sees_batch or size < 2:
        return None
    seed = stream_seed(job.train.seed, "cut check", 0)
    drawn = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    whole = drawn[: max(2, LEAST_SAMPLES, batch_size)]
    if isinstance(recipe.eval_data, Stream):  # it is read from its start
        whole = torch.arange(len(whole))
        recipe = replace(recipe, eval_data=load_samples(recipe.eval_data, whole.tolist(), seed=seed))
    parts = max(2, min(PARTS, len(whole) // 2))
    first_parts = torch.tensor_split(whole, parts)
    other_parts = [whole[index::parts] for index in range(parts)]

    def values(*parts: Tensor, seed: int = seed) -> dict[str, float]:
        found = evaluate_alone(recipe, model, parts, device=device, activity=activity, seed=seed)
        return object_from_rank_0(found, world_size=shared_by)

    expected = values(whole)
    first = values(*first_parts)
    tolerance = max([TOLERANCE, *(16 * torch.finfo(dtype).eps for dtype in computing_dtypes(model, job))])
    names = _differing(expected, first, list(expected), tolerance)
    if names:
        names = _differing(expected, values(*other_parts), names, tolerance)
    for other in (1, 2, 3) if names else ():  # a random value proves nothing
        again = values(whole, seed=seed + other)
        names = [name for name in names if name in again and _is_same(expected[name], again[name], first[name])]
    if not names:
        return None
    more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    of_loss, of_function = "the loss of the evaluation", f"evaluate(model, batch): {names[0]}"
    return RecipeError(
        f"{of_loss if recipe.evaluate is None else of_function}{more} depends on how the data is cut into batches: "
        f"{len(whole)} samples give {expected[names[0]]:.4g}, in parts of {len(first_parts[0])} together "
        f"{first[names[0]]:.4g}.",
        REMEDY,
    )


def _differing(
    expected: Mapping[str, float], found: Mapping[str, float], names: list[str], tolerance: float
) -> list[str]:
    return [name for name in names if name in found and _differ(expected[name], found[name], tolerance)]


def _is_same(expected: float, again: float, found: float) -> bool:
    """Return whether other random numbers change a value by less than a hundredth of what the cut changes."""
    difference = abs(found - expected)
    return abs(again - expected) <= (difference / 100 if isfinite(difference) else 1e-6 * abs(expected))


def _differ(one: float, other: float, tolerance: float) -> bool:
    if isnan(one) and isnan(other):
        return False
    if not (isfinite(one) and isfinite(other)):
        return one != other
    return abs(one - other) > tolerance * max(abs(one), abs(other))
