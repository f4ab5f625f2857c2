"""Verdicts on the learning rate: not as planned, too high, warmed up too fast, or maybe too low."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from scaler.core.unit import unit_with
from scaler.plan import Plan
from scaler.report.run.lr_audit import highest_peak
from scaler.report.run.model import LrAudit, Verdict
from scaler.report.run.verdicts.curve import BLOCKS, RARE, Curve, Jump, line
from scaler.report.run.verdicts.evidence import Evidence
from scaler.report.run.verdicts.loss import jumps_text
from scaler.report.text.format import number, plural

HIGH_LR = 0.5  # of the highest learning rate so far: from there on, a jump is blamed on the learning rate
TOP_LR = 0.8  # of the highest: where a steady rise counts; and of the lr at a jump: where the loss must be back
FEWEST_JUMPS = 2  # at a high learning rate; a single jump that came back says little
RISE_SHARE = 0.1  # of the whole fall: the least steady rise at the highest learning rates
EARLY = 0.05  # of the training: how long after the warmup's end a jump is still blamed on the warmup

LOW_SHARE = 0.2  # of the loss at the start: the most that the loss fell by
STEADY = 0.8  # of the first half's fall: the least fall in the second half (of the summed learning rates); a line has 1


def lr_differs_from_plan(audit: LrAudit, plan: Plan, *, is_followed: bool) -> Verdict | None:
    """Return a verdict if a learning rate was not the planned one.

    If the optimizer did not use what its loop planned, the recipe is at fault; else the loop, or altered files.
    """
    if audit.as_planned is not False:
        return None
    error = audit.max_abs_error
    difference = "a learning rate that is not finite" if error is None else f"largest difference {error:.3g}"
    return Verdict(
        code="lr_differs_from_plan",
        rank=None,
        message="The learning rate that the training planned is not the one that the job and the events give."
        if is_followed
        else "The optimizer did not use the planned learning rate.",
        evidence=f"{difference} at a peak of {highest_peak(plan):g}",
        next="See whether the run's job, plan.json or events.jsonl were altered; if not, this is a bug in scaler."
        if is_followed
        else "Look for code in the recipe that writes the optimizer's lr.",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class LrTrouble:
    """What the jumps of the loss say about the learning rate."""

    verdict: Verdict | None
    jumps: Sequence[Jump]  # those that the verdict does not explain


def lr_trouble(evidence: Evidence, curve: Curve, jumps: Sequence[Jump]) -> LrTrouble:
    """Return ``lr_too_high``, ``warmup_too_short`` or no verdict, and the jumps that it does not explain.

    If the loss jumps near the warmup's end and comes back while the learning rate is still high, the training tolerates
    that learning rate: only the warmup was too short. If the loss does not come back there, or jumps again, the peak is
    too high.
    """
    high = [jump for jump in jumps if _is_high(curve, jump)]
    early = [jump for jump in high if _is_early(evidence.plan, curve, jump)]
    late = [jump for jump in high if jump not in early]
    lasting = [jump for jump in high if not _is_tolerated(curve, jump)]
    others = [jump for jump in jumps if jump not in high]
    if lasting or len(late) >= FEWEST_JUMPS:
        return LrTrouble(verdict=_too_high_by_jumps(curve, high), jumps=others)
    if early and evidence.plan.lr_ratio > 1.0:
        return LrTrouble(verdict=_warmup_too_short(evidence.plan, curve, early), jumps=[*late, *others])
    return LrTrouble(verdict=_too_high_by_trend(curve), jumps=jumps)


def _is_high(curve: Curve, jump: Jump) -> bool:
    """Whether the learning rate at a jump was near the highest so far, as it is in all of a warmup."""
    return bool(curve.lr[jump.at] >= HIGH_LR * curve.lr[: jump.at + 1].max())


def _is_early(plan: Plan, curve: Curve, jump: Jump) -> bool:
    """Whether a jump began in the warmup, or within ``EARLY`` of the training after it."""
    return bool(curve.samples_seen[jump.at] <= plan.warmup_samples + EARLY * plan.total_samples)


def _is_tolerated(curve: Curve, jump: Jump) -> bool:
    """Whether the loss came back at nearly the learning rate at which it jumped, and ended lower than it began."""
    is_back = jump.back is not None and bool(curve.lr[jump.back] >= TOP_LR * curve.lr[jump.at])
    return is_back and curve.ended_lower


def _too_high_by_jumps(curve: Curve, jumps: Sequence[Jump]) -> Verdict:
    is_near_top = all(curve.lr[jump.at] >= HIGH_LR * curve.top_lr for jump in jumps)
    where = "at high learning rates" if is_near_top else "while the learning rate rose"
    if not curve.ended_lower:
        end = ", and ended no lower than it began"
    else:
        end = ", and did not come back" if jumps[-1].back is None else ""
    return Verdict(
        code="lr_too_high",
        rank=None,
        message=f"The learning rate is probably too high: the loss jumped {plural(len(jumps), 'time')} {where}{end}.",
        evidence=jumps_text(curve, sorted(jumps, key=lambda jump: jump.at)),
        next=_LOWER,
    )


def _too_high_by_trend(curve: Curve) -> Verdict | None:
    """Return ``lr_too_high`` if the loss rose over all steps at the highest learning rates."""
    if not curve.has_enough_steps:
        return None
    top = np.flatnonzero(curve.lr >= TOP_LR * curve.top_lr)
    first, last = int(top[0]), int(top[-1]) + 1
    if last - first < BLOCKS or len(top) < last - first:  # several stretches of steps, as with cycles
        return None
    trend = curve.trend(first, last)
    if trend.falls or trend.chance >= RARE or trend.change < RISE_SHARE * curve.scale:
        return None
    ends = curve.blocks(first, last)
    return Verdict(
        code="lr_too_high",
        rank=None,
        message="The learning rate is probably too high: the loss rose at the highest learning rates.",
        evidence=f"from {number(float(ends[0]))} to {number(float(ends[-1]))} over {plural(last - first, 'step')} at "
        f"learning rates of {number(float(curve.lr[first:last].min()))} and more",
        next=_LOWER,
    )


_LOWER = "Lower reference.lr; scaler find-lr shows where the loss begins to rise. Or set train.clip_grad_norm."


def _warmup_too_short(plan: Plan, curve: Curve, jumps: Sequence[Jump]) -> Verdict:
    length = unit_with(plan.tokens_per_sample).plural(plan.warmup_samples)  # it counts samples of the first length
    warmup = f"after a warmup of {length}" if plan.warmup_samples else "without a warmup"
    return Verdict(
        code="warmup_too_short",
        rank=None,
        message=f"The warmup is probably too short: the loss jumped {warmup}, and came back at the same learning rate.",
        evidence=f"{jumps_text(curve, jumps)}; the peak learning rate is {number(plan.lr_ratio)} times the reference's",
        next="Make schedule.warmup longer, for example twice as long, with start: base.",
    )


def lr_maybe_too_low(curve: Curve, jumps: Sequence[Jump]) -> Verdict | None:
    """Return a verdict if the loss fell little, and steadily to the end over the summed learning rates.

    A training at a good learning rate that is far too short looks the same. So the verdict says "may", and asks for a
    test.
    """
    if jumps or not (curve.is_whole and curve.has_enough_steps) or curve.fall <= 0.0:
        return None
    summed = np.cumsum(curve.lr)
    bounds = np.searchsorted(summed, np.linspace(0.0, 1.0, BLOCKS + 1) * summed[-1]).tolist()
    if min(np.diff(bounds)) < 2:
        return None
    means = [curve.mean(first, last) for first, last in pairwise(bounds)]
    halves = means[: BLOCKS // 2], means[BLOCKS // 2 :]
    falls = [line(half) for half in halves]
    first, second = (-fall.change for fall in falls)
    is_little = curve.fall < LOW_SHARE * abs(curve.start_loss)
    is_steady = first > 0.0 and second >= STEADY * first
    trend = line(means)
    is_sure = trend.falls and trend.chance < RARE and means[-1] == min(means)
    if not (is_little and is_steady and is_sure):
        return None
    return Verdict(
        code="lr_maybe_too_low",
        rank=None,
        message="The learning rate may be too low, or the training far too short: the loss fell little, and as fast at "
        "the end as at the start.",
        evidence=f"from {number(curve.start_loss)} to {number(means[-1])}; over the second half of the summed lr it "
        f"fell {number(second / first, 2)} times as much as over the first",
        next="Try higher learning rates for a few steps: scaler find-lr. If it suggests none, train for longer.",
    )
