"""The tokens of a recipe's samples, for a job that counts tokens."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from scaler.errors import RecipeError
from scaler.training.recipe.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn

    from scaler.job import Job
    from scaler.plan import Phase, Plan


def require_tokens(recipe: Recipe, job: "Job", plan: "Plan") -> None:
    """Raise an error if the job counts other tokens than the recipe.

    Raises:
        RecipeError: they differ; or the tokens of a sample change in training, and the recipe cannot change them.
    """
    planned, own, has_change = plan.tokens_per_sample, recipe.tokens_per_sample, recipe.sequence_length is not None
    if planned is not None and own is not None and planned != own and not has_change:
        raise RecipeError(
            f"train.tokens_per_sample = {planned}, but the recipe has tokens_per_sample = {own}.",
            f"Set train.tokens_per_sample to {own}, or leave it out.",
        )
    if job.train.sequence_lengths and not has_change:
        raise RecipeError(
            "train.sequence_lengths changes the tokens of a sample, and the recipe has no sequence_length.",
            "Add it: scaler.Recipe(sequence_length=lambda batch, tokens: ..., ...).",
        )


def of_length(recipe: Recipe, batch: Any, phase: "Phase") -> Any:
    """Return a training batch with the tokens of a phase."""
    if recipe.sequence_length is None or phase.tokens_per_sample is None:
        return batch
    return recipe.sequence_length(batch, phase.tokens_per_sample)


def with_length_of(recipe: Recipe, phase: "Phase") -> Recipe:
    """Return a recipe whose loss has the tokens of a phase, for the checks before the first step."""
    loss = recipe.loss
    if recipe.sequence_length is None or phase.tokens_per_sample is None or loss is None:
        return recipe

    def of_phase(model: "nn.Module", batch: Any) -> Any:
        return loss(model, of_length(recipe, batch, phase))

    return replace(recipe, loss=of_phase)
