"""Warnings of a plan: what to look at before the run."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from scaler.core.optimizers import ADAPTIVE, optimizer_facts
from scaler.core.shapes import MultiStep
from scaler.core.steps import steps_between
from scaler.core.unit import Unit, unit_with
from scaler.job import Job
from scaler.job.scale import GrowInsteadOfDecay
from scaler.plan.model import Plan, PlanWarning
from scaler.plan.optimizers import job_of
from scaler.plan.phase import Phase
from scaler.plan.scaling_warnings import Reached, reached_phases, scaling_warnings, times
from scaler.plan.split import place_of

FEW_STEPS = 10
LARGER = 1.4  # times the reference's batch: below it, the rule changes little
FAR_RATIO = 64
FAR_HORIZON = 3.0  # times the reference's length


def find_warnings(
    plan: Plan,
    job: Job,
    *,
    may_become: Phase | None = None,
    never_grows_at: Sequence[int] = (),
    never_longer_at: Sequence[int] = (),
) -> tuple[PlanWarning, ...]:
    """Return the warnings that apply to a plan; their codes are stable.

    Args:
        plan: the plan.
        job: the job that the plan was made from.
        may_become: the phase at the largest batch that a measured noise scale may lead to.
        never_grows_at: points at which the batch would grow, in samples, that training does not reach.
        never_longer_at: points at which samples would get another length, that training does not reach.
    """
    reached = reached_phases(plan.phases, may_become)
    found = (
        *_of_lengths(plan),
        *_of_points_after_the_end(plan, never_grows_at, never_longer_at),
        *_of_growth_instead_of_decay(plan, job, may_become),
        *_of_the_batch(plan),
        *_of_the_ratio(plan, reached),
        *_of_the_horizon(plan, job),
        *((True, code, message) for code, message in scaling_warnings(plan, job, reached)),
        *_of_each_optimizer(plan, job),
    )
    return tuple(PlanWarning(code=code, message=message) for applies, code, message in found if applies)


def _of_each_optimizer(plan: Plan, job: Job) -> Iterator[tuple[bool, str, str]]:
    """Yield the warnings about scaling of the optimizers with a reference of their own."""
    for own in plan.optimizers:
        phases = tuple(own.phase(phase) for phase in plan.phases)
        theirs = replace(
            plan, rule=own.scaling.rule.name, optimizer=own.optimizer, scaling=own.scaling, phases=phases
        )  # what scaling_warnings reads
        for code, message in scaling_warnings(theirs, job_of(job, own.name), reached_phases(phases, None)):
            yield True, code, f"{place_of(job, own.name)}: {message}"


def _of_lengths(plan: Plan) -> Iterator[tuple[bool, str, str]]:
    total, warmup, schedule = round(plan.progress_at(plan.total_samples)), plan.warmup_samples, plan.schedule
    unit = unit_with(plan.tokens_per_sample)  # the schedule counts samples of the first length
    takes = f"the training takes {unit.number(total, form='')}"
    climbs = [part for part in (schedule.warmup, schedule.reference_warmup) if part.samples and part.start < 1.0]
    yield (
        any(climb.samples >= total for climb in climbs),
        "warmup_exceeds_training",
        f"The warmup takes {unit.number(warmup, form='')} {unit.many} and the training {unit.number(total, form='')}: "
        "the peak learning rate is never reached.",
    )
    places = plan.schedule.shape.at if isinstance(plan.schedule.shape, MultiStep) else ()
    early = [place for place in places if place < warmup]
    late = [place for place in places if place >= total]
    yield (
        bool(early),
        "milestone_in_warmup",
        f"The schedule falls at {_places(unit, early)}, and the warmup takes {unit.number(warmup, form='')}: "
        "it falls at the warmup's end, and the peak learning rate is never reached.",
    )
    yield (
        bool(late),
        "milestone_after_end",
        f"The schedule falls at {_places(unit, late)}, and {takes}: these falls are never reached.",
    )


def _of_points_after_the_end(
    plan: Plan, never_grows_at: Sequence[int], never_longer_at: Sequence[int]
) -> Iterator[tuple[bool, str, str]]:
    total, units = plan.most_samples, plan.units
    takes = f"the training takes {units.place(total, form='')}"
    unfrozen = {group.unfreeze_at for group in plan.groups if group.unfreeze_at is not None}
    late = sorted(place for place in unfrozen if place >= total)
    yield (
        bool(late),
        "unfreezes_after_end",
        f"Parameters are unfrozen at {_places(units, late)}, and {takes}: they are never trained.",
    )
    yield (
        bool(never_grows_at),
        "batch_grows_after_end",
        f"The batch would grow at {_places(units, never_grows_at)}, and {takes}: no step begins there.",
    )
    yield (
        bool(never_longer_at),
        "longer_samples_after_end",
        f"Samples would get another length at {_places(units, never_longer_at)}, and {takes}: no step begins there.",
    )


def _of_growth_instead_of_decay(plan: Plan, job: Job, may_become: Phase | None) -> Iterator[tuple[bool, str, str]]:
    """Yield warnings about a batch that grows where the schedule lowers the learning rate."""
    growth = job.scale.batch_schedule
    if not isinstance(growth, GrowInsteadOfDecay):
        return
    first, last = plan.phases[0], may_become or plan.phases[-1]
    end = plan.schedule.factor(plan.total_samples - 1)
    never = last is first and _batch(first) < growth.max_global_batch_size
    yield (
        never,
        "batch_never_grows",
        f"The batch never grows: it changes where it would be {growth.growth:g} times as large, and the learning rate "
        f"ends at {end:.3g} of its peak. Lower scale.batch_schedule.growth.",
    )
    raised, grown = last.lr_ratio / first.lr_ratio, _batch(last) / _batch(first)
    yield (
        optimizer_facts(plan.optimizer["name"]).family is ADAPTIVE and raised > grown**0.5 * (1.0 + 1e-9),
        "batch_grows_faster_than_lr_falls",
        f"Where the batch is {grown:.4g} times as large, rule: {plan.rule} divides the learning rate of "
        f"{plan.optimizer['name']} by {grown / raised:.4g}. Below the root, {grown**0.5:.4g}, training is not stable "
        "with adaptive optimizers (Meterez et al. 2025): use rule: sqrt.",
    )


def _of_the_batch(plan: Plan) -> Iterator[tuple[bool, str, str]]:
    """Yield warnings about the largest and the smallest planned batch."""
    largest, units = max(plan.phases, key=_batch), plan.units
    batch, size = largest.global_batch_size, partial(units.number, form="")
    yield (
        batch > plan.num_samples,
        "batch_exceeds_data",
        f"The global batch of {size(batch, at=largest.start_samples)}{_from(units, largest)} is larger than the "
        f"training set of {size(plan.num_samples, at=largest.start_samples)} {units.many}: "
        + {
            "scale": "each step takes all samples, at the learning rate for that number.",
            "carry": "a step takes some samples more than once.",
            "drop": "no step can be taken.",
        }[plan.last_batch],
    )
    scaled = max((phase for phase in plan.phases if phase.batch_ratio >= LARGER), key=_batch, default=None)
    per_epoch = FEW_STEPS
    if scaled is not None:
        samples = plan.num_samples
        per_epoch = steps_between(
            0, samples, global_batch_size=scaled.global_batch_size, num_samples=samples, last_batch=plan.last_batch
        )
    at_batch = (
        f" at the global batch of {size(_batch(scaled), at=scaled.start_samples)}, from {units.one} "
        f"{units.place(scaled.start_samples, form='')} on"
        if scaled and scaled.start_samples
        else ""
    )
    yield (
        per_epoch < FEW_STEPS,
        "few_steps_per_epoch",
        f"An epoch has {per_epoch} step{'' if per_epoch == 1 else 's'}{at_batch}: "
        "the papers tested their rules with many more.",
    )
    smallest = min(plan.phases, key=_batch)
    idle = (plan.data_parallel_size - smallest.global_batch_size) * (plan.world_size // plan.data_parallel_size)
    yield (
        idle > 0,
        "idle_workers",
        f"The global batch of {size(_batch(smallest), at=smallest.start_samples)}{_from(units, smallest)} leaves "
        f"{idle} of {plan.world_size} workers idle.",
    )


def _of_the_ratio(plan: Plan, reached: Sequence[Reached]) -> Iterator[tuple[bool, str, str]]:
    largest = max(reached, key=lambda one: one.phase.batch_ratio)
    smallest = min(reached, key=lambda one: one.phase.batch_ratio)
    for one, is_far in (
        (largest, largest.phase.batch_ratio > FAR_RATIO),
        (smallest, smallest.phase.batch_ratio < 1 / FAR_RATIO),
    ):
        batch = plan.units.number(one.phase.global_batch_size, at=one.phase.start_samples, form="")
        size = f" of {batch}{one.when}" if one.when else ""
        yield (
            is_far,
            "batch_ratio_beyond_64",
            f"The batch{size} is {one.times} the reference's: no rule is known to hold at this ratio. Tune a reference "
            "with a batch size near it.",
        )


def _of_the_horizon(plan: Plan, job: Job) -> Iterator[tuple[bool, str, str]]:
    """Yield a warning if the training is much longer or shorter than the reference's, and the rule ignores it."""
    if plan.reference_samples is None or job.scale.horizon:
        return
    units = plan.units
    total, before = units.at(plan.total_samples), units.size(plan.reference_samples)
    law = ""
    if job.reference.optimizer.name in ("adamw", "torch.optim:AdamW") and plan.rule in ("sqrt", "adam_sde"):
        law = (
            " scale.horizon: true applies a published law for AdamW; it lost in both experiments of "
            "docs/rules-experiments.md."
        )
    yield (
        not 1 / FAR_HORIZON <= total / before <= FAR_HORIZON,
        "horizon_far_from_reference",
        f"The training of {units.place(plan.total_samples)} {units.many} is {times(total / before)} the reference's "
        f"{units.number(plan.reference_samples)}, and the best learning rate and weight decay may depend on the "
        f"length. Tune the reference at about this length.{law}",
    )


def _batch(phase: Phase) -> int:
    return phase.global_batch_size


def _from(units: Unit, phase: Phase) -> str:
    start = phase.start_samples
    return f", from {units.one} {units.place(start, form='')} on," if start else ""


def _places(units: Unit, places: Sequence[int]) -> str:
    return f"{', '.join(units.place(place, form='') for place in places)} {units.many}"
