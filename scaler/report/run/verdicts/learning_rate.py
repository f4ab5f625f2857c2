"""The learning rate: as planned or not, too high, warmed up too fast, or maybe too low."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from scaler.plan import Plan
from scaler.report.run.lr_audit import highest_peak
from scaler.report.run.model import LrAudit, Verdict
from scaler.report.run.verdicts.curve import BLOCKS, RARE, Curve, Jump, line
from scaler.report.run.verdicts.evidence import Evidence
from scaler.report.run.verdicts.loss import jump_words
from scaler.report.text.format import number, plural

HIGH_RATE = 0.5  # of the highest until then: a jump there is the rate's
TOP_RATE = 0.8  # of the highest: where the loss rises although it should fall, and where it must be back if it can live
FEWEST_JUMPS = 2  # at a high rate; a single one that came back says little
RISE_SHARE = 0.1  # of the whole fall: what the loss rises by at the highest rates
EARLY = 0.05  # of the training: what follows on the warmup's end, or on the start where there is none

LOW_SHARE = 0.2  # of the loss at the start: all that the training brought
STEADY = 0.8  # what the second half (of the summed rates) brought, over what the first did; in a straight line 1


def lr_differs(audit: LrAudit, plan: Plan, *, is_followed: bool) -> Verdict | None:
    """A fault of the recipe where the optimizer did not follow its loop; else of the loop, or of altered files."""
    if audit.as_planned is not False:
        return None
    error = audit.max_abs_error
    difference = "a rate that is no number" if error is None else f"largest difference {error:.3g}"
    return Verdict(
        code="lr_differs_from_plan",
        rank=None,
        message="The rate that the training planned is not the one that the job and the events give."
        if is_followed
        else "The optimizer did not use the planned learning rate.",
        evidence=f"{difference} at a peak of {highest_peak(plan):g}",
        next="See whether the run's job, plan.json or events.jsonl were altered; if not, it is a fault of scaler."
        if is_followed
        else "Look for code in the recipe that writes the optimizer's lr.",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class RateTrouble:
    """What the jumps of the loss say about the rate."""

    verdict: Verdict | None
    jumps: Sequence[Jump]  # that it does not explain


def rate_trouble(evidence: Evidence, curve: Curve, jumps: Sequence[Jump]) -> RateTrouble:
    """Return whether the rate is too high, or the warmup too short; at most one of them.

    A jump near the warmup's end that is back while the rate is still high shows that the rate can be lived with, and
    only its start was too abrupt. Jumps at a high rate that do not end there, or come again, show that it cannot.
    """
    high = [jump for jump in jumps if _is_high(curve, jump)]
    early = [jump for jump in high if _is_early(evidence.plan, curve, jump)]
    late = [jump for jump in high if jump not in early]
    lasting = [jump for jump in high if not _is_survived(curve, jump)]
    others = [jump for jump in jumps if jump not in high]
    if lasting or len(late) >= FEWEST_JUMPS:
        return RateTrouble(verdict=_too_high_by_jumps(curve, high), jumps=others)
    if early and evidence.plan.lr_ratio > 1.0:
        return RateTrouble(verdict=_warmup_too_short(evidence.plan, curve, early), jumps=[*late, *others])
    return RateTrouble(verdict=_too_high_by_trend(curve), jumps=jumps)


def _is_high(curve: Curve, jump: Jump) -> bool:
    """Whether the rate at a jump was near the highest one until then: in a climb that blows up, that is all of it."""
    return bool(curve.lr[jump.at] >= HIGH_RATE * curve.lr[: jump.at + 1].max())


def _is_early(plan: Plan, curve: Curve, jump: Jump) -> bool:
    """Whether a jump began in the warmup or within ``EARLY`` of the training after it."""
    return bool(curve.samples_seen[jump.at] <= plan.warmup_samples + EARLY * plan.total_samples)


def _is_survived(curve: Curve, jump: Jump) -> bool:
    """Whether the loss came back at a rate that was still near what it jumped at, and something was learned."""
    is_back = jump.back is not None and bool(curve.lr[jump.back] >= TOP_RATE * curve.lr[jump.at])
    return is_back and curve.ended_lower


def _too_high_by_jumps(curve: Curve, jumps: Sequence[Jump]) -> Verdict:
    is_near_top = all(curve.lr[jump.at] >= HIGH_RATE * curve.top_lr for jump in jumps)
    where = "near its highest rates" if is_near_top else "while the rate climbed"
    if not curve.ended_lower:
        end = ", and ended no lower than it began"
    else:
        end = ", and did not come back" if jumps[-1].back is None else ""
    return Verdict(
        code="lr_too_high",
        rank=None,
        message=f"The learning rate is probably too high: the loss jumped {plural(len(jumps), 'time')} {where}{end}.",
        evidence=jump_words(curve, sorted(jumps, key=lambda jump: jump.at)),
        next=_LOWER,
    )


def _too_high_by_trend(curve: Curve) -> Verdict | None:
    """The loss rises all along the steps at the highest rates."""
    if not curve.tells:
        return None
    top = np.flatnonzero(curve.lr >= TOP_RATE * curve.top_lr)
    first, last = int(top[0]), int(top[-1]) + 1
    if last - first < BLOCKS or len(top) < last - first:  # not one stretch, as with cycles
        return None
    trend = curve.trend(first, last)
    if trend.falls or trend.chance >= RARE or trend.change < RISE_SHARE * curve.scale:
        return None
    ends = curve.blocks(first, last)
    return Verdict(
        code="lr_too_high",
        rank=None,
        message="The learning rate is probably too high: the loss rose while the rate was at its highest.",
        evidence=f"from {number(float(ends[0]))} to {number(float(ends[-1]))} over {plural(last - first, 'step')} at "
        f"rates of {number(float(curve.lr[first:last].min()))} and more",
        next=_LOWER,
    )


_LOWER = "Lower reference.lr; scaler find-lr shows where the loss begins to rise. Or set train.clip_grad_norm."


def _warmup_too_short(plan: Plan, curve: Curve, jumps: Sequence[Jump]) -> Verdict:
    warmup = f"after a warmup of {plural(plan.warmup_samples, 'sample')}" if plan.warmup_samples else "without a warmup"
    return Verdict(
        code="warmup_too_short",
        rank=None,
        message=f"The warmup is probably too short: the loss jumped {warmup}, and came back at a rate as high.",
        evidence=f"{jump_words(curve, jumps)}; the peak rate is {number(plan.lr_ratio)} times the reference's",
        next="Lengthen schedule.warmup (twice as long, say), with start: base.",
    )


def lr_maybe_too_low(curve: Curve, jumps: Sequence[Jump]) -> Verdict | None:
    """The loss fell little, in a straight line over the summed rates to the end: what a rate far too low looks like.

    A training that is far too short at a good rate looks the same: it says maybe, and asks for a test.
    """
    if jumps or not (curve.is_whole and curve.tells) or curve.fall <= 0.0:
        return None
    summed = np.cumsum(curve.lr)
    bounds = np.searchsorted(summed, np.linspace(0.0, 1.0, BLOCKS + 1) * summed[-1]).tolist()
    if min(np.diff(bounds)) < 2:
        return None
    means = [curve.mean(first, last) for first, last in pairwise(bounds)]
    halves = means[: BLOCKS // 2], means[BLOCKS // 2 :]
    falls = [line(half) for half in halves]
    first, second = (-fall.change for fall in falls)
    is_little = curve.fall < LOW_SHARE * abs(curve.start)
    is_steady = first > 0.0 and second >= STEADY * first
    trend = line(means)
    is_sure = trend.falls and trend.chance < RARE and means[-1] == min(means)
    if not (is_little and is_steady and is_sure):
        return None
    return Verdict(
        code="lr_maybe_too_low",
        rank=None,
        message="The learning rate may be too low, or the training far too short: the loss fell little, and as steeply "
        "at the end as at the start.",
        evidence=f"from {number(curve.start)} to {number(means[-1])}; over the summed rates, the second half brought "
        f"{number(second / first, 2)} times the fall of the first",
        next="Try higher rates for a few steps: scaler find-lr. If it suggests no higher one, train for longer.",
    )
