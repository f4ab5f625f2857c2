"""Check that a recipe can be trained, and that the plan was made for it."""

from typing import TYPE_CHECKING

from scaler.core.mesh import DATA, mesh_text
from scaler.core.nearest import did_you_mean
from scaler.errors import JobFileError, RecipeError
from scaler.training.model.names import named_parameters

if TYPE_CHECKING:
    from torch import nn

    from scaler.job import Job
    from scaler.plan import Plan
from scaler.training.recipe.data import with_data
from scaler.training.recipe.failures import describe_type
from scaler.training.recipe.optimizers import require_several, with_optimizers
from scaler.training.recipe.recipe import EVALUATE_OVER, LOSS_OVER, Recipe
from scaler.training.recipe.tokens import require_tokens


def require_planned(recipe: Recipe, job: "Job", plan: "Plan") -> None:
    """Raise an error if the plan was made for another recipe.

    Raises:
        RecipeError: the training set's size, the parameter groups, the optimizers or the model's parameters differ
            from the plan's; several processes would read an iterable; or as ``require_several``.
        JobFileError: the mesh has a dimension that only a loop of one's own can have.
    """
    from scaler.training.data.stream import Stream  # this file is imported without torch

    of_own_loops = {name: size for name, size in plan.mesh.items() if name not in DATA and size > 1}
    if of_own_loops:
        raise JobFileError(
            f"scale.mesh = {mesh_text(of_own_loops)}, and scaler's own loop copies and shards the model only.",
            f"Leave {' and '.join(of_own_loops)} out, or write a loop of your own: scaler.start(mesh=...).",
        )
    if (size := len(recipe.train_data)) != plan.num_samples:  # type: ignore[arg-type]
        raise RecipeError(
            f"train.num_samples = {plan.num_samples}, but the recipe's train_data has {size} samples.",
            f"Set train.num_samples to {size}, or leave it out.",
        )
    if isinstance(recipe.train_data, Stream) and job.train.data_workers > 1:
        raise RecipeError(
            f"train.data_workers = {job.train.data_workers}, but train_data is an iterable, which one process reads.",
            "Set train.data_workers to 1, or give train_data a method read_range(start, stop).",
        )
    require_tokens(recipe, job, plan)
    require_several(recipe, job, plan)
    if recipe.groups and not job.groups:
        raise RecipeError("the recipe has parameter groups, but the job does not use them.", "Add groups: recipe.")
    planned = {name: each.size for name, each in plan.parameters.items()}
    found = {name: parameter.numel() for name, parameter in named_parameters(recipe.model).items()}
    if planned and planned != found:
        other = min(set(planned.items()) ^ set(found.items()))[0]
        raise RecipeError(
            f"the model's parameters differ from those that the plan was made for: {other} is different.",
            "The recipe must build the same model each time.",
        )


def checked_recipe(recipe: object, path: str) -> Recipe:
    """Return a recipe that can be trained.

    Args:
        recipe: what the job's function returned.
        path: of the function, for messages.

    Raises:
        RecipeError: it is not a recipe, or a part of it cannot be used.
    """
    if not isinstance(recipe, Recipe):
        raise RecipeError(
            f"{path} returned {describe_type(recipe)}, not a scaler.Recipe.", "return scaler.Recipe(model=..., ...)"
        )
    if not hasattr(
        recipe.model, "named_parameters"
    ):  # not isinstance(..., nn.Module): this file is imported without torch
        raise RecipeError(f"{path}: model is {describe_type(recipe.model)}.", "It must be a torch.nn.Module.")
    functions = ("loss", recipe.loss), ("evaluate", recipe.evaluate), ("metrics", recipe.metrics)
    of_steps = ("step", recipe.step), ("after_step", recipe.after_step)
    of_batches = ("collate", recipe.collate), ("sequence_length", recipe.sequence_length)
    for name, part in (*functions, *of_steps, *of_batches):
        if not callable(part) and part is not None:
            raise RecipeError(f"{path}: {name} is {describe_type(part)}.", f"{name} must be a function.")
    if recipe.metrics is not None and recipe.evaluate is None:
        raise RecipeError(
            f"{path}: metrics is given without evaluate.", "metrics gets its arguments from evaluate: add evaluate."
        )
    tokens = recipe.tokens_per_sample
    if tokens is not None and (isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1):
        raise RecipeError(f"{path}: tokens_per_sample = {tokens!r}.", "It must be a number of tokens, 1 or more.")
    choices = ("loss_over", recipe.loss_over, LOSS_OVER), ("evaluate_over", recipe.evaluate_over, EVALUATE_OVER)
    for name, choice, known in choices:
        if choice not in known:
            hint = did_you_mean(str(choice), known)
            raise RecipeError(f"{path}: {name} = {choice!r} is not known.", f"{hint}Known: {', '.join(known)}.")
    for parameter_name, parameter in named_parameters(recipe.model).items():
        if unusable := _unusable(parameter):
            raise RecipeError(f"{path}: the model's parameter {parameter_name} {unusable[0]}.", unusable[1])
    if not any(parameter.requires_grad for parameter in recipe.model.parameters()):
        raise RecipeError(f"{path}: the model has no parameter to train.", "At least one must require a gradient.")
    return with_data(with_optimizers(recipe, path), path)


def _unusable(parameter: "nn.Parameter") -> tuple[str, str] | None:
    """Return why no worker can train a parameter, and what to do; None: it can be trained."""
    from torch import strided
    from torch.nn.parameter import is_lazy

    if is_lazy(parameter):
        return "has no shape yet", "Run the model once on a sample in build(): lazy layers get their shapes then."
    if parameter.layout != strided:
        return f"is a sparse tensor ({str(parameter.layout).removeprefix('torch.')})", "Make it dense, or a buffer."
    return None
