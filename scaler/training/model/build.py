"""Build the model of a run again, outside its training."""

import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import nn

from scaler.errors import JobFileError, RecipeError, ScalerError
from scaler.job import Job
from scaler.job.runtime_env import job_environment
from scaler.training.model.initial import materialize
from scaler.training.own_loop.around import RecipeOnly, inside
from scaler.training.randomness import random_state, seed_everything, set_random_state
from scaler.training.recipe import Recipe
from scaler.training.recipe.failures import describe_type, recipe_failure
from scaler.training.recipe.load import import_recipe, require_arguments

Model = nn.Module
RecipeLike = str | Callable[..., Any] | nn.Module | Recipe


def given_model(recipe: RecipeLike | None) -> Model | None:
    """Return the model that a recipe or model has already; None: it must be built."""
    if isinstance(recipe, Recipe):
        materialize(recipe.model, torch.device("cpu"), seed=0, initialize=recipe.initialize)
        return recipe.model
    return recipe if isinstance(recipe, nn.Module) else None


def build_model(recipe: str | Callable[..., Any], job: Job, *, folder: Path, source: str) -> Model:
    """Return the model of a job's recipe, with the random numbers and environment that a worker has.

    The random numbers of this process are the same afterwards.

    Args:
        recipe: a function that gets the job's ``recipe_args`` and returns a ``scaler.Recipe`` or an ``nn.Module``; or
            ``module:function`` or ``path/to/file.py:function``.
        job: of the run.
        folder: where a module is looked for first.
        source: names the job in errors.

    Raises:
        JobFileError: the function does not exist, or does not take the job's ``recipe_args``.
        RecipeError: the function raised an exception, or returned something else.
    """
    if isinstance(recipe, str) and not recipe.rpartition(":")[0]:
        raise JobFileError(f"recipe = {recipe} names no function.", "Such as recipe:build or path/file.py:build.")
    name = recipe if isinstance(recipe, str) else getattr(recipe, "__qualname__", "recipe")
    cpu = torch.device("cpu")
    before = random_state(cpu)
    try:
        # stdout is for the command's result
        with (
            redirect_stdout(sys.stderr),
            job_environment(job.runtime_env, folder=folder),
            inside(RecipeOnly(name)),
        ):
            seed_everything(job.train.seed)
            build = import_recipe(recipe, folder=folder) if isinstance(recipe, str) else recipe
            require_arguments(build, job.recipe_args, path=name, source=source)
            made = build(**job.recipe_args)
    except ScalerError:
        raise
    except (Exception, SystemExit) as error:
        raise recipe_failure(error, name, folder=folder) from error
    finally:
        set_random_state(before, cpu)
    model = made.model if isinstance(made, Recipe) else made
    if not isinstance(model, nn.Module):
        raise RecipeError(
            f"{name} returned {describe_type(made)}, not a model.", "Return a scaler.Recipe or a torch.nn.Module."
        )
    initialize = made.initialize if isinstance(made, Recipe) else None
    materialize(model, cpu, seed=job.train.seed, initialize=initialize)
    return model
