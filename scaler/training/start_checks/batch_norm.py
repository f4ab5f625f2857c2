"""Find steps that give a worker a single sample, which BatchNorm cannot normalize."""

import torch
from torch import nn

from scaler.errors import RecipeError
from scaler.plan import Plan
from scaler.training.data.batches import batches, to_device
from scaler.training.model.sharding import shard_again
from scaler.training.recipe import Recipe
from scaler.training.start_checks.shared_failure import failing_together, lone_failures_raised


@lone_failures_raised()
def require_samples_for_norms(
    recipe: Recipe,
    model: nn.Module,
    plan: Plan,
    *,
    samples_seen: int,
    device: torch.device,
    data_workers: int,
    is_sharded: bool = False,
) -> None:
    """Raise an error if a later step gives a worker a single sample and the model's BatchNorm needs more.

    If the plan has such a step after the next one, the loss is computed for one sample. The model's buffers are
    restored; this process's random numbers are not.

    Args:
        recipe: its loss and data.
        model: on the device, in training mode.
        plan: of this attempt.
        samples_seen: where it starts.
        device: of the model.
        data_workers: of the job; if there are any, one such process loads the sample.
        is_sharded: whether the model is sharded, so that every worker runs the same forward passes.

    Raises:
        RecipeError: BatchNorm refuses one sample; names the step.
    """
    at = first_single_sample_step(plan, samples_seen=samples_seen)
    if at is None or at == samples_seen or recipe.loss is None:  # the next step raises it itself; step is not tried
        return
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    first, workers = [torch.zeros(1, dtype=torch.int64)], min(1, data_workers)
    (sample,) = batches(recipe, recipe.train_data, first, data_workers=workers, pin=False)
    try:
        with failing_together(model, is_sharded=is_sharded, world_size=plan.world_size):
            recipe.loss(model, to_device(sample, device))
    except Exception as error:
        if is_single_sample_error(error):
            raise single_sample_error(plan, samples_seen=at) from error
    finally:
        shard_again(model)
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])


def first_single_sample_step(plan: Plan, *, samples_seen: int) -> int | None:
    """Return the ``samples_seen`` of the first step that gives a forward pass a single sample; None: there is none."""
    seen = samples_seen
    while seen < plan.most_samples and (
        size := plan.step_size(seen)
    ):  # step sizes have no end where progress is measured
        if (
            any(
                stop - start == 1
                for rank in {0, plan.world_size - 1}  # the largest shares and the smallest
                for start, stop in plan.micro_batch_bounds(size, rank=rank, samples_seen=seen)
            )
            or size < plan.world_size
        ):
            return seen
        phase = plan.phase_at(seen)
        ends = [plan.most_samples]
        if plan.last_batch != "carry":
            ends.append((seen // plan.num_samples + 1) * plan.num_samples)
        ends += [other.start_samples for other in plan.phases if other.start_samples > seen]
        whole_steps = (min(ends) - seen) // size if size == phase.global_batch_size else 0  # whole steps until then
        seen = plan.next_step(seen + max(1, whole_steps) * size)
    return None


def single_sample_error(plan: Plan, *, samples_seen: int) -> RecipeError:
    """Return the error for a step whose shares BatchNorm cannot normalize."""
    size, phase = plan.step_size(samples_seen), plan.phase_at(samples_seen)
    if size == phase.global_batch_size:
        return RecipeError(
            f"BatchNorm needs more than one sample, and a step of {_counted(size, 'sample')} on "
            f"{_counted(plan.world_size, 'worker')} in {_counted(phase.grad_accum_steps, 'micro-step')} gives a "
            "forward pass only one.",
            "Use fewer workers or micro-steps, or a larger batch: each forward pass needs two samples.",
        )
    return RecipeError(
        f"BatchNorm needs more than one sample, and the last step of an epoch has {_counted(size, 'sample')} for "
        f"{_counted(plan.world_size, 'worker')}: one of them gets a single sample.",
        "Set train.last_batch: drop, or use another number of workers or another global batch.",
    )


def is_single_sample_error(error: BaseException) -> bool:
    """Return whether an error says that a normalization layer got one value per channel."""
    return isinstance(error, ValueError) and "Expected more than 1 value per channel" in str(error)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
