"""Which parameters each optimizer trains, where a job splits the parameters of a recipe with one loss."""

from collections.abc import Mapping
from fnmatch import fnmatchcase

from scaler.core.optimizers import optimizer_facts
from scaler.errors import PlanError
from scaler.job import Job
from scaler.job.reference import FALLBACK
from scaler.plan.groups import no_match
from scaler.plan.model import PlanParameter

MAIN = "reference.optimizer"
TENSORS_SHOWN = 3


def needs_parameters(job: Job) -> bool:
    """Return whether the plan of a job depends on the model's parameters: their names, sizes and kinds."""
    reference = job.reference
    is_split = reference.splits or optimizer_facts(reference.optimizer.name).takes_matrices
    return bool(job.groups) or job.layer_decay is not None or is_split


def split_parameters(job: Job, parameters: Mapping[str, PlanParameter]) -> dict[str, dict[str, int]]:
    """Return the sizes of the tensors of each of ``reference.several``, by the names of optimizer and parameter.

    An optimizer trains what its patterns match. Of the rest, ``fallback`` trains what is not a matrix, and the weights
    of embeddings. What is left over is of ``reference.optimizer``, and not in the result. A parameter with several
    names (tied weights) matches under each of them.

    Args:
        job: the job.
        parameters: of the model, by name.

    Returns:
        Nothing if the job does not split the parameters.

    Raises:
        PlanError: a pattern that matches no parameter, a parameter that two optimizers match, an optimizer without a
            parameter, or one that takes matrices only and would get something else.
    """
    several = job.reference.several
    if several and not job.reference.splits:
        return {}  # the recipe says which optimizer trains what
    split: dict[str, dict[str, int]] = {name: {} for name in several}
    rest: dict[str, PlanParameter] = {}
    for name in split:
        for pattern in several[name].match or ():
            if not any(_matches(key, parameter, pattern) for key, parameter in parameters.items()):
                raise no_match(pattern, dict.fromkeys(parameters, 0), key=place_of(job, name), field="match")
    for key, parameter in parameters.items():
        owners = [
            name for name in split if any(_matches(key, parameter, pattern) for pattern in several[name].match or ())
        ]
        if len(owners) > 1:
            places = " and ".join(place_of(job, name) for name in owners)
            raise PlanError(f"the parameter {key} matches both {places}.", "Make the patterns of one of them narrower.")
        if not owners and FALLBACK in split and parameter.kind != "matrix":
            owners = [FALLBACK] if job.reference.optimizer.fallback is not None else []
        if owners:
            split[owners[0]][key] = parameter.size
        else:
            rest[key] = parameter
    for name, tensors in split.items():
        if not tensors:
            raise PlanError(
                f"{place_of(job, name)} trains nothing: every parameter is a matrix that is not an embedding.",
                "Leave it out, or name what it trains with match.",
            )
        own = (several[name].optimizer or job.reference.optimizer).name
        _require_matrices(job, own, {key: parameters[key] for key in tensors}, place=place_of(job, name))
    if not rest:
        raise PlanError(
            f"{MAIN} trains nothing: all of the model's {len(parameters)} parameters are those of "
            f"{', '.join(place_of(job, name) for name in split)}.",
            "Make their patterns narrower.",
        )
    _require_matrices(job, job.reference.optimizer.name, rest, place=MAIN)
    return split


def place_of(job: Job, name: str) -> str:
    """Return where the job file has one of several optimizers."""
    is_fallback = name == FALLBACK and job.reference.optimizer.fallback is not None
    return f"{MAIN}.{FALLBACK}" if is_fallback else f"reference.optimizers.{name}"


def _matches(key: str, parameter: PlanParameter, pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in (key, *parameter.other_names))


def _require_matrices(job: Job, optimizer: str, tensors: Mapping[str, PlanParameter], *, place: str) -> None:
    """Refuse parameters that are not matrices for an optimizer that takes nothing else."""
    if not optimizer_facts(optimizer).takes_matrices:
        return
    others = [key for key, parameter in tensors.items() if parameter.kind == "other"]
    if not others:
        return
    more = f" and {len(others) - TENSORS_SHOWN} more" if others[TENSORS_SHOWN:] else ""
    remedy = (
        "Add an optimizer for the others: fallback: {name: adamw, lr: 0.001}."
        if place == MAIN and job.reference.optimizer.fallback is None
        else f"Leave them out of {place}.match."
    )
    some = ", ".join(others[:TENSORS_SHOWN])
    raise PlanError(f"{place}: {optimizer} trains matrices only, and {some}{more} do not have two dimensions.", remedy)
