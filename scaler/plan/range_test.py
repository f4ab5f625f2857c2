"""The learning-rate range test that ``scaler find-lr`` runs, as a job and a plan."""

from collections.abc import Mapping
from dataclasses import replace
from math import inf

from scaler.core.rules import gain_exponent
from scaler.core.schedules import Schedule
from scaler.core.shapes import Ramp
from scaler.core.steps import samples_in
from scaler.errors import JobFileError
from scaler.job import Job, parse_job
from scaler.job.section import MOST
from scaler.plan.make import make_plan
from scaler.plan.model import Plan, PlanOptimizer, PlanParameter

SUFFIX = "-find-lr"
MOST_NAME = 100  # letters in a job's name


def range_job(job: Job, *, steps: int) -> Job:
    """Return the job of a range test: ``steps`` steps at the first batch of training, without controllers.

    The job's schedule, plateau, batch schedule, later lengths of samples, divergence guard, restarts and
    ``rule: adascale`` are left out. No noise is measured, and there is one evaluation and one checkpoint, at the end.
    Every step has a whole batch: the last samples of an epoch are carried into the next. Groups, clipping, precision
    and the optimizer's constants are the job's.

    Raises:
        JobFileError: the job is elastic, and a range test has one batch size.
    """
    if not isinstance(job.scale.num_workers, int):
        raise JobFileError(
            "find-lr tests learning rates at one batch size, and the job is elastic.", "Give --workers N."
        )
    values = job.model_dump()
    never = {"samples": MOST}
    rule = {"rule": "none"} if job.scale.rule == "adascale" else {}
    length = {"epochs": None, "samples": None, "tokens": None, "steps": steps, "sequence_lengths": ()}
    return parse_job(
        {
            **values,
            "name": f"{job.name[: MOST_NAME - len(SUFFIX)]}{SUFFIX}",
            "scale": {**values["scale"], "batch_schedule": None, **rule},
            "train": {
                **values["train"],
                **length,
                "eval_every": never,
                "noise_scale_every": None,
                "last_batch": "carry",
            },
            "checkpoint": {"every": never},
            "failures": {"max_restarts": 0, "divergence": None},
            "schedule": {"name": "constant", "warmup": {"samples": 0}},
        },
        source="find-lr",
    )


def require_range(*, lowest: float, highest: float) -> None:
    """Refuse a range of learning rates that does not rise.

    Raises:
        JobFileError: ``lowest`` is not above 0, or not below ``highest``.
    """
    if not 0.0 < lowest < inf:
        raise JobFileError(f"--min {lowest:g} is not a learning rate above 0.", "Such as --min 1e-5.")
    if not lowest < highest < inf:
        raise JobFileError(
            "--max inf is not a finite learning rate."
            if highest == inf
            else f"--min {lowest:g} is not below --max {highest:g}.",
            "Such as --min 1e-5 --max 10.",
        )


def range_plan(
    job: Job,
    *,
    lowest: float,
    highest: float,
    spacing: str,
    num_samples: int,
    parameters: Mapping[str, int | PlanParameter] | None,
    horizon_samples: int | None = None,
) -> Plan:
    """Return the plan of a range test, in which the learning rate climbs from ``lowest`` to ``highest``.

    Both are learning rates at the batch that is run. The plan's reference has the learning rate that the rule scales to
    ``highest``.

    Args:
        job: what ``range_job`` made.
        lowest: the learning rate of the first step.
        highest: the learning rate of the last step.
        spacing: ``exponential`` or ``linear``.
        num_samples: size of the training set, where the job does not give it.
        parameters: as for ``make_plan``.
        horizon_samples: length of the job's own training, in samples, which ``scale.horizon`` scales to.

    Raises:
        JobFileError: ``lowest`` is not above 0, or not below ``highest``.
    """
    require_range(lowest=lowest, highest=highest)
    plan = make_plan(job, num_samples=num_samples, parameters=parameters, horizon_samples=horizon_samples)
    assert job.train.steps is not None
    last = samples_in(
        max(job.train.steps - 1, 1),
        global_batch_size=plan.global_batch_size,
        num_samples=plan.num_samples,
        last_batch=plan.last_batch,
    )
    shape = Ramp(length=last, low=lowest / highest, spacing="linear" if spacing == "linear" else "exponential")
    base_lr = highest / plan.lr_ratio
    peak_lr = base_lr * plan.lr_ratio  # highest, up to rounding
    (phase,) = plan.phases
    optimizer = {**plan.optimizer, "lr": peak_lr}
    plan = replace(
        plan,
        purpose="find_lr",
        base_lr=base_lr,
        peak_lr=peak_lr,
        optimizer=optimizer,
        scaling=replace(plan.scaling, base_lr=base_lr),
        phases=(replace(phase, peak_lr=peak_lr, optimizer=optimizer),),
        groups=tuple(replace(group, peak_lr=group.peak_lr * base_lr / plan.base_lr) for group in plan.groups),
        optimizers=tuple(_multiplied(own, base_lr / plan.base_lr) for own in plan.optimizers),
        schedule=Schedule(shape=shape),
        reasons={
            **plan.reasons,
            "peak_lr": "--max",
            "schedule": f"{spacing} climb from {lowest:g} to {highest:g}",
            "warmup_samples": "none: the learning rate climbs through the whole test",
        },
        warnings=(),
    )
    return replace(plan, lr_curve=tuple((samples, plan.whole_step_lr_at(samples)) for samples, _ in plan.lr_curve))


def _multiplied(own: PlanOptimizer, factor: float) -> PlanOptimizer:
    """Return an optimizer with a reference of its own, at a multiple of its learning rate."""
    peak_lr = own.peak_lr * factor
    scaling = replace(own.scaling, base_lr=own.scaling.base_lr * factor)
    return replace(own, peak_lr=peak_lr, optimizer={**own.optimizer, "lr": peak_lr}, scaling=scaling)


def carried_by(plan: Plan) -> tuple[float, str]:
    """Return the number that divides a learning rate at the plan's batch to give ``reference.lr``, and its reason.

    With adascale the gain is measured in training and no plan has it. Then it is the largest gain that is possible, so
    that the learning rate in training never exceeds the one that was found.

    Args:
        plan: the job's own, not the range test's.
    """
    if not plan.is_measured:
        return plan.lr_ratio, plan.rule_reason
    most = max(1.0, plan.batch_ratio) ** gain_exponent(plan.optimizer["name"], rule=plan.rule)
    return most, f"{plan.rule_reason}, at most {most:.4g}"
