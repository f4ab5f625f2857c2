"""Warnings about the effects of another batch size: on the learning rate, weight decay, averages and clipping."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import sqrt

from scaler.core.optimizers import ADAPTIVE, SGD_FAMILY, optimizer_facts
from scaler.core.timescales import average_memory
from scaler.core.unit import Unit, unit_with
from scaler.job import Job
from scaler.plan.model import Plan
from scaler.plan.phase import Phase, units_of
from scaler.plan.weight_decay import plan_decay

LR_OFF = 1.4  # times: a usual search over learning rates has steps of a factor 2, and does not resolve half a step
MOVED = 4.0  # times: a smaller change of the memory of an average is not worth a warning
DECAY_MOVED = CLIP_MOVED = 2.0  # times: the same, of the timescale of weight decay and of a clipped step
SHORT_BETA1, SHORT_BETA2 = 0.5, 0.95  # below these, the averages cover fewer than 2 and 20 steps
LONG_MOMENTUM = 0.99  # above it, the average covers more than 100 steps

Found = Iterator[tuple[str, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reached:
    """A phase that training may reach, and when."""

    phase: Phase
    is_measured: bool  # reached only if the measured noise scale becomes so large
    units: Unit = Unit()  # of the plan  # noqa: RUF009 (frozen)

    @property
    def when(self) -> str:
        """When it is reached, as a part of a sentence after the batch; empty at the start of training."""
        if self.is_measured:
            return ", if the noise scale lets it grow so far,"
        start = self.phase.start_samples
        return f", from {self.units.one} {self.units.place(start, form='')} on," if start else ""

    @property
    def times(self) -> str:
        """The batch ratio as a part of a sentence: ``4 times``."""
        return times(self.phase.batch_ratio)


def reached_phases(phases: Sequence[Phase], may_become: Phase | None) -> tuple[Reached, ...]:
    """Return every phase of a plan, and ``may_become`` unless it has the first batch.

    Args:
        phases: the planned ones.
        may_become: the phase at the largest batch that a measured noise scale may lead to.
    """
    units = units_of(phases)
    planned = tuple(Reached(phase=phase, is_measured=False, units=units) for phase in phases)
    if may_become is None or may_become.global_batch_size == phases[0].global_batch_size:
        return planned
    return (*planned, Reached(phase=may_become, is_measured=True, units=units))


def most(reached: Sequence[Reached], amount: Callable[[Phase], float], *, least: float) -> Reached | None:
    """Return the first phase with the greatest ``amount``; None if that is below ``least`` by more than rounding."""
    found = max(reached, key=lambda one: amount(one.phase))
    return found if amount(found.phase) >= least * (1.0 - 1e-9) else None


def times(ratio: float) -> str:
    """Return a ratio as a part of a sentence.

    Example:
        >>> [times(ratio) for ratio in (4.0, 1.5, 1 / 4096)]
        ['4 times', '1.5 times', '1/4096 of']
    """
    return f"{ratio:.4g} times" if ratio >= 1.0 else f"1/{1.0 / ratio:.4g} of"


def scaling_warnings(plan: Plan, job: Job, reached: Sequence[Reached]) -> Found:
    """Yield the code and the message of each warning that applies.

    Args:
        plan: the plan.
        job: the job that the plan was made from.
        reached: the batches to check. With ``rule: none`` a batch that grows replaces a learning rate that falls
            (Smith et al. 2018), so the effects of the learning rate are checked at the first batch only.
    """
    by_lr = reached[:1] if plan.rule == "none" else reached
    yield from _of_the_lr(plan, job, by_lr)
    yield from _of_weight_decay(plan, job, by_lr)
    yield from _of_clipping(plan, job, by_lr)
    yield from _of_averages(plan, job, reached)
    yield from _of_beta2(plan, job, reached)


def _of_the_lr(plan: Plan, job: Job, reached: Sequence[Reached]) -> Found:
    optimizer = plan.optimizer["name"]
    family = optimizer_facts(optimizer).family
    if plan.rule == "linear" and family is ADAPTIVE:
        far = most(reached, lambda phase: _away(phase.lr_ratio / sqrt(phase.batch_ratio)), least=LR_OFF)
        if far is not None:
            where = f" The batch{far.when} is {far.times} the reference's." if far.when else ""
            yield (
                "linear_rule_with_adaptive_optimizer",
                f"{optimizer} divides the gradient by its running size, and rule: linear is for optimizers that do "
                f"not: use rule: sqrt (Malladi et al. 2022).{where}",
            )
    if plan.rule not in ("sqrt", "none") or family is not SGD_FAMILY or job.scale.co_scale.momentum:
        return  # a scaled momentum replaces a scaled learning rate
    slow = most(reached, lambda phase: phase.batch_ratio / phase.lr_ratio, least=LR_OFF)
    if slow is not None:
        yield (
            "slow_rule_for_sgd",
            f"rule: {plan.rule} raises {optimizer}'s learning rate {slow.phase.lr_ratio:.4g} times for {slow.times} "
            f"the batch{slow.when.removesuffix(',')}: it learns less in the same number of epochs. At 32 times the "
            "batch, ImageNet's error was 26.22% with sqrt, 41.67% with none and 23.74% with linear (Goyal et al. "
            "2017).",
        )
    fast = most(reached, lambda phase: phase.lr_ratio / phase.batch_ratio, least=LR_OFF)
    if fast is not None:
        yield (
            "fast_rule_for_sgd",
            f"At {fast.times} the reference's batch{fast.when} rule: {plan.rule} gives {optimizer} "
            f"{fast.phase.lr_ratio / fast.phase.batch_ratio:.4g} times the reference's learning rate per sample: it "
            "may be too high. rule: linear holds it (Goyal et al. 2017).",
        )


def _of_weight_decay(plan: Plan, job: Job, reached: Sequence[Reached]) -> Found:
    decay = plan_decay(plan, job)
    if decay is None or plan.is_measured or job.scale.horizon:
        return  # the horizon holds the timescale as a share of the training
    far = most(reached, lambda phase: _away(decay.timescale(phase) / decay.reference), least=DECAY_MOVED)
    if far is not None:
        after, unit = decay.timescale(far.phase), unit_with(plan.tokens_per_sample)
        yield (
            "weight_decay_timescale_moved",
            f"At {far.times} the reference's batch{far.when} {decay.name}'s weight decay has a timescale of "
            f"{unit.number(after, form=',.0f')} {unit.many}, {times(after / decay.reference)} the reference's. "
            "scale.co_scale.weight_decay: true holds it (Wang and Aitchison 2024).",
        )


def _of_clipping(plan: Plan, job: Job, reached: Sequence[Reached]) -> Found:
    clip, name = job.train.clip_grad_norm, plan.optimizer["name"]
    if clip is None or plan.rule == "none":
        return

    def longer(phase: Phase) -> float:
        return phase.batch_ratio if plan.is_measured else phase.lr_ratio

    far = most(reached, lambda phase: _away(longer(phase)), least=CLIP_MOVED)
    if far is None:
        return
    facts, ratio = optimizer_facts(name), far.phase.batch_ratio
    head = f"At {'' if ratio == 1.0 else f'{far.times} '}the reference's batch{far.when}"
    clipped = "as many steps are clipped as in the reference"
    if ratio != 1.0:
        more, size = ("fewer", "smaller") if ratio > 1.0 else ("more", "larger")
        clipped = f"{more} steps are clipped, because the gradient's norm is {size}"
    look = "Look at the recorded gradient norms near this batch, and tune the clipping there."
    if facts.family is SGD_FAMILY:
        up_to = "up to " if plan.is_measured else ""
        text = (
            f"{head} a step that train.clip_grad_norm = {clip:g} clips is {up_to}{longer(far.phase):.4g} times as "
            f"long, and {clipped}. rule: {plan.rule} holds only for steps that are not clipped. {look}"
        )
    elif facts.family is not None or facts.averages:
        text = (
            f"{head} and train.clip_grad_norm = {clip:g}, {clipped}. {name} divides by the size of its gradients, so "
            "the clip does not limit the length of a step: it lowers the weight of large gradients in the running "
            f"averages. {look}"
        )
    else:
        text = (
            f"{head} and train.clip_grad_norm = {clip:g}, {clipped}. If the step of {name} is proportional to the "
            f"gradient, a clipped step is {longer(far.phase):.4g} times as long. {look}"
        )
    yield "clipping_with_scaled_lr", text


def _of_beta2(plan: Plan, job: Job, reached: Sequence[Reached]) -> Found:
    """Yield where ``scale.beta2_range`` changes the decay that the rule gives most, at its floor and at its ceiling."""
    bounds = job.scale.beta2_bounds
    if bounds is None:
        return

    def wanted(phase: Phase) -> float | None:
        return plan.scaling.at(_size(plan, phase)).unbounded_beta2

    for used, is_floor in zip(bounds, (True, False), strict=True):
        found = [
            (beta, one) for one in reached if (beta := wanted(one.phase)) is not None and is_floor == (beta < used)
        ]
        if found:
            beta, one = (min if is_floor else max)(found, key=lambda pair: pair[0])
            optimizer = plan.optimizer["name"]
            name = "beta2" if "betas" in one.phase.optimizer else "alpha"
            yield (
                "beta2_range_binds",
                f"At {one.times} the reference's batch{one.when} the rule gives {optimizer} a {name} of {beta:.6g}, "
                f"and scale.beta2_range = [{bounds[0]:g}, {bounds[1]:g}] makes it {used:g}.",
            )


def _of_averages(plan: Plan, job: Job, reached: Sequence[Reached]) -> Found:
    ema, asked = job.train.ema, job.scale.co_scale
    if ema is not None and not asked.ema:
        far = most(reached, lambda phase: _away(phase.batch_ratio), least=MOVED)
        if far is not None:
            memory = average_memory(ema.decay, global_batch_size=_size(plan, far.phase))
            unit = unit_with(plan.tokens_per_sample)
            yield (
                "ema_not_scaled",
                f"At {far.times} the reference's batch{far.when} train.ema remembers "
                f"{unit.number(memory, form=',.0f')} {unit.many}, {far.times} the reference's, because every "
                f"step keeps {ema.decay:g} of the average. "
                "scale.co_scale.ema: true holds its memory (Busbridge et al. 2023).",
            )
    largest = max(reached, key=lambda one: one.phase.batch_ratio)
    short = _short_averages(largest.phase, plan, job)
    if short:
        yield (
            "averages_too_short",
            f"At {largest.times} the reference's batch{largest.when} {' and '.join(short)}: too few for an average. "
            "Use a smaller batch, or a reference with a larger one.",
        )
    momentum = float(largest.phase.optimizer["momentum"]) if asked.momentum else 0.0
    if momentum > LONG_MOMENTUM and largest.phase.batch_ratio > 1.0:
        yield (
            "momentum_remembers_long",
            f"At {largest.times} the reference's batch{largest.when} scale.co_scale.momentum gives a momentum of "
            f"{momentum:.4g}, which averages over {1.0 / (1.0 - momentum):.0f} steps. Raising it with the batch lost "
            "accuracy (Smith et al. 2018): rule: linear raises the learning rate instead.",
        )


def _short_averages(phase: Phase, plan: Plan, job: Job) -> list[str]:
    """Return texts of the phase's averages that are too short, and were not in the reference."""
    now, before = phase.optimizer, job.reference.optimizer.with_defaults
    decays: list[tuple[str, float, float, float]] = []
    facts, is_sde = optimizer_facts(plan.optimizer["name"]), plan.rule == "adam_sde"
    name = facts.sde_constant if is_sde else facts.sde_constant or "betas"
    if not is_sde and plan.scaling.rule.co_scale.beta2 is None:
        pass
    elif name == "betas":
        for beta, decay, given, least in zip(
            ("beta1", "beta2"), now["betas"], before["betas"], (SHORT_BETA1, SHORT_BETA2), strict=True
        ):
            decays.append((beta, decay, given, least))
    elif name is not None:
        decays = [(name, now[name], before[name], SHORT_BETA2)]
    if job.train.ema is not None and phase.ema_decay is not None and job.scale.co_scale.ema and not plan.is_measured:
        decays.append(("train.ema's decay", phase.ema_decay, job.train.ema.decay, SHORT_BETA1))
    steps = {name: f"{1.0 / (1.0 - decay):.2g}" for name, decay, *_ in decays}
    return [
        f"{name} = {decay:.3g} averages over {steps[name]} step{'' if steps[name] == '1' else 's'}"
        for name, decay, given, least in decays
        if decay < least <= given
    ]


def _size(plan: Plan, phase: Phase) -> float:
    """Return the batch of a phase in samples of the first length."""
    return round(plan.reference_batch_size * phase.batch_ratio)


def _away(ratio: float) -> float:
    """Return the ratio or its inverse, whichever is above 1."""
    return max(ratio, 1.0 / ratio)
