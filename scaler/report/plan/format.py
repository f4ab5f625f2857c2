"""Parts of a plan in words; the terminal and the page say them the same way."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from scaler.job import Job
from scaler.job.section import Length
from scaler.plan import Phase, Plan, PlanGroup
from scaler.report.text.format import number, plural, seconds

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


def kept(job: Job) -> tuple[str, str]:
    """Return how often a checkpoint is written, and which are kept.

    Example:
        >>> from scaler.job import parse_job
        >>> reference = {"global_batch_size": 16, "lr": 0.1, "optimizer": {"name": "sgd"}}
        >>> values = {"name": "a", "recipe": "a:b", "reference": reference, "train": {"epochs": 1}}
        >>> kept(parse_job({**values, "scale": {"per_worker_batch_size": 16}}, source=""))
        ('1 epoch', 'how often, and at the end; the newest 2 are kept')
    """
    every, best = job.checkpoint.every, job.checkpoint.best
    often = seconds(every.seconds) if every.seconds is not None else _length(every)
    count = job.checkpoint.keep
    newest = "the newest is kept" if count == 1 else f"the newest {count:,} are kept"
    also = f", and the one with the {_extreme(best.mode)} {best.metric}" if best is not None else ""
    return often, f"how often, and at the end; {newest}{also}"


def can_resize(plan: Plan, job: Job) -> bool:
    """Return whether a run of this plan may get another number of workers while it runs."""
    scale = job.scale
    return scale.is_elastic and scale.min_workers <= plan.world_size <= scale.max_workers


def resizes(job: Job) -> str:
    """Return what a resize of an elastic run does to batch and rate."""
    scale = job.scale
    workers = f"elastic, {scale.min_workers:,} to {scale.max_workers:,}"
    if scale.global_batch_size is not None:
        return f"{workers}; global_batch_size is fixed, and so is the rate"
    if scale.on_resize == "hold_global_batch":
        return f"{workers}; {scale.on_resize}: batch and rate are those of {scale.max_workers:,}"
    return f"{workers}; {scale.on_resize}: batch and rate are planned anew"


def rewarmup(plan: Plan, job: Job) -> tuple[str, str] | None:
    """Return the climb after a resize, and when there is one; None where no resize can raise the rate."""
    scale = job.scale
    is_held = scale.global_batch_size is not None or scale.on_resize == "hold_global_batch"
    if not can_resize(plan, job) or is_held or plan.rule == "none":
        return None
    if scale.rewarmup is None:
        return "none", "a resize that raises the rate raises it at once"
    when = f"after a resize that raises the rate more than {scale.rewarmup.above:g}x"
    return _length(scale.rewarmup), f"from the old rate to the new, {when}"


def _length(length: Length) -> str:
    """A length in the unit that the job file gives."""
    if length.epochs is not None:
        return f"{number(length.epochs)} {'epoch' if length.epochs == 1 else 'epochs'}"
    return plural(length.steps, "step") if length.steps is not None else plural(length.samples or 0, "sample")


def _extreme(mode: str) -> str:
    return {"min": "least", "max": "greatest"}[mode]


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
