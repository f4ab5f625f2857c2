"""Which parameters belong together: a rate, a weight decay or freezing of their own."""

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from scaler.errors import PlanError
from scaler.job import Job
from scaler.job.optimizer import LayerDecay, ParameterGroup
from scaler.job.section import Point
from scaler.plan.lengths import Lengths
from scaler.plan.model import PlanGroup

EVERYTHING_ELSE = "everything else"


def make_groups(job: Job, parameters: Mapping[str, int], *, peak_lr: float, lengths: Lengths) -> tuple[PlanGroup, ...]:
    """Return the groups of a job, in the order of their first parameter; none when the job asks for none.

    Args:
        job: with ``groups`` and ``layer_decay``.
        parameters: name -> number of elements, of every parameter of the model.
        peak_lr: of a parameter without a ratio.
        lengths: of the training.

    Raises:
        PlanError: a pattern that matches nothing, or a parameter that is in no layer.
    """
    wanted = () if job.groups == "recipe" else job.groups
    if not wanted and job.layer_decay is None:
        return ()
    _require_matches([group.match for group in wanted], parameters, key="groups", field="match")
    layers = _layer_ratios(job.layer_decay, parameters) if job.layer_decay is not None else {}
    members: dict[tuple[object, ...], list[str]] = {}
    made: dict[tuple[object, ...], PlanGroup] = {}
    for name in parameters:
        matching = [group for group in wanted if fnmatchcase(name, group.match)]
        layer, ratio = layers.get(name, ("", 1.0))
        group = _merged(matching, layer, ratio, job, peak_lr=peak_lr, lengths=lengths)
        key = (group.name, group.lr_ratio, group.weight_decay, group.frozen, group.unfreeze_at)
        made[key] = group
        members.setdefault(key, []).append(name)
    return tuple(
        PlanGroup(
            name=group.name,
            lr_ratio=group.lr_ratio,
            peak_lr=group.peak_lr,
            weight_decay=group.weight_decay,
            frozen=group.frozen,
            unfreeze_at=group.unfreeze_at,
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
    """What every matching entry says together: the later wins on a key; a layer's ratio multiplies."""
    said: dict[str, object] = {}
    for group in matching:
        said |= {key: getattr(group, key) for key in ("lr_ratio", "weight_decay", "freeze") if
                 getattr(group, key) is not None}  # fmt: skip
    ratio, decay, freeze = said.get("lr_ratio", 1.0), said.get("weight_decay"), said.get("freeze")
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
    """Each parameter's layer and its ratio: 1 in the last layer, times ``factor`` for each before it."""
    layers = [layer for pattern in decay.layers for layer in _expanded(pattern, parameters)]
    _require_matches(layers, parameters, key="layer_decay", field="layers")
    found: dict[str, tuple[str, float]] = {}
    for name in parameters:
        mine = [index for index, layer in enumerate(layers) if fnmatchcase(name, layer)]
        if not mine:
            raise PlanError(
                f"layer_decay.layers: the parameter {name} is in no layer.",
                "Add a pattern for it, such as " + f'"{name.partition(".")[0]}.*".',
            )
        found[name] = (layers[mine[0]], decay.factor ** (len(layers) - 1 - mine[0]))
    return found


def _expanded(pattern: str, parameters: Mapping[str, int]) -> list[str]:
    """A pattern with ``{n}`` as one pattern for each number that a parameter has there, in order."""
    if "{n}" not in pattern:
        return [pattern]
    before, _, after = pattern.partition("{n}")
    shape = re.compile(_regex(before) + r"(\d+)" + _regex(after))
    numbers = {int(match.group(1)) for name in parameters if (match := shape.fullmatch(name))}
    return [f"{before}{number}{after}" for number in sorted(numbers)] or [pattern]


def _regex(glob: str) -> str:
    return re.escape(glob).replace(r"\*", ".*").replace(r"\?", ".")


def _require_matches(patterns: Sequence[str], parameters: Mapping[str, int], *, key: str, field: str) -> None:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in parameters):
            some = ", ".join(list(parameters)[:4]) + (", ..." if len(parameters) > 4 else "")
            raise PlanError(
                f"{key}: {field} = {pattern} matches none of the model's {len(parameters)} parameters.",
                f"They are named {some}.",
            )
