"""Several optimizers of one plan: those whose reference differs from the job's."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from scaler.core.schedules import Schedule
from scaler.errors import PlanError
from scaler.job import Job
from scaler.plan.lengths import Lengths
from scaler.plan.model import PlanOptimizer, PlanParameter
from scaler.plan.phase import Phase
from scaler.plan.phases import make_scaling
from scaler.plan.split import place_of, split_parameters


def make_optimizers(
    job: Job,
    schedule: Schedule,
    phases: Sequence[Phase],
    lengths: Lengths,
    parameters: Mapping[str, PlanParameter],
) -> tuple[PlanOptimizer, ...]:
    """Return the optimizers of ``reference.several``, each scaled from its own reference at the plan's batch.

    Args:
        job: the job.
        schedule: of the plan; it holds for every optimizer.
        phases: of the plan.
        lengths: of the training.
        parameters: of the model; needed if the job splits them among its optimizers.

    Raises:
        PlanError: the rule does not hold for one of them at the batch of a phase, or the job measures the gradient's
            noise or cycles the momentum, which several optimizers do not allow; or as ``split_parameters``.
    """
    split = split_parameters(job, parameters) if parameters else {}
    return tuple(
        replace(_made(job, name, schedule, phases, lengths), tensors=split.get(name, {}))
        for name in job.reference.several
    )


def job_of(job: Job, name: str) -> Job:
    """Return the job with the reference and the rule of one of ``reference.several``."""
    own = job.reference.several[name]
    given = {"lr": own.lr, "optimizer": own.optimizer}
    reference = job.reference.model_copy(update={key: value for key, value in given.items() if value is not None})
    scale = job.scale if own.rule is None else job.scale.model_copy(update={"rule": own.rule})
    return job.model_copy(update={"reference": reference, "scale": scale})


def _made(job: Job, name: str, schedule: Schedule, phases: Sequence[Phase], lengths: Lengths) -> PlanOptimizer:
    own_job = job_of(job, name)
    if job.scale.rule == "adascale":
        raise PlanError(
            f"scale.rule = adascale measures the gradient of one optimizer, and {place_of(job, name)} is a second.",
            "Use another rule.",
        )
    if schedule.momentum(0) is not None and own_job.reference.optimizer.name != job.reference.optimizer.name:
        raise PlanError(
            f"schedule.low_momentum cycles one momentum, and {place_of(job, name)} is another optimizer.",
            "Leave low_momentum and high_momentum out.",
        )
    try:
        scaling = make_scaling(own_job, lengths, whole=job)
        made = PlanOptimizer(name=name, peak_lr=0.0, optimizer={}, scaling=scaling)
        first, *_ = [made.phase(phase) for phase in phases]
    except PlanError as error:
        raise PlanError(f"{place_of(job, name)}: {error.problem}", error.remedy) from None
    return PlanOptimizer(name=name, peak_lr=first.peak_lr, optimizer=first.optimizer, scaling=scaling)
