"""``batch_schedule: instead_of_decay``: the batch grows where the schedule lowers the learning rate."""

from scaler.core.batch_growth import batch_instead_of_decay, next_growth
from scaler.core.cycles import CosineRestarts, Cyclical, OneCycle
from scaler.core.rules import Rule
from scaler.core.schedules import Schedule
from scaler.core.shapes import Constant
from scaler.errors import PlanError
from scaler.job import Job
from scaler.job.scale import GrowInsteadOfDecay
from scaler.plan.lengths import Lengths
from scaler.plan.optimizers import job_of
from scaler.plan.phase import Phase, Scaling
from scaler.plan.phases import MOST_PHASES, first_step_at, grown_phase, make_scaling, too_many_phases

KEY = "scale.batch_schedule = instead_of_decay"


def phases_instead_of_decay(
    job: Job, first: Phase, schedule: Schedule, *, scaling: Scaling, data_parallel_size: int, lengths: Lengths
) -> tuple[Phase, ...]:
    """Return the phases after the first, of a batch that grows where the schedule lowers the learning rate.

    The result is empty for a job without this batch schedule, and for a batch that also follows the noise scale: that
    one grows in training.

    Args:
        job: any job.
        first: the phase at the start of training.
        schedule: of the job; its warmup and shape decide where the batch changes.
        scaling: the job's reference and rule.
        data_parallel_size: ranks that the batch is divided among.
        lengths: of the training.

    Raises:
        PlanError: a schedule that does not only fall, a rule that does not raise the learning rate with the batch, or
            a batch at which the rule does not hold.
    """
    settings = job.scale.batch_schedule
    if not isinstance(settings, GrowInsteadOfDecay):
        return ()
    _require_fall(schedule)
    _require_rule(job, lengths)
    if settings.up_to is not None:
        return ()
    assert lengths.total_samples is not None
    most, phases = settings.max_global_batch_size, [first]
    while len(phases) <= MOST_PHASES:
        before = phases[-1]
        at = next_growth(
            schedule,
            batch=before.global_batch_size,
            first=first.global_batch_size,
            most=most,
            growth=settings.growth,
            start=before.start_samples,
            stop=lengths.total_samples,
        )
        if at is None:
            return tuple(phases[1:])
        start, steps = first_step_at(at, before, lengths)
        if start >= lengths.total_samples:
            return tuple(phases[1:])
        size = batch_instead_of_decay(schedule, start, first=first.global_batch_size, most=most)
        phases.append(
            grown_phase(job, first, size, scaling=scaling, data_parallel_size=data_parallel_size, start=(start, steps))
        )
    raise too_many_phases()


def _require_fall(schedule: Schedule) -> None:
    """Refuse a schedule that stays at the peak or climbs after its warmup."""
    name = schedule.shape.name
    if isinstance(schedule.shape, Constant):
        raise PlanError(
            f"{KEY}: schedule.name = {name} never lowers the learning rate, so the batch would never grow.",
            "Use a schedule that falls, such as schedule: {name: cosine}.",
        )
    if isinstance(schedule.shape, CosineRestarts | Cyclical | OneCycle):
        raise PlanError(
            f"{KEY}: schedule.name = {name} raises the learning rate after the warmup, and a batch can only replace "
            "its fall.",
            "Use a schedule that only falls, such as schedule: {name: cosine}.",
        )


def _require_rule(job: Job, lengths: Lengths) -> None:
    """Refuse rules that give a larger batch no larger learning rate."""
    for name in (None, *job.reference.several):
        own = job if name is None else job_of(job, name)
        rule = make_scaling(own, lengths, whole=job).rule
        if _raises_lr(rule):
            continue
        chosen = f"auto, which is none for {own.reference.optimizer.name}" if own.scale.rule == "auto" else rule.name
        exponent = f" with exponent = {rule.exponent:g}" if rule.exponent is not None else ""
        of = f" (reference.optimizers.{name})" if name is not None else ""
        raise PlanError(
            f"{KEY} and scale.rule = {chosen}{exponent}{of}: a larger batch has no larger learning rate, so the "
            "learning rate would fall as far as at a constant batch.",
            "Use rule: linear for SGD, or rule: sqrt for Adam.",
        )


def _raises_lr(rule: Rule) -> bool:
    return rule.name != "none" and (rule.exponent is None or rule.exponent > 0)
