"""Shares of one sample, which BatchNorm cannot normalize: found at the start, from the plan's sizes."""

import torch
from torch import nn

from scaler.errors import RecipeError
from scaler.plan import Plan
from scaler.training.data.batches import batches, to_device
from scaler.training.recipe import Recipe


def require_samples_for_norms(
    recipe: Recipe, model: nn.Module, plan: Plan, *, samples_seen: int, device: torch.device, data_workers: int
) -> None:
    """Refuse a plan that gives a worker a single sample where the model's BatchNorm needs more.

    Where the plan has such a share, but not in its next step, the loss is computed on one sample; the model's buffers
    are as they were afterwards, this process's random numbers are others.

    Args:
        recipe: its loss and data.
        model: on the device, in training mode.
        plan: of this attempt.
        samples_seen: where it starts.
        device: where the model lives.
        data_workers: of the job; with some, one such process loads the sample.

    Raises:
        RecipeError: BatchNorm refuses one sample; names the step.
    """
    at = first_single_sample_step(plan, samples_seen=samples_seen)
    if at is None or at == samples_seen:  # the next step would say so itself
        return
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    first, workers = [torch.zeros(1, dtype=torch.int64)], min(1, data_workers)
    (sample,) = batches(recipe, recipe.train_data, first, data_workers=workers, pin=False)
    try:
        recipe.loss(model, to_device(sample, device))
    except Exception as error:
        if is_single_sample_error(error):
            raise single_sample_error(plan, samples_seen=at) from error
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])


def first_single_sample_step(plan: Plan, *, samples_seen: int) -> int | None:
    """Return where the first step begins in which a worker's forward has a single sample; None: there is none."""
    seen = samples_seen
    while seen < plan.most_samples and (size := plan.step_size(seen)):  # where progress is measured it has no end
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
        alike = (min(ends) - seen) // size if size == phase.global_batch_size else 0  # full steps up to there
        seen = plan.next_step(seen + max(1, alike) * size)
    return None


def single_sample_error(plan: Plan, *, samples_seen: int) -> RecipeError:
    """Return what to say of a step whose shares BatchNorm cannot normalize."""
    size, phase = plan.step_size(samples_seen), plan.phase_at(samples_seen)
    if size == phase.global_batch_size:
        return RecipeError(
            f"BatchNorm needs more than one sample, and a step of {_counted(size, 'sample')} on "
            f"{_counted(plan.world_size, 'worker')} in {_counted(phase.grad_accum_steps, 'micro-step')} gives some "
            "forward only one.",
            "Use fewer workers or micro-steps, or a larger batch: two samples in each forward at least.",
        )
    return RecipeError(
        f"BatchNorm needs more than one sample, and the last step of an epoch has {_counted(size, 'sample')} for "
        f"{_counted(plan.world_size, 'worker')}: one of them gets a single one.",
        "Set train.last_batch: drop, or use another number of workers or another global batch.",
    )


def is_single_sample_error(error: BaseException) -> bool:
    """Whether an error says that a normalization layer got one value per channel."""
    return isinstance(error, ValueError) and "Expected more than 1 value per channel" in str(error)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
