"""What a plan refuses: a batch that leaves no step, and measurements or a momentum that there are not."""

from collections.abc import Sequence

from scaler.core.optimizers import optimizer_facts
from scaler.core.schedules import Schedule
from scaler.errors import PlanError
from scaler.job import Job
from scaler.job.scale import GrowInsteadOfDecay, GrowWithNoise
from scaler.plan.phase import Phase


def require_a_step(job: Job, phases: Sequence[Phase], num_samples: int) -> None:
    """Refuse ``last_batch: drop`` when a batch, now or after it grows, is larger than the training set.

    Raises:
        PlanError: no step could be taken.
    """
    growth = job.scale.batch_schedule
    largest = max(phase.global_batch_size for phase in phases)
    if isinstance(growth, GrowWithNoise | GrowInsteadOfDecay) and job.scale.batch_follows_noise:
        largest = max(largest, growth.max_global_batch_size)
    if job.train.last_batch == "drop" and largest > num_samples:
        raise PlanError(
            f"train.last_batch = drop leaves nothing of an epoch: it has {num_samples} samples, and the global batch "
            f"has {largest}.",
            "Use train.last_batch: carry, or a smaller batch.",
        )


def require_measurable(job: Job, rule: str, *, workers: int, micro_steps: int) -> None:
    """Refuse to follow a noise scale that is not measured.

    Args:
        job: the job.
        rule: that scales the learning rate.
        workers: with samples of their own.
        micro_steps: of each in an optimizer step.

    Raises:
        PlanError: one worker with one micro-step, sharded weights with one micro-step, or no measurements
            (``train.noise_scale_every: null``).
    """
    grows = job.scale.batch_follows_noise
    key = "batch_schedule.up_to" if isinstance(job.scale.batch_schedule, GrowInsteadOfDecay) else "batch_schedule"
    asked = "scale.rule = adascale" if rule == "adascale" else f"scale.{key} = noise_scale"
    if (rule == "adascale" or grows) and job.train.strategy == "fsdp" and micro_steps < 2:
        raise PlanError(
            f"{asked} compares the gradients of micro-steps with train.strategy = fsdp, where no worker has its whole "
            "gradient, and there is one micro-step.",
            "Use scale.grad_accum_steps: 2, or strategy: ddp.",
        )
    if (rule == "adascale" or grows) and workers * micro_steps < 2:
        raise PlanError(
            f"{asked} compares the gradients of workers or micro-steps, and there is one worker with one micro-step.",
            "Use two workers, or scale.grad_accum_steps: 2.",
        )
    if grows and job.train.noise_scale_every is None:
        raise PlanError(
            f"{asked} follows the noise scale, and train.noise_scale_every = null turns its measurement off.",
            "Leave train.noise_scale_every out.",
        )


def require_momentum(schedule: Schedule, optimizer: str) -> None:
    """Refuse to cycle a momentum that the optimizer does not have, or that must stay constant.

    Whether an unknown class has a momentum is checked when the optimizer is built.

    Raises:
        PlanError: the schedule cycles the momentum, and the optimizer does not allow it.
    """
    if schedule.momentum(0) is None:
        return
    facts = optimizer_facts(optimizer)
    why = None
    if facts.averages_weights:
        why = f"{optimizer} uses it to average its weights"
    elif not facts.has_momentum:
        why = f"{optimizer} has none"
    if why is not None:
        raise PlanError(
            f"schedule.low_momentum cycles the momentum, and {why}.", "Leave low_momentum and high_momentum out."
        )
