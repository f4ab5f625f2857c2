"""The parameter groups of a plan: parameters with a learning rate, weight decay or freezing of their own."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase, translate

from scaler.errors import PlanError
from scaler.job import Job
from scaler.job.optimizer import LayerDecay, ParameterGroup
from scaler.job.section import Point
from scaler.plan.lengths import Lengths
from scaler.plan.model import PlanGroup, PlanOptimizer

EVERYTHING_ELSE = "everything else"


def make_groups(
    job: Job,
    parameters: Mapping[str, int],
    *,
    peak_lr: float,
    lengths: Lengths,
    optimizers: Sequence[PlanOptimizer] = (),
) -> tuple[PlanGroup, ...]:
    """Return the groups of a job, in the order of their first parameter; empty if the job has none.

    Parameters of different optimizers are in different groups.

    Args:
        job: with ``groups`` and ``layer_decay``.
        parameters: name -> number of elements of every parameter of the model.
        peak_lr: the peak learning rate of parameters with ratio 1.
        lengths: of the training.
        optimizers: of the plan; those that know their tensors have a peak learning rate of their own.

    Raises:
        PlanError: a pattern that matches no parameter, a parameter in no layer, or no parameter left to train.
    """
    wanted = () if job.groups == "recipe" else job.groups
    if not wanted and job.layer_decay is None:
        return ()
    for entry in wanted:
        if not any(fnmatchcase(name, entry.match) for name in parameters):
            raise no_match(entry.match, parameters, key="groups", field="match")
    layers = _layer_ratios(job.layer_decay, parameters) if job.layer_decay is not None else {}
    members: dict[tuple[object, ...], list[str]] = {}
    made: dict[tuple[object, ...], PlanGroup] = {}
    owners = {name: own for own in optimizers for name in own.tensors}
    for name in parameters:
        matching = [group for group in wanted if fnmatchcase(name, group.match)]
        layer, ratio = layers.get(name, ("", 1.0))
        owner = owners.get(name)
        group = _merged(
            matching, layer, ratio, job, peak_lr=peak_lr if owner is None else owner.peak_lr, lengths=lengths
        )
        if owner is not None:
            group = replace(group, optimizer=owner.name)
        key = (group.name, group.lr_ratio, group.weight_decay, group.frozen, group.unfreeze_at, group.optimizer)
        made[key] = group
        members.setdefault(key, []).append(name)
    if all(group.frozen for group in made.values()):
        raise PlanError(
            "groups freeze every parameter at the start, and no parameter is left to train.",
            "Leave freeze out of one of them.",
        )
    if all(group.frozen or group.lr_ratio == 0.0 for group in made.values()):
        raise PlanError(
            "groups freeze every parameter at the start or give it lr_ratio: 0, and no parameter is left to train.",
            "Leave freeze and lr_ratio: 0 out of one of them.",
        )
    return tuple(
        replace(
            group,
            num_parameters=sum(parameters[name] for name in members[key]),
            tensors={name: parameters[name] for name in members[key]},
        )
        for key, group in made.items()
    )


def _merged(
    matching: Sequence[ParameterGroup],
    layer: str,
    layer_ratio: float,
    job: Job,
    *,
    peak_lr: float,
    lengths: Lengths,
) -> PlanGroup:
    """Return the group of all matching entries: the last entry with a key wins; a layer multiplies ``lr_ratio``."""
    given: dict[str, object] = {}
    for group in matching:
        values = {key: getattr(group, key) for key in ("lr_ratio", "weight_decay", "freeze")}
        given |= {key: value for key, value in values.items() if value is not None}
    ratio, decay, freeze = given.get("lr_ratio", 1.0), given.get("weight_decay"), given.get("freeze")
    assert isinstance(ratio, float)
    assert decay is None or isinstance(decay, float)
    names = [group.match for group in matching] + ([layer] if layer else [])
    return PlanGroup(
        name=" + ".join(names) or EVERYTHING_ELSE,
        lr_ratio=ratio * layer_ratio,
        peak_lr=peak_lr * ratio * layer_ratio,
        weight_decay=decay,
        frozen=freeze is not None,
        unfreeze_at=lengths.samples(freeze) if isinstance(freeze, Point) else None,
        num_parameters=0,
        tensors={},
    )


def _layer_ratios(decay: LayerDecay, parameters: Mapping[str, int]) -> dict[str, tuple[str, float]]:
    """Return each parameter's layer and its ratio: 1 in the last layer, times ``factor`` for each layer before it.

    A parameter belongs to the first pattern that it matches. Each number that ``{n}`` stands for is a layer.
    """
    shapes = [re.compile(translate(pattern).replace(r"\{n\}", r"(\d+)")) for pattern in decay.layers]
    places: dict[str, tuple[int, tuple[int, ...]]] = {}
    for name in parameters:
        found = next(((index, match) for index, shape in enumerate(shapes) if (match := shape.match(name))), None)
        if found is None:
            raise PlanError(
                f"layer_decay.layers: the parameter {name} matches no pattern.",
                f'Add a pattern for it, such as "{name.partition(".")[0]}.*".',
            )
        index, match = found
        places[name] = (index, tuple(map(int, match.groups())))
    for index, (pattern, shape) in enumerate(zip(decay.layers, shapes, strict=True)):
        if not any(shape.match(name) for name in parameters):
            raise no_match(pattern, parameters, key="layer_decay", field="layers")
        if all(index != place[0] for place in places.values()):
            raise PlanError(
                f"layer_decay.layers: all parameters that match {pattern} match an earlier pattern too.",
                "Leave it out, or make the earlier patterns narrower.",
            )
    layers = sorted(set(places.values()))
    depths = {layer: len(layers) - 1 - index for index, layer in enumerate(layers)}
    return {
        name: (_numbered(decay.layers[place[0]], place[1]), decay.factor ** depths[place])
        for name, place in places.items()
    }


def _numbered(pattern: str, numbers: Sequence[int]) -> str:
    """Return a pattern with numbers in the place of ``{n}``."""
    for number in numbers:
        pattern = pattern.replace("{n}", str(number), 1)
    return pattern


def no_match(pattern: str, parameters: Mapping[str, int], *, key: str, field: str) -> PlanError:
    """Return the error of a pattern that matches none of the parameters; it names the first of them."""
    some = ", ".join(list(parameters)[:4]) + (", ..." if len(parameters) > 4 else "")
    return PlanError(
        f"{key}: {field} = {pattern} matches none of the model's {len(parameters)} parameters.",
        f"They are named {some}.",
    )
