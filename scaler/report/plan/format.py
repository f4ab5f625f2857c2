"""Parts of a plan as text. The terminal and the page show the same text."""

from collections.abc import Mapping, Sequence
from math import inf
from types import MappingProxyType

from scaler.core.timescales import weight_decay_timescale
from scaler.core.unit import Unit
from scaler.job import Job
from scaler.job.mesh import workers_step
from scaler.job.section import Length
from scaler.plan import Phase, Plan, PlanGroup, PlanOptimizer
from scaler.report.text.format import amount, number, optimizer_options, option, plural, printable, ratio, seconds

REACTIONS: Mapping[str, str] = MappingProxyType(
    {
        "adascale": "the learning rate is multiplied by the measured gain",
        "noise_scale": "the batch grows when the gradient noise scale allows it",
        "plateau": "the learning rate falls when the evaluation no longer improves",
        "divergence": "after a divergence, training returns to a checkpoint with a lower lr",
    }
)


TENSORS_SHOWN = 4


def phase_heads(plan: Plan) -> tuple[str, ...]:
    """Return the heads of the table of phases, in the unit of the job."""
    length = () if plan.is_constant_length else ("tokens a sample",)
    return (f"from {plan.units.one}", "epoch", *length, "global batch", "micro-steps", "batch ratio", "peak lr")


def group_heads(plan: Plan) -> tuple[str, ...]:
    """Return the heads of the table of groups, in the unit of the job."""
    return ("parameters", "tensors", "lr ratio", "peak lr", "weight decay", f"from {plan.units.one}")


def phase_row(plan: Plan, phase: Phase) -> tuple[str, ...]:
    """Return the row of a phase; the columns are ``phase_heads``."""
    units, start = plan.units, phase.start_samples
    return (
        units.place(start),
        number(start / plan.num_samples),
        *(() if plan.is_constant_length else (number(phase.tokens_per_sample),)),
        units.number(phase.global_batch_size, at=start),
        micro_steps(phase, units),
        ratio(phase.batch_ratio),
        option(phase.peak_lr),
    )


def micro_steps(phase: Phase | Plan, units: Unit) -> str:
    """Return the micro-steps of an optimizer step, and the samples or tokens in each."""
    start = phase.start_samples if isinstance(phase, Phase) else 0
    return f"{phase.grad_accum_steps:,} x {units.number(phase.per_worker_batch_size, at=start)}"


def group_name(group: PlanGroup) -> str:
    """Return the name of a group, with that of its optimizer if it is not ``reference.optimizer``."""
    return group.name if group.optimizer is None else f"{group.name} ({group.optimizer})"


def group_row(plan: Plan, group: PlanGroup) -> tuple[str, ...]:
    """Return the row of a group without its name; the columns are ``group_heads``."""
    return (
        number(group.num_parameters),
        number(len(group.tensors)),
        ratio(group.lr_ratio),
        option(group.peak_lr),
        _weight_decay(plan, group),
        _trained_from(group, plan.units),
    )


def _weight_decay(plan: Plan, group: PlanGroup) -> str:
    """The weight decay of a group at the start; empty if the optimizer has none."""
    if group.weight_decay is not None:
        return option(group.weight_decay * plan.phases[0].weight_decay_ratio)
    own = next((own.optimizer for own in plan.optimizers if own.name == group.optimizer), plan.optimizer)
    value = own.get("weight_decay")
    return "" if value is None else option(value)


def _trained_from(group: PlanGroup, units: Unit) -> str:
    """The sample or token from which a group is trained."""
    if not group.frozen:
        return "0"
    return "never" if group.unfreeze_at is None else units.place(group.unfreeze_at)


def of_its_own(plan: Plan, own: PlanOptimizer) -> tuple[str, str]:
    """Return the class of an optimizer with a reference of its own, and its learning rate, options and rule."""
    timescale = weight_decay_timescale(
        own.optimizer["name"], constants=own.optimizer, lr=own.peak_lr, global_batch_size=plan.global_batch_size
    )
    decay = "" if timescale in (None, inf) else f"wd timescale {plan.units.plural(round(timescale or 0.0))}"
    name = str(own.optimizer["name"]).rpartition(":")[2]
    parts = [f"peak lr {option(own.peak_lr)}", optimizer_options(own.optimizer), own.scaling.rule.name, decay]
    return printable(name), printable("\n".join(filter(None, (", ".join(filter(None, parts)), trains(own.tensors)))))


def trains(tensors: Mapping[str, int]) -> str:
    """Return how many parameters an optimizer trains, and the first of their names; empty if the plan has no names.

    Example:
        >>> trains({"a.weight": 1200, "a.bias": 30})
        'trains 1,230 parameters in 2 tensors: a.weight, a.bias'
    """
    if not tensors:
        return ""
    names = ", ".join([*list(tensors)[:TENSORS_SHOWN], *(["..."] if len(tensors) > TENSORS_SHOWN else [])])
    return f"trains {plural(sum(tensors.values()), 'parameter')} in {plural(len(tensors), 'tensor')}: {names}"


def constants(phase: Phase) -> dict[str, str]:
    """Return a phase's optimizer options without the learning rate, and the decay of its average, as text."""
    average = {} if phase.ema_decay is None else {"average": option(phase.ema_decay)}
    return {name: option(value) for name, value in phase.optimizer.items() if name not in ("name", "lr")} | average


def varying(phases: Sequence[Phase]) -> list[str]:
    """Return the names of the constants that differ between phases."""
    found = [constants(phase) for phase in phases]
    return [name for name in found[0] if len({each[name] for each in found}) > 1]


