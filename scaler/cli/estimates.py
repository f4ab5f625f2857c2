"""What the storage knows of plans, for the commands that show a plan."""

from collections.abc import Sequence

from scaler.errors import RunError
from scaler.job import Job
from scaler.plan import Plan
from scaler.report.plan.estimate import PlanEstimate


def estimate_plans(
    plans: Sequence[Plan], job: Job, *, source: str, overrides: Sequence[str] = (), asked: bool | None
) -> Sequence[PlanEstimate | None]:
    """Return what is known of each plan.

    Args:
        plans: of the job, with any number of workers and any rule.
        job: gives the storage and the price.
        source: the job file.
        overrides: ``key.key=value`` texts that a person typed.
        asked: read the storage; False: do not; None: only a local folder, because another may take seconds to answer.

    Raises:
        RunError: the storage was asked for, and cannot be read.
    """
    nothing = [None] * len(plans)
    if asked is False or (asked is None and "://" in job.storage):
        return nothing
    from scaler.experiment.estimate import Knowledge

    try:
        known = Knowledge.of(job)
        return [known.estimate(plan, job=job, source=source, overrides=overrides) for plan in plans]
    except RunError:
        if asked:
            raise
        return nothing
