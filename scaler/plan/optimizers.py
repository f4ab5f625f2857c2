"""Several optimizers of one plan: those whose reference differs from the job's."""

from collections.abc import Sequence

from scaler.core.schedules import Schedule
from scaler.errors import PlanError
from scaler.job import Job
from scaler.plan.lengths import Lengths
from scaler.plan.model import PlanOptimizer
from scaler.plan.phase import Phase
from scaler.plan.phases import make_scaling


def make_optimizers(
    job: Job, schedule: Schedule, phases: Sequence[Phase], lengths: Lengths
) -> tuple[PlanOptimizer, ...]:
    """Return the optimizers of ``reference.optimizers``, each scaled from its own reference at the plan's batch.

    Args:
        job: the job.
        schedule: of the plan; it holds for every optimizer.
        phases: of the plan.
        lengths: of the training.

    Raises:
        PlanError: the rule does not hold for one of them at the batch of a phase, or the job measures the gradient's
            noise or cycles the momentum, which several optimizers do not allow.
    """
    return tuple(_made(job, name, schedule, phases, lengths) for name in job.reference.optimizers)


def job_of(job: Job, name: str) -> Job:
    """Return the job with the reference of one of ``reference.optimizers``."""
    own = job.reference.optimizers[name]
    given = {"lr": own.lr, "optimizer": own.optimizer}
    reference = job.reference.model_copy(update={key: value for key, value in given.items() if value is not None})
    return job.model_copy(update={"reference": reference})


def _made(job: Job, name: str, schedule: Schedule, phases: Sequence[Phase], lengths: Lengths) -> PlanOptimizer:
    own_job = job_of(job, name)
    if job.scale.rule == "adascale":
        raise PlanError(
            f"scale.rule = adascale measures the gradient of one optimizer, and reference.optimizers has {name}.",
            "Use another rule.",
        )
    if schedule.momentum(0) is not None and own_job.reference.optimizer.name != job.reference.optimizer.name:
        raise PlanError(
            f"schedule.low_momentum cycles one momentum, and reference.optimizers.{name} is another optimizer.",
            "Leave low_momentum and high_momentum out.",
        )
    try:
        scaling = make_scaling(own_job, lengths)
        made = PlanOptimizer(name=name, peak_lr=0.0, optimizer={}, scaling=scaling)
        first, *_ = [made.phase(phase) for phase in phases]
    except PlanError as error:
        raise PlanError(f"reference.optimizers.{name}: {error.problem}", error.remedy) from None
    return PlanOptimizer(name=name, peak_lr=first.peak_lr, optimizer=first.optimizer, scaling=scaling)
