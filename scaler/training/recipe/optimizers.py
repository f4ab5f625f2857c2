"""Which parameters each of a recipe's optimizers trains."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from scaler.core.nearest import did_you_mean
from scaler.errors import RecipeError
from scaler.training.model.names import named_parameters
from scaler.training.recipe.failures import describe_type
from scaler.training.recipe.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn

    from scaler.job import Job
    from scaler.plan import Plan

SUCH_AS = 'Such as scaler.Recipe(optimizers={"d": model.discriminator, "g": model.generator}, step=...).'


def with_optimizers(recipe: Recipe, path: str) -> Recipe:
    """Return a recipe whose ``optimizers`` are lists of parameters, checked; one without ``step`` is unchanged.

    Args:
        recipe: as its function returned it.
        path: of the function, for messages.

    Raises:
        RecipeError: ``loss``, ``step`` and ``optimizers`` do not fit together, or a parameter belongs to no optimizer
            or to two.
    """
    if (recipe.loss is None) == (recipe.step is None):
        has = "neither loss nor step" if recipe.step is None else "both loss and step"
        raise RecipeError(f"{path}: the recipe has {has}.", "Give loss(model, batch), or step(context, batch).")
    if recipe.step is None:
        if recipe.optimizers is not None:
            raise RecipeError(
                f"{path}: optimizers is given without step.", "Add step(context, batch), which steps them."
            )
        return recipe
    if recipe.eval_data is not None and recipe.evaluate is None:
        raise RecipeError(
            f"{path}: eval_data is given without evaluate, and a recipe with step has no loss to evaluate.",
            "Add evaluate.",
        )
    if not isinstance(recipe.optimizers, Mapping) or not recipe.optimizers:
        raise RecipeError(f"{path}: step is given, and optimizers is {describe_type(recipe.optimizers)}.", SUCH_AS)
    trained = {name: _parameters(name, value, path) for name, value in recipe.optimizers.items()}
    _require_partition(recipe.model, trained, path)
    return replace(recipe, optimizers=trained)


def trained_by(recipe: Recipe, plan: "Plan") -> dict[str | None, list[str] | None]:
    """Return the names of the parameters of each optimizer.

    The name None is that of ``reference.optimizer``. It is the only one, with None for all parameters, if neither the
    recipe nor the plan has several optimizers.
    """
    if recipe.step is None:
        if not plan.tensors:
            return {None: None}
        return {None: list(plan.tensors), **{own.name: list(own.tensors) for own in plan.optimizers}}
    names = {id(parameter): name for name, parameter in named_parameters(recipe.model).items()}
    return {
        name: [names[id(parameter)] for parameter in _parameters(name, value, "recipe")]
        for name, value in (recipe.optimizers or {}).items()
    }


def require_several(recipe: Recipe, job: "Job", plan: "Plan") -> None:
    """Raise an error if a job and its plan do not fit a recipe with a step of its own, or with one optimizer.

    Raises:
        RecipeError: ``reference.optimizers`` names an optimizer that the recipe does not have; or for a recipe with
            ``step``, a step has several micro-batches, or the job measures the gradient's noise.
    """
    names = list(recipe.optimizers or ())
    if job.reference.splits:
        _require_split(recipe, job, plan)
    for name in job.reference.optimizers if not job.reference.splits else ():
        if name not in names:
            hint = did_you_mean(name, names)
            alone = f'Say which parameters it trains, such as {name}: {{match: ["{name}.*"], ...}}; or leave it out.'
            known = f"{hint}Known: {', '.join(names)}." if names else alone
            raise RecipeError(f"reference.optimizers.{name}: the recipe has no optimizer {name}.", known)
    if recipe.step is None:
        return
    most = max(phase.grad_accum_steps for phase in plan.phases)
    if most > 1:
        raise RecipeError(
            f"the recipe has step, and a step of the plan has {most} micro-batches on a worker: step gets a worker's "
            "whole share of the batch at once.",
            "Use scale.grad_accum_steps: 1 and a per_worker_batch_size of at least a worker's share; step itself may "
            "divide the batch and call context.backward several times.",
        )
    if plan.is_measured or job.scale.batch_follows_noise:
        raise RecipeError(
            "the recipe has step: the gradient's noise is not measured, because a step has no single gradient.",
            "Use a rule other than adascale, and a batch_schedule that does not follow the noise.",
        )


def _require_split(recipe: Recipe, job: "Job", plan: "Plan") -> None:
    """Raise an error if the optimizers of a job cannot share the parameters of a recipe."""
    if recipe.step is not None:
        raise RecipeError(
            "reference.optimizer.fallback and match split the parameters of a recipe with a loss, and the recipe has "
            "step.",
            "Give its optimizers in the recipe: Recipe(optimizers={...}), and what differs in reference.optimizers.",
        )
    named = named_parameters(recipe.model)
    for name, tensors in trained_by(recipe, plan).items():
        if tensors is not None and not any(named[tensor].requires_grad for tensor in tensors):
            place = "reference.optimizer" if name is None else f"the optimizer {name} of the job"
            raise RecipeError(
                f"{place} has no parameter to train: none of {', '.join(tensors[:3])} requires a gradient.",
                "Let one require a gradient in build(), or change what the optimizer matches.",
            )


def _parameters(name: object, value: Any, path: str) -> "list[nn.Parameter]":
    """Return the parameters that an entry of ``optimizers`` names."""
    if not isinstance(name, str):
        raise RecipeError(f"{path}: optimizers has the name {name!r}.", f"A name is a text. {SUCH_AS}")
    found = value.parameters() if callable(getattr(value, "parameters", None)) else value
    listed = list(found) if isinstance(found, Iterable) and not isinstance(found, str | Mapping) else None
    if listed is None or not all(hasattr(parameter, "requires_grad") for parameter in listed):
        shown = describe_type(value) if listed is None else f"a {type(value).__name__} with other things"
        raise RecipeError(f"{path}: optimizers[{name!r}] is {shown}.", f"Give a module or its parameters. {SUCH_AS}")
    return listed


def _require_partition(model: "nn.Module", trained: "Mapping[str, list[nn.Parameter]]", path: str) -> None:
    """Raise an error unless every parameter that requires a gradient belongs to one optimizer."""
    owners: dict[int, list[str]] = {}
    for name, parameters in trained.items():
        for parameter_id in dict.fromkeys(map(id, parameters)):
            owners.setdefault(parameter_id, []).append(name)
    named = named_parameters(model)
    known = set(map(id, named.values()))
    for name, parameters in trained.items():
        if any(id(parameter) not in known for parameter in parameters):
            raise RecipeError(
                f"{path}: optimizers[{name!r}] has a parameter that model does not have.",
                "model must contain everything that is trained, such as nn.ModuleDict({'d': ..., 'g': ...}).",
            )
        if not any(parameter.requires_grad for parameter in parameters):
            raise RecipeError(
                f"{path}: optimizers[{name!r}] has no parameter to train.", "At least one must require a gradient."
            )
    for parameter_name, parameter in named.items():
        of = owners.get(id(parameter), [])
        if len(of) > 1:
            raise RecipeError(
                f"{path}: the parameter {parameter_name} is in the optimizers {' and '.join(of)}.",
                "Each parameter belongs to one of them.",
            )
        if not of and parameter.requires_grad:
            raise RecipeError(
                f"{path}: the parameter {parameter_name} is in none of the optimizers {', '.join(trained)}.",
                "Add it to one of them, or call parameter.requires_grad_(False) in build().",
            )
