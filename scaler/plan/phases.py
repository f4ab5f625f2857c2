"""The batch size over the training: the phases of a plan, planned or grown with a measured noise scale."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from scaler.core.batch import Batch, strong_batch, weak_batch
from scaler.core.optimizers import optimizer_facts
from scaler.core.rules import CoScale, Rule, choose_rule
from scaler.core.steps import last_step_start, next_step_start
from scaler.core.unit import unit_with
from scaler.errors import PlanError
from scaler.job import Job
from scaler.job.scale import GrowAtPoints, GrowByDoubling, GrowInsteadOfDecay, GrowWithNoise
from scaler.job.section import MOST
from scaler.job.unit import in_samples
from scaler.plan.lengths import Lengths
from scaler.plan.model import Plan
from scaler.plan.phase import Phase, Scaling, as_json, steps_to

MOST_PHASES = 1000


def first_batch(job: Job, world_size: int) -> tuple[Batch, str]:
    """Return the batch at the start of training on ``world_size`` workers, and the reason of its size."""
    settings, data_parallel_size = job.scale, job.scale.data_parallel_size(world_size)
    ranks = _workers(world_size) if data_parallel_size == world_size else _ranks(data_parallel_size)
    held = settings.on_resize == "hold_global_batch" and not isinstance(settings.num_workers, int)
    fixed = settings.held_batch if held else settings.global_batch_size
    unit = unit_with(job.train.tokens_per_sample)
    if fixed is None:
        assert settings.most_per_worker is not None  # the job's own check
        accum = settings.grad_accum_steps or 1
        batch = weak_batch(
            data_parallel_size=data_parallel_size,
            per_worker_batch_size=settings.most_per_worker,
            grad_accum_steps=accum,
        )
        each = f"{unit.number(batch.per_worker_batch_size, form='')} {unit.many}"
        return batch, f"{ranks} x {each} x {_micro_steps(accum)}"
    batch = strong_batch(
        data_parallel_size=data_parallel_size,
        global_batch_size=fixed,
        per_worker_batch_size=settings.most_per_worker,
        grad_accum_steps=None if held else settings.grad_accum_steps,
    )
    why = (
        "fixed by scale.global_batch_size"
        if settings.global_batch_size
        else f"held, as on {_workers(settings.max_workers)}"
    )
    each = f"{unit.number(batch.per_worker_batch_size, form='')} {unit.many}"
    return batch, f"{why}; {ranks}, each up to {each} x {_micro_steps(batch.grad_accum_steps)}"


def make_scaling(job: Job, lengths: Lengths, *, whole: Job | None = None) -> Scaling:
    """Return the job's reference and rule, for any batch size.

    Args:
        job: the job; of one of several optimizers, ``job_of``.
        lengths: of the training; with ``scale.horizon`` the rule follows the training's length.
        whole: the job with all its optimizers; None: ``job``.
    """
    reference, settings, ema = job.reference, job.scale, job.train.ema
    optimizer = reference.optimizer
    name, _ = choose_rule(settings.rule, optimizer=optimizer.name, horizon=settings.horizon)
    before = lengths.of_reference_training(reference) if settings.horizon else None
    assert lengths.total_samples is not None
    return Scaling(
        rule=Rule(
            name=name,
            exponent=settings.exponent,
            noise_scale=settings.noise_scale,
            betas=settings.betas,
            horizon_ratio=lengths.total_samples / before if before is not None else None,
            beta2_range=settings.beta2_bounds,
            co_scale=_co_scale(job, job if whole is None else whole),
        ),
        reference_batch_size=reference.global_batch_size,
        base_lr=reference.lr,
        optimizer=optimizer.name,
        constants=as_json(optimizer.with_defaults),
        ema_decay=ema.decay if ema is not None else None,
        tokens_per_sample=job.train.tokens_per_sample,
    )


def _co_scale(job: Job, whole: Job) -> CoScale:
    """Return what is scaled besides the learning rate; of several optimizers, beta2 only of those that have one."""
    asked, reference = CoScale(**job.scale.co_scale.model_dump()), whole.reference
    given = [reference.optimizer, *(own.optimizer for own in reference.several.values() if own.optimizer is not None)]
    has_squares = optimizer_facts(job.reference.optimizer.name).has_running_squares
    is_of_others = not has_squares and any(optimizer_facts(each.name).has_running_squares for each in given)
    return replace(asked, beta2=None) if is_of_others else asked


def later_phases(
    job: Job, first: Phase, *, scaling: Scaling, data_parallel_size: int, lengths: Lengths
) -> tuple[Phase, ...]:
    """Return the phases that ``scale.batch_schedule`` plans after the first, at places that the job gives.

    None if the batch follows the noise scale or the schedule (``plan.instead_of_decay``).

    Raises:
        PlanError: points that do not ascend, a largest batch below the first, or a batch at which the rule does not
            hold: a planned one, or one that a measured noise scale may lead to.
    """
    assert lengths.total_samples is not None
    _require_growth(job, first)
    largest_measured(job, first, scaling=scaling, data_parallel_size=data_parallel_size)
    phases = [first]
    for at, size in _changes(job, first, lengths):
        before = phases[-1]
        start, steps = first_step_at(at, before, lengths)
        if start >= lengths.total_samples:
            break
        if start == before.start_samples:  # two changes in one step: the later one counts
            phases.pop()
        if size != phases[-1].global_batch_size:
            phases.append(
                grown_phase(
                    job, first, size, scaling=scaling, data_parallel_size=data_parallel_size, start=(start, steps)
                )
            )
        if len(phases) > MOST_PHASES:
            raise too_many_phases()
    return tuple(phases[1:])


def first_step_at(at: int, before: Phase, lengths: Lengths) -> tuple[int, int]:
    """Return where the first step begins at or after ``at``, in samples, and the steps before it.

    Args:
        at: in samples, in ``before`` or at its end.
        before: the phase up to this step.
        lengths: of the training.
    """
    start = next_step_start(
        at,
        start=before.start_samples,
        global_batch_size=before.global_batch_size,
        num_samples=lengths.num_samples,
        last_batch=lengths.last_batch,
    )
    return start, steps_to(start, before, num_samples=lengths.num_samples, last_batch=lengths.last_batch)


def too_many_phases() -> PlanError:
    """Return the error for a batch that changes too often."""
    return PlanError(
        f"scale.batch_schedule changes the batch more than {MOST_PHASES} times.", "Let it change less often."
    )


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
    """Return the plan with another global batch from ``samples_seen`` on, as a measured noise scale asks for."""
    job, first = in_samples(job), plan.phases[0]
    start = (samples_seen, plan.steps(samples_seen))
    phase = grown_phase(
        job, first, global_batch_size, scaling=plan.scaling, data_parallel_size=plan.data_parallel_size, start=start
    )
    earlier = tuple(phase for phase in plan.phases if phase.start_samples < samples_seen)
    return replace(plan, phases=(*earlier, phase))


def never_grows_at(job: Job, phases: Sequence[Phase], lengths: Lengths) -> list[int]:
    """Return the points of ``scale.batch_schedule``, in samples, that lie after the start of the last step.

    For a batch that doubles or follows the noise scale, only the first point is checked.
    """
    match job.scale.batch_schedule:
        case GrowAtPoints(points=points):
            places = [lengths.samples(point.at) for point in points]
        case (
            GrowByDoubling(every=every, max_global_batch_size=most)
            | GrowWithNoise(every=every, max_global_batch_size=most)
        ):
            places = [lengths.stretch(every)] if phases[0].global_batch_size < most else []
        case GrowInsteadOfDecay() | None:
            places = []
    end = last_start(phases, lengths)
    return [place for place in places if place > end]


def _require_growth(job: Job, first: Phase) -> None:
    """Refuse a largest batch that is below the batch at the start of training."""
    growth = job.scale.batch_schedule
    if not isinstance(growth, GrowByDoubling | GrowWithNoise | GrowInsteadOfDecay):
        return
    most, size = growth.max_global_batch_size, first.global_batch_size
    if most < size:
        raise PlanError(
            f"scale.batch_schedule.max_global_batch_size = {most} is below the {size} samples of the first batch: the "
            "batch would never grow.",
            f"Set it above {size}, or leave scale.batch_schedule out.",
        )


def largest_measured(job: Job, first: Phase, *, scaling: Scaling, data_parallel_size: int) -> Phase | None:
    """Return the phase at the largest batch that a measured noise scale may lead to, or None.

    The result is None if the job's batch does not follow the noise scale. A rule that holds at the first batch and at
    this one holds at all batches between them.

    Raises:
        PlanError: the rule does not hold at this batch.
    """
    growth = job.scale.batch_schedule
    if not isinstance(growth, GrowWithNoise | GrowInsteadOfDecay) or not job.scale.batch_follows_noise:
        return None
    most = growth.max_global_batch_size
    try:
        start = (first.start_samples, first.start_steps)
        return grown_phase(job, first, most, scaling=scaling, data_parallel_size=data_parallel_size, start=start)
    except PlanError as error:
        raise PlanError(
            f"scale.batch_schedule.max_global_batch_size = {most}: the batch may grow to this, and {error.problem}",
            error.remedy,
        ) from None


def regrow(plan: Plan, job: Job, growth: Iterable[tuple[int, float]]) -> Plan:
    """Return the plan with the growth of the batch that was measured before, within the job's largest batch.

    Args:
        plan: for any number of workers.
        job: one that follows the noise scale.
        growth: pairs of the samples seen where the batch grew, and its size over the first batch's.
    """
    job = in_samples(job)
    wanted, first = job.scale.batch_schedule, plan.phases[0].global_batch_size
    most = wanted.max_global_batch_size if isinstance(wanted, GrowWithNoise | GrowInsteadOfDecay) else MOST
    for at, factor in growth:
        size = max(first, min(round(first * factor), most))
        plan = grow(plan, job, samples_seen=at, global_batch_size=size)
    return plan


def limit_micro_batches(plan: Plan, most: int) -> Plan:
    """Return the plan with at most ``most`` samples in one forward/backward on one worker.

    The global batch and the learning rate stay; only ``per_worker_batch_size`` and ``grad_accum_steps`` change.

    Args:
        plan: a plan of a job with ``per_worker_batch_size: auto``.
        most: samples, >= 1.
    """

    def limited(phase: Phase) -> Phase:
        batch = strong_batch(
            data_parallel_size=plan.data_parallel_size,
            global_batch_size=phase.global_batch_size,
            per_worker_batch_size=min(most, phase.per_worker_batch_size),
            grad_accum_steps=None,
        )
        return replace(
            phase, per_worker_batch_size=batch.per_worker_batch_size, grad_accum_steps=batch.grad_accum_steps
        )

    phases = tuple(limited(phase) for phase in plan.phases)
    return replace(
        plan,
        phases=phases,
        per_worker_batch_size=phases[0].per_worker_batch_size,
        grad_accum_steps=phases[0].grad_accum_steps,
    )


def grown_phase(
    job: Job, first: Phase, size: int, *, scaling: Scaling, data_parallel_size: int, start: tuple[int, int]
) -> Phase:
    """Return a phase at another batch, from ``start`` (samples, steps) on.

    Its micro-batches are no larger than those of the first phase, unless the job says that larger ones fit. A batch
    that follows the noise keeps its micro-steps: the noise is measured between them.
    """
    most = None if job.scale.batch_follows_noise else job.scale.most_per_worker
    batch = strong_batch(
        data_parallel_size=data_parallel_size,
        global_batch_size=size,
        per_worker_batch_size=most or first.per_worker_batch_size,
        grad_accum_steps=None,
    )
    samples, steps = start
    return scaling.phase(batch, start_samples=samples, start_steps=steps)[0]


def _changes(job: Job, first: Phase, lengths: Lengths) -> Iterator[tuple[int, int]]:
    """Yield where the batch changes, in samples, and its new size."""
    assert lengths.total_samples is not None
    match job.scale.batch_schedule:
        case GrowAtPoints(points=points):
            places = [lengths.samples(point.at) for point in points]
            if places[0] < 1:
                raise PlanError(
                    "scale.batch_schedule.points begin at 0 samples, which is the start of training.",
                    "The first batch follows from the other keys of scale; put the first point later.",
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


def _ranks(number: int) -> str:
    return f"{number} data-parallel rank{'s' if number != 1 else ''}"


def _micro_steps(number: int) -> str:
    return f"{number} micro-step{'s' if number != 1 else ''}"
