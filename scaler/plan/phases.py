"""The batch over the training, and what the rule makes of each size."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from math import isfinite

from scaler.core.batch import Batch, strong_batch, weak_batch
from scaler.core.optimizers import OPTIMIZER_OPTIONS
from scaler.core.rules import Rule, Scaled, choose_rule
from scaler.core.steps import last_step_start, next_step_start
from scaler.errors import PlanError
from scaler.job import Job
from scaler.job.scale import GrowAtPoints, GrowByDoubling, GrowWithNoise
from scaler.plan.lengths import Lengths
from scaler.plan.model import Plan
from scaler.plan.phase import Phase, steps_to
from scaler.plan.scaling import Scaling, plain

MOST_PHASES = 1000


def first_batch(job: Job, world_size: int) -> tuple[Batch, str]:
    """Return the batch at the start of training on ``world_size`` workers, and why it is so large."""
    settings = job.scale
    held = settings.on_resize == "hold_global_batch" and not isinstance(settings.num_workers, int)
    fixed = settings.held_batch if held else settings.global_batch_size
    if fixed is None:
        assert settings.most_per_worker is not None  # the job's own check
        accum = settings.grad_accum_steps or 1
        batch = weak_batch(
            num_workers=world_size, per_worker_batch_size=settings.most_per_worker, grad_accum_steps=accum
        )
        return batch, f"{_workers(world_size)} x {batch.per_worker_batch_size} samples x {_micro_steps(accum)}"
    batch = strong_batch(
        num_workers=world_size,
        global_batch_size=fixed,
        per_worker_batch_size=settings.most_per_worker,
        grad_accum_steps=None if held else settings.grad_accum_steps,
    )
    why = (
        "fixed by scale.global_batch_size"
        if settings.global_batch_size
        else f"held, as on {_workers(settings.max_workers)}"
    )
    shared = f"{_workers(world_size)}, each up to {batch.per_worker_batch_size} samples x "
    return batch, f"{why}; {shared}{_micro_steps(batch.grad_accum_steps)}"


def make_scaling(job: Job) -> Scaling:
    """Return the job's reference and rule, for any batch size."""
    reference, settings, ema = job.reference, job.scale, job.train.ema
    optimizer = reference.optimizer
    name, _ = choose_rule(settings.rule, optimizer=optimizer.name)
    return Scaling(
        rule=Rule(
            name=name,
            exponent=settings.exponent,
            noise_scale=settings.noise_scale,
            betas=settings.betas,
            scale_weight_decay=settings.co_scale.weight_decay,
            scale_momentum=settings.co_scale.momentum,
        ),
        reference_batch_size=reference.global_batch_size,
        base_lr=reference.lr,
        optimizer=optimizer.name,
        constants=plain({**OPTIMIZER_OPTIONS.get(optimizer.name, {}), **optimizer.options}),
        ema_decay=ema.decay if ema is not None else None,
        scale_ema=settings.co_scale.ema,
    )


def make_phase(job: Job, batch: Batch, *, start_samples: int, start_steps: int) -> tuple[Phase, Scaled]:
    """Return a phase at a batch, and what the rule made of it; always from the reference.

    Raises:
        PlanError: the rule does not hold there, or the learning rate is not a finite number.
    """
    scaling = make_scaling(job)
    scaled = scaling.at(batch.global_batch_size)
    peak_lr = scaling.base_lr * scaled.lr_ratio
    if not isfinite(peak_lr):
        raise PlanError(
            f"peak_lr = {scaling.base_lr:g} x {scaled.lr_ratio:g} is too large for a number.", "Lower reference.lr."
        )
    phase = Phase(
        start_samples=start_samples,
        start_steps=start_steps,
        global_batch_size=batch.global_batch_size,
        per_worker_batch_size=batch.per_worker_batch_size,
        grad_accum_steps=batch.grad_accum_steps,
        batch_ratio=scaled.batch_ratio,
        lr_ratio=scaled.lr_ratio,
        peak_lr=peak_lr,
        weight_decay_ratio=scaled.weight_decay_ratio,
        ema_decay=scaling.ema_at(batch.global_batch_size),
        optimizer={"name": scaling.optimizer, "lr": peak_lr, **scaling.constants, **plain(scaled.constants)},
    )
    return phase, scaled


def later_phases(job: Job, first: Phase, *, world_size: int, lengths: Lengths) -> tuple[Phase, ...]:
    """Return the phases that ``scale.batch_schedule`` plans after the first; none when it follows the noise.

    Raises:
        PlanError: points that do not ascend, a most below the start's batch, or a batch at which the rule does not
            hold, be it planned or one that a measured noise scale may lead to.
    """
    assert lengths.total_samples is not None
    _require_room(job, first)
    largest_measured(job, first, world_size=world_size)
    phases = [first]
    for at, size in _changes(job, first, lengths):
        before = phases[-1]
        start = next_step_start(
            at,
            start=before.start_samples,
            global_batch_size=before.global_batch_size,
            num_samples=lengths.num_samples,
            last_batch=lengths.last_batch,
        )
        if start >= lengths.total_samples:
            break
        steps = steps_to(start, before, num_samples=lengths.num_samples, last_batch=lengths.last_batch)
        if start == before.start_samples:  # two changes in one step: the later counts
            phases.pop()
        if size != phases[-1].global_batch_size:
            phases.append(_grown(job, first, size, world_size=world_size, start=(start, steps)))
        if len(phases) > MOST_PHASES:
            raise PlanError(
                f"scale.batch_schedule changes the batch more than {MOST_PHASES} times.", "Let it change less often."
            )
    return tuple(phases[1:])


