"""The sizes that an elastic run may get."""

from scaler.errors import PlanError
from scaler.job import Job
from scaler.plan.make import make_plan
from scaler.plan.model import Plan


def require_every_size(job: Job, plan: Plan) -> None:
    """Plan an elastic job for every number of workers that it may get, so that no resize finds it impossible.

    Args:
        job: elastic or not; for one that is not there is nothing to do.
        plan: of the most workers.

    Raises:
        PlanError: there is no plan for a smaller number; names the number.
    """
    for size in range(job.scale.min_workers, job.scale.max_workers):
        try:
            make_plan(job, size, num_samples=plan.num_samples, parameters=plan.parameters)
        except PlanError as error:
            workers = "1 worker" if size == 1 else f"{size} workers"
            raise PlanError(f"on {workers}: {error.problem}", error.remedy) from None
