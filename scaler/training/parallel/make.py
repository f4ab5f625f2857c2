"""Make the object with which a job's workers share its model."""

from scaler.job import Job
from scaler.plan import Plan
from scaler.training.parallel.replicated import Replicated
from scaler.training.parallel.sharded import Sharded
from scaler.training.parallel.strategy import Parallel
from scaler.training.recipe import Recipe
from scaler.training.worker_context import WorkerContext


def make_parallel(recipe: Recipe, job: Job, plan: Plan, context: WorkerContext) -> Parallel:
    """Return how the workers share the model: ``train.strategy`` of the job.

    Raises:
        JobFileError: the strategy is not available here.
    """
    device, seed, initialize = context.device, job.train.seed, recipe.initialize
    if job.train.strategy == "ddp":
        return Replicated(world_size=context.world_size, device=device, seed=seed, initialize=initialize)
    replicate, shard = plan.mesh["replicate"], plan.mesh["shard"]
    return Sharded(job.train.fsdp, replicate=replicate, shard=shard, device=device, seed=seed, initialize=initialize)