def average_reason(plan: Plan) -> str:
    """Return the reason of the decay of the average."""
    return plan.reasons.get(
        "ema_decay", "decay of the average of the weights: the share of the old average that remains after a step"
    )


def memory(plan: Plan) -> tuple[str, str]:
    """Return the memory of a worker, and what it consists of."""
    assert plan.memory is not None
    return f"{number(plan.memory.worker_gib, 3)} GiB", plan.reasons["memory"]


def reactions(plan: Plan) -> list[tuple[str, str]]:
    """Return what may change the learning rate or the batch during the run, and how."""
    every = f", checked every {plan.units.plural(plan.grow_every_samples)}" if plan.grow_every_samples else ""
    return [(name, REACTIONS.get(name, "") + (every if name == "noise_scale" else "")) for name in plan.reacts]


def kept(job: Job) -> tuple[str, str]:
    """Return how often a checkpoint is written, and which checkpoints are kept.

    Example:
        >>> from scaler.job import parse_job
        >>> reference = {"global_batch_size": 16, "lr": 0.1, "optimizer": {"name": "sgd"}}
        >>> values = {"name": "a", "recipe": "a:b", "reference": reference, "train": {"epochs": 1}}
        >>> kept(parse_job({**values, "scale": {"per_worker_batch_size": 16}}, source=""))
        ('1 epoch', 'between checkpoints, and one at the end; the newest 2 are kept')
    """
    every, best = job.checkpoint.every, job.checkpoint.best
    often = seconds(every.seconds) if every.seconds is not None else _length(every)
    count = job.checkpoint.keep
    newest = "the newest is kept" if count == 1 else f"the newest {count:,} are kept"
    also = f", and the one with the {_extreme(best.mode)} {best.metric}" if best is not None else ""
    return often, f"between checkpoints, and one at the end; {newest}{also}"


def can_resize(plan: Plan, job: Job) -> bool:
    """Return whether the number of workers may change during a run of this plan."""
    scale = job.scale
    return scale.is_elastic and scale.min_workers <= plan.world_size <= scale.max_workers


def resizes(job: Job) -> str:
    """Return how a resize of an elastic run changes the batch and the learning rate."""
    scale = job.scale
    workers, step = f"elastic, {scale.min_workers:,} to {scale.max_workers:,}", workers_step(job)
    workers += f" in steps of {step:,}" if step > 1 else ""
    if scale.global_batch_size is not None:
        return f"{workers}; global_batch_size is fixed, and so is the learning rate"
    if scale.on_resize == "hold_global_batch":
        return f"{workers}; {scale.on_resize}: batch and learning rate are those of {scale.max_workers:,} workers"
    return f"{workers}; {scale.on_resize}: batch and learning rate are planned again"


def rewarmup(plan: Plan, job: Job) -> tuple[str, str] | None:
    """Return the warmup after a resize, and when it is used; None if no resize can raise the learning rate."""
    scale = job.scale
    is_held = scale.global_batch_size is not None or scale.on_resize == "hold_global_batch"
    if not can_resize(plan, job) or is_held or plan.rule == "none":
        return None
    if scale.rewarmup is None:
        return "none", "a resize that raises the learning rate raises it at once"
    when = f"after a resize that raises it more than {option(scale.rewarmup.above)}x"
    return _length(scale.rewarmup), f"from the old learning rate to the new, {when}"


def _length(length: Length) -> str:
    """A length in the unit of the job file."""
    if length.epochs is not None:
        return f"{number(length.epochs)} {'epoch' if length.epochs == 1 else 'epochs'}"
    if length.tokens is not None:
        return amount(length.tokens, "tokens")
    return plural(length.steps, "step") if length.steps is not None else plural(length.samples or 0, "sample")


def _extreme(mode: str) -> str:
    return {"min": "least", "max": "greatest"}[mode]


def steps_text(plan: Plan) -> str:
    """Return the number of steps, a lower bound if it depends on measurements."""
    return number(plan.total_steps) + or_more(plan)


def length_reason(plan: Plan, *parts: str) -> str:
    """Return where the length of the training comes from, other parts, and the steps at a constant batch."""
    return "; ".join(filter(None, (plan.reasons["total_samples"], *parts, plan.reasons.get("total_steps"))))


def used_text(plan: Plan) -> str:
    """Return how many samples the steps use, if ``train.last_batch = drop`` leaves out some; else an empty text."""
    if plan.last_batch != "drop" or len(plan.phases) > 1 or plan.is_measured or plan.stop_samples is not None:
        return ""
    used = plan.total_steps * plan.global_batch_size
    left = plan.total_samples - used
    if left <= 0:
        return ""
    number = plan.units.number
    steps = f"{plan.total_steps:,} x {number(plan.global_batch_size)} = {number(used)}"
    return f"{steps} are used, {number(left)} left out"


def settings_rows(job: Job) -> list[tuple[str, str, str]]:
    """Return rows about keys of ``train`` that change a training and have no number of the plan."""
    clip, workers = job.train.clip_grad_norm, job.train.data_workers
    rows = []
    if clip is not None:
        rows.append(("clipping", option(clip), "train.clip_grad_norm: the largest norm of the gradient"))
    if workers:
        rows.append(("data workers", number(workers), "train.data_workers: processes per worker that load its data"))
    return rows


def or_more(plan: Plan) -> str:
    """Return `` or more`` if the number of steps depends on measurements, else an empty text."""
    return " or more" if plan.is_measured else ""
