"""Warnings of what another batch than the reference's does to the rate, to memories in samples, and to clipping."""

from collections.abc import Iterator, Sequence
from math import sqrt
from typing import Any

from scaler.core.optimizers import ADAPTIVE, OPTIMIZER_OPTIONS, SGD_FAMILY
from scaler.core.timescales import average_memory, weight_decay_timescale
from scaler.job import Job
from scaler.plan.model import Plan
from scaler.plan.phase import Phase
from scaler.plan.reached import Reached, most, times

RATE_OFF = 1.4  # times: usual grids of learning rates have steps of 2, and half a step is not told apart
MOVED = 4.0  # times: how far a memory in samples, or a clipped step, must move to be worth a warning
SHORT_BETA1, SHORT_BETA2 = 0.5, 0.95  # below which they average over less than 2 and 20 steps
LONG_MOMENTUM = 0.99  # above which it averages over more than 100 steps

Found = Iterator[tuple[str, str]]


def scaling_warnings(plan: Plan, job: Job, reached: Sequence[Reached]) -> Found:
    """Yield the code and the message of each warning that applies.

    Args:
        plan: the plan.
        job: what it was made from.
        reached: the batches to look at. With ``rule: none`` a batch that grows stands for a rate that falls (Smith et
            al. 2018): what follows from the rate is judged at the start only.
    """
    by_rate = reached[:1] if plan.rule == "none" else reached
    yield from _of_the_rate(plan, job, by_rate)
    yield from _of_weight_decay(plan, job, by_rate)
    yield from _of_clipping(plan, job, by_rate)
    yield from _of_averages(plan, job, reached)


def _of_the_rate(plan: Plan, job: Job, reached: Sequence[Reached]) -> Found:
    optimizer = plan.optimizer["name"]
    if plan.rule == "linear" and optimizer in ADAPTIVE:
        far = most(reached, lambda phase: _away(phase.lr_ratio / sqrt(phase.batch_ratio)), least=RATE_OFF)
        if far is not None:
            where = f" The batch{far.when} is {far.times} the reference's." if far.when else ""
            yield (
                "linear_rule_with_adaptive_optimizer",
                f"{optimizer} divides by the gradient's running size: "
                f"rule: sqrt follows its batch noise (Malladi et al. 2022).{where}",
            )
    if plan.rule not in ("sqrt", "none") or optimizer not in SGD_FAMILY or job.scale.co_scale.momentum:
        return  # a momentum that is scaled makes up for the rate
    slow = most(reached, lambda phase: phase.batch_ratio / phase.lr_ratio, least=RATE_OFF)
    if slow is not None:
        yield (
            "slow_rule_for_sgd",
            f"rule: {plan.rule} raises {optimizer}'s rate {slow.phase.lr_ratio:.4g} times for {slow.times} the batch"
            f"{slow.when.removesuffix(',')}: it learns less in as many epochs. At 32 times the batch ImageNet's error "
            "was 26.22% with sqrt, 41.67% with none and 23.74% with linear (Goyal et al. 2017).",
        )
    fast = most(reached, lambda phase: phase.lr_ratio / phase.batch_ratio, least=RATE_OFF)
    if fast is not None:
        yield (
            "fast_rule_for_sgd",
            f"At {fast.times} the reference's batch{fast.when} rule: {plan.rule} gives {optimizer} "
            f"{fast.phase.lr_ratio / fast.phase.batch_ratio:.4g} times the reference's learning rate per sample: it "
            "may be too high. rule: linear holds it (Goyal et al. 2017).",
        )


def _of_weight_decay(plan: Plan, job: Job, reached: Sequence[Reached]) -> Found:
    name = plan.optimizer["name"]
    reference = _reference_constants(job)
    own = [group.weight_decay for group in plan.groups if group.weight_decay]
    decay = reference.get("weight_decay") or max(own, default=0.0)
    before = weight_decay_timescale(
        name,
        constants={**reference, "weight_decay": decay},
        lr=plan.base_lr,
        global_batch_size=plan.reference_batch_size,
    )
    if not decay or before is None or plan.is_measured:
        return

    def timescale(phase: Phase) -> float:
        constants = {**phase.optimizer, "weight_decay": decay * phase.weight_decay_ratio}
        lr, batch = plan.base_lr * phase.lr_ratio, phase.global_batch_size
        return weight_decay_timescale(name, constants=constants, lr=lr, global_batch_size=batch) or before

    far = most(reached, lambda phase: _away(timescale(phase) / before), least=MOVED)
    if far is not None:
        after = timescale(far.phase)
        yield (
            "weight_decay_timescale_moved",
            f"At {far.times} the reference's batch{far.when} {name}'s weight decay has a timescale of {after:.4g} "
            f"samples, {times(after / before)} the reference's. scale.co_scale.weight_decay: true holds it (Wang and "
            "Aitchison 2024).",
        )


