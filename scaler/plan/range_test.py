"""The learning-rate range test as a job and a plan: what ``scaler find-lr`` runs."""

from collections.abc import Mapping
from dataclasses import replace

from scaler.core.batch import samples_in
from scaler.core.schedules import Schedule
from scaler.core.shapes import Ramp
from scaler.errors import JobFileError
from scaler.job import Job, parse_job
from scaler.plan.make import make_plan
from scaler.plan.model import Plan


def range_job(job: Job, *, steps: int) -> Job:
    """Return the job of a range test: ``steps`` steps at one batch, nothing that reacts, no evaluation on the way.

    Raises:
        JobFileError: the job is elastic: a range test is of one batch.
    """
    if not isinstance(job.scale.num_workers, int):
        raise JobFileError("find-lr tests the rate at one batch, and the job is elastic.", "Give --workers N.")
    values = job.model_dump(exclude_none=True)
    train = {key: value for key, value in values["train"].items() if key not in ("epochs", "samples", "steps")}
    never = {"samples": 10**15}
    scale = {key: value for key, value in values["scale"].items() if key != "batch_schedule"}
    return parse_job(
        {
            **values,
            "name": f"{job.name[:90]}-find-lr",
            "scale": {**scale, "rule": "none"} if job.scale.rule == "adascale" else scale,
            "train": {**train, "steps": steps, "eval_every": never},
            "checkpoint": {"every": never},
            "failures": {"max_restarts": 0, "divergence": None},
            "schedule": {"name": "constant", "warmup": {"steps": 0}},
        },
        source="find-lr",
    )


def range_plan(
    job: Job, *, lowest: float, highest: float, spacing: str, num_samples: int, parameters: Mapping[str, int] | None
) -> Plan:
    """Return the plan of a range test: the rate climbs from ``lowest`` to ``highest``, both at the batch that is run.

    Raises:
        JobFileError: ``lowest`` is not below ``highest``.
    """
    if not 0.0 < lowest < highest:
        raise JobFileError(f"--min {lowest:g} is not between 0 and --max {highest:g}.", "Such as --min 1e-5 --max 10.")
    plan = make_plan(job, num_samples=num_samples, parameters=parameters)
    assert job.train.steps is not None
    last = samples_in(
        max(job.train.steps - 1, 1), global_batch_size=plan.global_batch_size, num_samples=plan.num_samples
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
    return replace(plan, lr_curve=tuple((samples, plan.lr_at(samples)) for samples, _ in plan.lr_curve))
