"""Parts of a plan in words; the terminal and the page say them the same way."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from scaler.plan import Phase, Plan, PlanGroup
from scaler.report.words import number, plural

REACTIONS: Mapping[str, str] = MappingProxyType(
    {
        "adascale": "the rate is multiplied by the gain that is measured",
        "noise_scale": "the batch doubles when the gradient noise scale allows it",
        "plateau": "the rate falls when the evaluation no longer improves",
        "divergence": "after a divergence, back to a checkpoint at a lower rate",
    }
)


def option(value: object) -> str:
    """Return an optimizer's option as a job file has it.

    Example:
        >>> [option(value) for value in (0.9, 5e-09, True, None, [0.6, 0.9960000000000001])]
        ['0.9', '5e-09', 'true', 'null', '[0.6, 0.996]']
    """
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, int | float):
        return f"{value:.6g}" if abs(value) >= 0.9 else f"{value:.4g}"  # 0.999 and 0.99994 are far apart
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(option, value))}]"
    return str(value)


def built_with(optimizer: Mapping[str, Any]) -> dict[str, str]:
    """Return an optimizer's options but its rate, as texts."""
    return {name: option(value) for name, value in optimizer.items() if name not in ("name", "lr")}


def constants(phase: Phase) -> dict[str, str]:
    """Return what a phase sets beside the rate, as texts."""
    average = {} if phase.ema_decay is None else {"average": option(phase.ema_decay)}
    return built_with(phase.optimizer) | average


def varying(phases: Sequence[Phase]) -> list[str]:
    """Return the constants that are not the same in every phase."""
    told = [constants(phase) for phase in phases]
    return [name for name in told[0] if len({each[name] for each in told}) > 1]


def average_reason(plan: Plan) -> str:
    """Return what the average's number says."""
    return plan.reasons.get("ema_decay", "of itself that the average of the weights keeps in a step")


def reactions(plan: Plan) -> list[tuple[str, str]]:
    """Return what may change the rate or the batch in training, and how."""
    every = f", looked at every {plural(plan.grow_every_samples, 'sample')}" if plan.grow_every_samples else ""
    return [(name, REACTIONS.get(name, "") + (every if name == "noise_scale" else "")) for name in plan.reacts]


def or_more(plan: Plan) -> str:
    """Return what stands behind a number of steps."""
    return " or more" if plan.is_measured else ""


def weight_decay(plan: Plan, group: PlanGroup) -> str:
    """Return the weight decay that a group starts with; empty for an optimizer without."""
    if group.weight_decay is not None:
        return option(group.weight_decay * plan.phases[0].weight_decay_ratio)
    value = plan.optimizer.get("weight_decay")
    return "" if value is None else option(value)


def trained_from(group: PlanGroup) -> str:
    """Return the sample from which a group is trained."""
    if not group.frozen:
        return "0"
    return "never" if group.unfreeze_at is None else number(group.unfreeze_at)