def _of_clipping(plan: Plan, job: Job, reached: Sequence[Reached]) -> Found:
    clip = job.train.clip_grad_norm
    if clip is None or plan.rule not in ("linear", "gain", "adascale") or plan.optimizer["name"] not in SGD_FAMILY:
        return
    far = most(reached, lambda phase: phase.batch_ratio if plan.is_measured else phase.lr_ratio, least=MOVED)
    if far is not None:
        longer = far.phase.batch_ratio if plan.is_measured else far.phase.lr_ratio
        up_to = "up to " if plan.is_measured else ""
        yield (
            "clipping_with_scaled_rate",
            f"At {far.times} the reference's batch{far.when} a step that train.clip_grad_norm = {clip:g} clips is "
            f"{up_to}{longer:.4g} times as long, and the gradient's norm is smaller, so that fewer steps are clipped: "
            f"rule: {plan.rule} holds for steps that are not. See which norms are recorded near this batch, and tune "
            "the clipping there.",
        )


def _of_averages(plan: Plan, job: Job, reached: Sequence[Reached]) -> Found:
    ema, asked = job.train.ema, job.scale.co_scale
    if ema is not None and not asked.ema:
        far = most(reached, lambda phase: _away(phase.batch_ratio), least=MOVED)
        if far is not None:
            memory = average_memory(ema.decay, global_batch_size=far.phase.global_batch_size)
            yield (
                "ema_not_scaled",
                f"At {far.times} the reference's batch{far.when} train.ema remembers {memory:.4g} samples, {far.times} "
                f"the reference's, for it keeps {ema.decay:g} of itself in any step. scale.co_scale.ema: true holds "
                "its memory (Busbridge et al. 2023).",
            )
    largest = max(reached, key=lambda one: one.phase.batch_ratio)
    short = _short_averages(largest.phase, plan, job)
    if short:
        yield (
            "averages_too_short",
            f"At {largest.times} the reference's batch{largest.when} {' and '.join(short)}: too few to be an average. "
            "Use a smaller batch, or a reference nearer to it.",
        )
    momentum = float(largest.phase.optimizer["momentum"]) if asked.momentum else 0.0
    if momentum > LONG_MOMENTUM and largest.phase.batch_ratio > 1.0:
        yield (
            "momentum_remembers_long",
            f"At {largest.times} the reference's batch{largest.when} scale.co_scale.momentum makes a momentum of "
            f"{momentum:.4g}, which averages over {1.0 / (1.0 - momentum):.0f} steps. Raising it with the batch lost "
            "accuracy (Smith et al. 2018): rule: linear raises the rate instead.",
        )


def _short_averages(phase: Phase, plan: Plan, job: Job) -> list[str]:
    """What of a phase's averages the batch has made too short, and was not so in the reference."""
    now, before = phase.optimizer, _reference_constants(job)
    decays: list[tuple[str, float, float, float]] = []
    if plan.rule == "adam_sde" and "betas" in now:
        for name, decay, given, least in zip(
            ("beta1", "beta2"), now["betas"], before["betas"], (SHORT_BETA1, SHORT_BETA2), strict=True
        ):
            decays.append((name, decay, given, least))
    elif plan.rule == "adam_sde":
        decays = [("alpha", now["alpha"], before["alpha"], SHORT_BETA2)]
    if job.train.ema is not None and phase.ema_decay is not None and job.scale.co_scale.ema and not plan.is_measured:
        decays.append(("train.ema's decay", phase.ema_decay, job.train.ema.decay, SHORT_BETA1))
    steps = {name: f"{1.0 / (1.0 - decay):.2g}" for name, decay, *_ in decays}
    return [
        f"{name} = {decay:.3g} averages over {steps[name]} step{'' if steps[name] == '1' else 's'}"
        for name, decay, given, least in decays
        if decay < least <= given
    ]


def _reference_constants(job: Job) -> dict[str, Any]:
    optimizer = job.reference.optimizer
    return {**OPTIMIZER_OPTIONS.get(optimizer.name, {}), **optimizer.options}


def _away(ratio: float) -> float:
    """How many times a ratio is away from 1, either way."""
    return max(ratio, 1.0 / ratio)
