"""The learning-rate range test as a job and a plan: what ``scaler find-lr`` runs."""

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
from scaler.plan.model import Plan

SUFFIX = "-find-lr"
MOST_NAME = 100  # letters in a job's name


def range_job(job: Job, *, steps: int) -> Job:
    """Return the job of a range test: ``steps`` steps at the batch that training starts with, and nothing that reacts.

    The schedule, a plateau, a batch schedule, the guard of the loss, restarts and ``rule: adascale`` are left out, and
    so is what only they need: no noise is measured, and there is one evaluation and one checkpoint, at the end. Every
    step has a whole batch: the rest of an epoch is carried into the next. Groups, clipping, precision and the
    optimizer's constants are the job's.

    Raises:
        JobFileError: the job is elastic: a range test is of one batch.
    """
    if not isinstance(job.scale.num_workers, int):
        raise JobFileError("find-lr tests the rate at one batch, and the job is elastic.", "Give --workers N.")
    values = job.model_dump()
    never = {"samples": MOST}
    rule = {"rule": "none"} if job.scale.rule == "adascale" else {}
    length = {"epochs": None, "samples": None, "steps": steps}
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
    """Refuse rates between which nothing can climb.

    Raises:
        JobFileError: ``lowest`` is not above 0, or not below ``highest``.
    """
    if not 0.0 < lowest < inf:
        raise JobFileError(f"--min {lowest:g} is not a rate above 0.", "Such as --min 1e-5.")
    if not lowest < highest < inf:
        raise JobFileError(
            "--max inf has no end." if highest == inf else f"--min {lowest:g} is not below --max {highest:g}.",
            "Such as --min 1e-5 --max 10.",
        )


def range_plan(
    job: Job, *, lowest: float, highest: float, spacing: str, num_samples: int, parameters: Mapping[str, int] | None
) -> Plan:
    """Return the plan of a range test: the rate climbs from ``lowest`` to ``highest``, both at the batch that is run.

    Args:
        job: what ``range_job`` made.
        lowest: the rate of the first step.
        highest: the rate of the last step.
        spacing: ``exponential`` or ``linear``.
        num_samples: size of the training set, where the job does not give it.
        parameters: as ``make_plan`` takes them.

    Raises:
        JobFileError: ``lowest`` is not above 0, or not below ``highest``.
    """
    require_range(lowest=lowest, highest=highest)
    plan = make_plan(job, num_samples=num_samples, parameters=parameters)
    assert job.train.steps is not None
    last = samples_in(
        max(job.train.steps - 1, 1),
        global_batch_size=plan.global_batch_size,
        num_samples=plan.num_samples,
        last_batch=plan.last_batch,
    )
    shape = Ramp(length=last, low=lowest / highest, spacing="linear" if spacing == "linear" else "exponential")
    plan = replace(
        plan,
        peak_lr=highest,
        phases=tuple(replace(phase, peak_lr=highest) for phase in plan.phases),
        groups=tuple(replace(group, peak_lr=highest * group.lr_ratio) for group in plan.groups),
        schedule=Schedule(shape=shape),
        reasons={
            **plan.reasons,
            "peak_lr": "--max",
            "schedule": f"{spacing} climb from {lowest:g} to {highest:g}",
            "warmup_samples": "none: the rate climbs all the way",
        },
        warnings=(),
    )
    return replace(plan, lr_curve=tuple((samples, plan.whole_step_lr_at(samples)) for samples, _ in plan.lr_curve))


def is_range_test(plan: Plan) -> bool:
    """Return whether a plan is a range test's: its rate climbs all the way, which no job file can ask for."""
    return isinstance(plan.schedule.shape, Ramp)


def carried_by(plan: Plan) -> tuple[float, str]:
    """Return what a rate at the plan's batch is divided by for ``reference.lr``, and why.

    With adascale no plan knows it, for the gain is measured: the most that it can be is taken, so that training never
    goes beyond the rate that was found.

    Args:
        plan: the job's own, not the range test's.
    """
    if not plan.is_measured:
        return plan.lr_ratio, plan.rule_reason
    most = max(1.0, plan.batch_ratio) ** gain_exponent(plan.optimizer["name"], rule=plan.rule)
    return most, f"{plan.rule_reason}, at most {most:.4g}"
