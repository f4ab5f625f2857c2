"""All checks before the first step of an attempt: they find errors that would otherwise show late, or never."""

from dataclasses import dataclass
from time import perf_counter

from torch import nn

from scaler.job import Job
from scaler.metrics.events import COMPUTING
from scaler.plan import Plan
from scaler.training.activity import Activity
from scaler.training.evaluation.evaluator import Evaluator
from scaler.training.recipe import Recipe
from scaler.training.recipe.tokens import with_length_of
from scaler.training.start_checks.batch_norm import require_samples_for_norms
from scaler.training.start_checks.data_digests import Digests, data_digests, require_data_of_run, require_same_data
from scaler.training.start_checks.loss_probe import probe_loss
from scaler.training.start_checks.streams import check_stream
from scaler.training.tf32 import without_tf32
from scaler.training.worker_context import WorkerContext


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """What the checks found.

    Attributes:
        digests: of some samples of the data, for later attempts.
        gathers: whether the loss is over the global batch.
        seconds: duration of the checks.
        loss_not_checked: why the loss could not be checked; None: the loss was checked.
    """

    digests: Digests
    gathers: bool
    seconds: float
    loss_not_checked: str | None


def check_start(
    recipe: Recipe,
    job: Job,
    plan: Plan,
    context: WorkerContext,
    *,
    model: nn.Module,
    evaluation: Evaluator,
    activity: Activity,
    samples_seen: int,
    digests: Digests,
    is_sharded: bool = False,
) -> Start:
    """Check the data, the loss and the evaluation, and restore everything afterwards.

    Args:
        recipe: model, data and loss.
        job: the job of the run.
        plan: of this attempt.
        context: of this worker.
        model: on its device.
        evaluation: of this attempt.
        activity: updated with what this worker is doing.
        samples_seen: where the attempt begins.
        digests: of the data that a checkpoint was trained on; empty without one.
        is_sharded: whether the model is sharded, so that every worker runs the same forward passes.

    Raises:
        RecipeError: BatchNorm gets a share of one sample; the data differ between workers or from the run's first
            attempt; the loss is not a mean over samples; or the evaluation cannot be used.
    """
    workers, is_start = job.train.data_workers, samples_seen == 0
    at_length = with_length_of(recipe, plan.phase_at(samples_seen))
    require_samples_for_norms(
        at_length,
        model,
        plan,
        samples_seen=samples_seen,
        device=context.device,
        data_workers=workers,
        is_sharded=is_sharded,
    )
    if job.train.check_data:
        found = data_digests(recipe, data_workers=workers)
        require_same_data(recipe, found, world_size=context.world_size, data_workers=workers)
        require_data_of_run(recipe, found, digests, data_workers=workers)
        check_stream(recipe, world_size=context.world_size, data_workers=workers)
        digests = found
    began = perf_counter()
    activity.begin(COMPUTING)
    with without_tf32(context.device):
        loss = probe_loss(at_length, model, job, plan, context, is_start=is_start, is_sharded=is_sharded)
        evaluation.check(job, plan, is_start=is_start)
    seconds = perf_counter() - began
    return Start(digests=digests, gathers=loss.gathers, seconds=seconds, loss_not_checked=loss.why_not)