def last_start(phases: Sequence[Phase], lengths: Lengths) -> int:
    """Return where the last step of the training begins."""
    assert lengths.total_samples is not None
    return last_step_start(
        lengths.total_samples,
        start=phases[-1].start_samples,
        global_batch_size=phases[-1].global_batch_size,
        num_samples=lengths.num_samples,
        last_batch=lengths.last_batch,
    )


def grow(plan: Plan, job: Job, *, samples_seen: int, global_batch_size: int) -> Plan:
    """Return the plan with another batch from ``samples_seen`` on: what a measured noise scale asks for."""
    first = plan.phases[0]
    start = (samples_seen, plan.steps(samples_seen))
    phase = _grown(job, first, global_batch_size, world_size=plan.world_size, start=start)
    earlier = tuple(phase for phase in plan.phases if phase.start_samples < samples_seen)
    return replace(plan, phases=(*earlier, phase))


def never_grows_at(job: Job, phases: Sequence[Phase], lengths: Lengths) -> list[int]:
    """Return the points of ``scale.batch_schedule``, in samples, after which no step of the training begins.

    Of a batch that doubles or follows the noise it is the first point, if it never comes to that.
    """
    match job.scale.batch_schedule:
        case GrowAtPoints(points=points):
            places = [lengths.samples(point.at) for point in points]
        case (
            GrowByDoubling(every=every, max_global_batch_size=most)
            | GrowWithNoise(every=every, max_global_batch_size=most)
        ):
            places = [lengths.stretch(every)] if phases[0].global_batch_size < most else []
        case None:
            places = []
    end = last_start(phases, lengths)
    return [place for place in places if place > end]


def _require_room(job: Job, first: Phase) -> None:
    """Refuse a batch that may only grow to less than it starts with."""
    growth = job.scale.batch_schedule
    if not isinstance(growth, GrowByDoubling | GrowWithNoise):
        return
    most, size = growth.max_global_batch_size, first.global_batch_size
    if most < size:
        raise PlanError(
            f"scale.batch_schedule.max_global_batch_size = {most} is below the {size} samples of the batch at the "
            "start: it would never grow.",
            f"Set it above {size}, or leave scale.batch_schedule out.",
        )


def largest_measured(job: Job, first: Phase, *, world_size: int) -> Phase | None:
    """Return the phase at the largest batch that a measured noise scale may lead to; None where none is followed.

    The rules' bounds are bounds of the batch, so one that holds at the start and here holds at all batches between.

    Raises:
        PlanError: the rule does not hold there.
    """
    growth = job.scale.batch_schedule
    if not isinstance(growth, GrowWithNoise):
        return None
    most = growth.max_global_batch_size
    try:
        return _grown(job, first, most, world_size=world_size, start=(first.start_samples, first.start_steps))
    except PlanError as error:
        raise PlanError(
            f"scale.batch_schedule.max_global_batch_size = {most}: the batch may grow to that, and {error.problem}",
            error.remedy,
        ) from None


def regrow(plan: Plan, job: Job, growth: Iterable[tuple[int, float]]) -> Plan:
    """Return the plan with a batch that grew with the noise before, within the job's bound.

    Args:
        plan: of any number of workers.
        job: follows the noise scale.
        growth: samples seen where it grew, and to how many times the start's.
    """
    wanted, first = job.scale.batch_schedule, plan.phases[0].global_batch_size
    for at, factor in growth:
        size = round(first * factor)
        size = max(first, min(size, wanted.max_global_batch_size) if isinstance(wanted, GrowWithNoise) else size)
        plan = grow(plan, job, samples_seen=at, global_batch_size=size)
    return plan


def _grown(job: Job, first: Phase, size: int, *, world_size: int, start: tuple[int, int]) -> Phase:
    """A phase at another batch, from ``start`` (samples, steps) on: more micro-steps, none larger than at first."""
    batch = strong_batch(
        num_workers=world_size,
        global_batch_size=size,
        per_worker_batch_size=first.per_worker_batch_size,
        grad_accum_steps=None,
    )
    samples, steps = start
    return make_phase(job, batch, start_samples=samples, start_steps=steps)[0]


def _changes(job: Job, first: Phase, lengths: Lengths) -> Iterator[tuple[int, int]]:
    """When the batch changes, in samples, and to what."""
    assert lengths.total_samples is not None
    match job.scale.batch_schedule:
        case GrowAtPoints(points=points):
            places = [lengths.samples(point.at) for point in points]
            if places[0] < 1:
                raise PlanError(
                    "scale.batch_schedule.points begin at 0 samples, where the training begins.",
                    "Its first batch is that of scale; let the first point come later.",
                )
            if places != sorted(set(places)):
                raise PlanError(
                    f"scale.batch_schedule.points are at {', '.join(map(str, places))} samples.",
                    "Write them in ascending order.",
                )
            for place, point in zip(places, points, strict=True):
                yield place, max(1, round(first.global_batch_size * point.factor))
        case GrowByDoubling(every=every, max_global_batch_size=most):
            stretch, size, at = lengths.stretch(every), first.global_batch_size, 0
            while size < most and at + stretch < lengths.total_samples:
                at, size = at + stretch, min(2 * size, most)
                yield at, size


def _workers(number: int) -> str:
    return f"{number} worker{'s' if number != 1 else ''}"


def _micro_steps(number: int) -> str:
    return f"{number} micro-step{'s' if number != 1 else ''}"
