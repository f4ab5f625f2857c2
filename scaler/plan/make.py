"""``make_plan``: the plan of a job for a number of workers."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import ceil
from typing import Literal

from scaler.core.mesh import data_parallel_size
from scaler.core.rules import choose_rule
from scaler.core.scale import Scaled
from scaler.core.steps import last_step_start
from scaler.core.unit import unit_with
from scaler.errors import PlanError
from scaler.job import Job
from scaler.job.mesh import workers_step
from scaler.job.scale import GrowWithNoise
from scaler.job.section import Length
from scaler.job.unit import in_samples
from scaler.plan.checks import require_a_step, require_measurable, require_momentum
from scaler.plan.groups import make_groups
from scaler.plan.instead_of_decay import phases_instead_of_decay
from scaler.plan.lengths import Lengths
from scaler.plan.memory import memory_reason, plan_memory
from scaler.plan.mesh import make_mesh, mesh_reason
from scaler.plan.model import SCHEMA_VERSION, Plan, PlanParameter
from scaler.plan.optimizers import make_optimizers
from scaler.plan.phase import Phase, Scaling, steps_to
from scaler.plan.phases import (
    first_batch,
    largest_measured,
    last_start,
    make_scaling,
    never_grows_at,
)
from scaler.plan.reasons import number_reasons
from scaler.plan.schedule import make_schedule
from scaler.plan.sequence_lengths import never_longer_at, planned_phases
from scaler.plan.split import needs_parameters
from scaler.plan.warnings import find_warnings
from scaler.plan.weight_decay import plan_decay

CURVE_POINTS = 200
NOISE_CHECKS = 100  # of a batch that grows instead of the decay, up to the noise scale


def make_plan(
    job: Job,
    world_size: int | None = None,
    *,
    num_samples: int | None = None,
    parameters: Mapping[str, int | PlanParameter] | None = None,
    horizon_samples: int | None = None,
) -> Plan:
    """Return the plan of ``job`` on ``world_size`` workers, always from the reference.

    Args:
        job: the job.
        world_size: workers, >= 1; None: the most that the job asks for.
        num_samples: size of the training set, if the job does not give it (``train.num_samples`` wins).
        parameters: name -> number of elements of every parameter of the model, for a job with ``groups`` or
            ``layer_decay``; name -> ``PlanParameter`` for one that splits the parameters among several optimizers, or
            whose optimizer takes matrices only. For other jobs, only ``Plan.memory`` needs them.
        horizon_samples: length of the training that ``scale.horizon`` scales to, in samples; None: the plan's own.

    Raises:
        PlanError: numbers that do not fit together; names numbers that fit.
    """
    counted = in_samples(job)
    try:
        return _make(
            counted,
            world_size,
            unit=job.train.unit,
            num_samples=num_samples,
            parameters=parameters,
            horizon_samples=horizon_samples,
        )
    except PlanError as error:
        if job.train.unit == "samples":
            raise
        tokens = f"{job.train.tokens_per_sample:,} tokens"
        note = f"Batch sizes in this message are in samples of {tokens}; those of the job are in tokens."
        raise PlanError(error.problem, f"{error.remedy}\n{note}") from None


def _make(
    job: Job,
    world_size: int | None,
    *,
    unit: Literal["samples", "tokens"],
    num_samples: int | None,
    parameters: Mapping[str, int | PlanParameter] | None,
    horizon_samples: int | None,
) -> Plan:
    """Return the plan of a job whose batch sizes are in samples; ``unit`` is for its texts."""
    world_size = job.scale.max_workers if world_size is None else world_size
    num_samples = job.train.num_samples if job.train.num_samples is not None else num_samples
    if num_samples is None:
        raise PlanError(
            "train.num_samples is missing, and the plan counts epochs in samples.",
            "Give the size of the training set: train.num_samples.",
        )
    if parameters is None and (job.groups or job.layer_decay is not None):
        raise PlanError(
            "groups and layer_decay match the model's parameters, and the plan is made without a model.",
            "Pass parameters: {name: parameter.numel() for name, parameter in model.named_parameters()}.",
        )
    if parameters is None and job.reference.splits:
        raise PlanError(
            "several optimizers share the model's parameters, and the plan is made without a model.",
            "Pass parameters: the name and scaler.plan.PlanParameter of each; scaler.plan_job does it.",
        )
    known = {
        name: each if isinstance(each, PlanParameter) else PlanParameter(size=each)
        for name, each in (parameters or {}).items()
        if needs_parameters(job)
    }
    mesh = make_mesh(job, world_size)
    ranks = data_parallel_size(mesh)
    batch, batch_reason = first_batch(job, world_size)
    rule, rule_reason = choose_rule(job.scale.rule, optimizer=job.reference.optimizer.name, horizon=job.scale.horizon)
    lengths = Lengths(
        global_batch_size=batch.global_batch_size,
        reference_batch_size=job.reference.global_batch_size,
        is_elastic=job.scale.is_elastic,
        num_samples=num_samples,
        last_batch=job.train.last_batch,
        units=unit_with(job.train.tokens_per_sample),
    )
    horizon = replace(lengths, total_samples=horizon_samples or lengths.samples(job.train))
    scaling = make_scaling(job, horizon)
    first, scaled = scaling.phase(batch, start_samples=0, start_steps=0)
    phases, lengths, of_schedule = planned_phases(
        job, first, scaling=scaling, data_parallel_size=ranks, lengths=lengths
    )
    total_samples = lengths.total_samples
    assert total_samples is not None
    last = last_start(phases, lengths)
    schedule, warmup_reason, schedule_reason = make_schedule(
        job, scaled, of_schedule, last_step=_in_first_length(last, lengths), rises=_rises(job, scaling, scaled)
    )
    phases += phases_instead_of_decay(job, first, schedule, scaling=scaling, data_parallel_size=ranks, lengths=lengths)
    cadence, rewarmup = job.checkpoint.every, job.scale.rewarmup
    require_measurable(job, rule, workers=ranks, micro_steps=batch.grad_accum_steps)
    require_momentum(schedule, first.optimizer["name"])
    require_a_step(job, phases, num_samples)
    optimizers = make_optimizers(job, schedule, phases, horizon, known)
    plan = Plan(
        schema_version=SCHEMA_VERSION,
        purpose="train",
        unit=unit,
        tokens_per_sample=job.train.tokens_per_sample,
        name=job.name,
        world_size=world_size,
        data_parallel_size=ranks,
        mesh=mesh,
        global_batch_size=first.global_batch_size,
        per_worker_batch_size=first.per_worker_batch_size,
        grad_accum_steps=first.grad_accum_steps,
        reference_batch_size=job.reference.global_batch_size,
        base_lr=job.reference.lr,
        rule=rule,
        rule_reason=rule_reason,
        batch_ratio=first.batch_ratio,
        lr_ratio=first.lr_ratio,
        peak_lr=first.peak_lr,
        optimizer=first.optimizer,
        scaling=scaling,
        schedule=schedule,
        warmup_samples=schedule.warmup_samples,
        warmup_steps=0,
        num_samples=num_samples,
        last_batch=job.train.last_batch,
        total_samples=total_samples,
        total_steps=0,
        reference_samples=lengths.of_reference_training(job.reference),
        stop_samples=lengths.samples(job.train.stop_after) if job.train.stop_after is not None else None,
        steps_per_epoch=0,
        eval_every_samples=lengths.cadence(job.train.eval_every),
        checkpoint_every_samples=lengths.cadence(cadence) if cadence.seconds is None else None,
        eval_every_tokens=_every_tokens(job, job.train.eval_every, first),
        checkpoint_every_tokens=_every_tokens(job, cadence, first),
        checkpoint_every_s=cadence.seconds,
        rewarmup_samples=lengths.cadence(rewarmup) if rewarmup is not None else 0,
        grow_every_samples=_grow_every(job, lengths),
        phases=phases,
        groups=make_groups(
            job,
            {name: each.size for name, each in known.items()},
            peak_lr=first.peak_lr,
            lengths=lengths,
            optimizers=optimizers,
        ),
        optimizers=optimizers,
        parameters=known,
        reacts=_reacts(job, rule),
        lr_curve=(),
        reasons={},
        warnings=(),
    )
    plan = replace(
        plan,
        warmup_steps=plan.steps(plan.samples_at(plan.warmup_samples)),
        total_steps=plan.steps(last_start(phases, lengths)) + 1,
        steps_at_first_batch=_steps_at(first, lengths)
        if any(phase.batch_ratio != first.batch_ratio for phase in phases)
        else None,
        steps_per_epoch=plan.steps(num_samples),
    )
    decay = plan_decay(plan, job)
    sizes = {name: each if isinstance(each, int) else each.size for name, each in (parameters or {}).items()}
    plan = replace(plan, memory=plan_memory(plan, job, sizes) if sizes else None)
    return replace(
        plan,
        weight_decay_timescale=decay.timescale(first) if decay is not None else None,
        lr_curve=tuple(_curve(plan)),
        reasons={
            **mesh_reason(job, mesh),
            "global_batch_size": batch_reason,
            "warmup_samples": warmup_reason,
            "schedule": schedule_reason,
            **number_reasons(plan, job, scaled, lengths),
            **memory_reason(plan, job),
        },
        warnings=find_warnings(
            plan,
            job,
            may_become=largest_measured(job, first, scaling=scaling, data_parallel_size=ranks),
            never_grows_at=never_grows_at(job, phases, lengths),
            never_longer_at=never_longer_at(job, phases, lengths),
        ),
    )


def _every_tokens(job: Job, cadence: Length, first: Phase) -> int | None:
    """Return an interval in tokens, where ``train.sequence_lengths`` changes the samples in it; None: it has a unit
    that counts samples."""
    if not job.train.sequence_lengths or first.tokens_per_sample is None:
        return None
    step = first.global_batch_size * first.tokens_per_sample
    return cadence.steps * step if cadence.steps is not None else cadence.tokens


def _rises(job: Job, scaling: Scaling, scaled: Scaled) -> bool:
    """Return whether the learning rate is scaled up at any number of workers that the job may get.

    The warmup must be the same at every number of workers, because the schedule's shape begins at its end.
    """
    ratios = [scaled.lr_ratio]
    if job.scale.is_elastic:
        for size in (job.scale.min_workers, job.scale.max_workers):
            try:
                ratios.append(scaling.at(first_batch(job, size)[0].global_batch_size).lr_ratio)
            except PlanError:
                continue  # ``require_every_size`` refuses this job and names the number of workers
    return max(ratios) > 1.0


def _in_first_length(samples_seen: int, lengths: Lengths) -> int:
    """Return a place in training in samples of the length that samples have at its start, as a schedule counts."""
    return round(lengths.units.at(samples_seen) / lengths.units.tokens_per_sample())


def _steps_at(first: Phase, lengths: Lengths) -> int:
    """Return the steps of a training whose batch stays that of the first phase."""
    start = last_start((first,), lengths)
    return steps_to(start, first, num_samples=lengths.num_samples, last_batch=lengths.last_batch) + 1


def _grow_every(job: Job, lengths: Lengths) -> int | None:
    """Return the samples between two comparisons of the noise scale with the batch; None: they are not compared."""
    growth, total = job.scale.batch_schedule, lengths.total_samples
    if isinstance(growth, GrowWithNoise):
        return lengths.stretch(growth.every)
    assert total is not None
    return max(1, total // NOISE_CHECKS) if job.scale.batch_follows_noise else None


def _reacts(job: Job, rule: str) -> tuple[str, ...]:
    """Return the names of what may change the planned learning rate or batch in training: see ``Plan.reacts``."""
    divergence = job.failures.divergence
    asked = {
        "adascale": rule == "adascale",
        "noise_scale": job.scale.batch_follows_noise,
        "plateau": job.schedule.plateau is not None,
        "divergence": divergence is not None and divergence.then == "go_back",
    }
    return tuple(name for name, is_asked in asked.items() if is_asked)


def _curve(plan: Plan) -> Iterator[tuple[int, float]]:
    """Yield points of the learning rate for drawing: evenly, on both sides of each corner, and at short steps."""
    total = plan.total_samples
    points = {round(i * total / CURVE_POINTS) for i in range(CURVE_POINTS + 1)}
    corners = {phase.start_samples for phase in plan.phases[1:]}
    corners |= {plan.samples_at(place) for place in plan.schedule.corners(ceil(plan.progress_at(total)))}
    points |= corners | {corner - 1 for corner in corners}
    curve = {point: plan.whole_step_lr_at(point) for point in points if 0 <= point <= total}
    curve |= {point: plan.lr_at(point) for point in _short_steps(plan)}
    yield from sorted(curve.items())


def _short_steps(plan: Plan) -> Iterator[int]:
    """Yield where short steps begin: all of them, or for many epochs an even selection with the last one."""
    ends = [plan.total_samples]
    if plan.last_batch == "scale":
        epochs = ceil(plan.total_samples / plan.num_samples)
        ends = [min(epoch * plan.num_samples, ends[0]) for epoch in range(epochs, 0, -ceil(epochs / CURVE_POINTS))]
    for end in ends:
        phase = plan.phase_at(end - 1)
        start = last_step_start(
            end,
            start=phase.start_samples,
            global_batch_size=phase.global_batch_size,
            num_samples=plan.num_samples,
            last_batch=plan.last_batch,
        )
        if 0 < plan.step_size(start) < plan.phase_at(start).global_batch_size:
            yield start


def require_every_size(job: Job, plan: Plan) -> None:
    """Plan an elastic job for every number of workers that it may get, so that no resize fails.

    Args:
        job: any job; nothing happens if it is not elastic.
        plan: its plan for the most workers.

    Raises:
        PlanError: there is no plan for a smaller number of workers; names the number.
    """
    for size in range(job.scale.min_workers, job.scale.max_workers, workers_step(job)):
        try:
            make_plan(job, size, num_samples=plan.num_samples, parameters=plan.parameters)
        except PlanError as error:
            workers = "1 worker" if size == 1 else f"{size} workers"
            raise PlanError(f"on {workers}: {error.problem}", error.remedy) from None
