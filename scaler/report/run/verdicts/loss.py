"""Verdicts on the loss: not finite, jumps, a plateau, still falling at the end, or overfitting."""

from collections.abc import Sequence
from statistics import median

import numpy as np

from scaler.metrics.events import Diverged
from scaler.report.run.model import Verdict, WorkerRow
from scaler.report.run.verdicts.curve import BLOCKS, FELL_SHARE, RARE, Curve, Jump
from scaler.report.run.verdicts.evidence import Evidence
from scaler.report.run.workers import in_last_epoch
from scaler.report.text.format import amount, joined, number, plural
from scaler.runs import RunState

PLATEAU_PART = 0.5  # of the steps, at the end: where a plateau is looked for
PLATEAU_SHARE = 0.02  # of the whole fall: a smaller fall is no progress
PLATEAU_LR = 0.1  # of the highest learning rate: below it, the loss is not expected to fall
SURE_OF_NONE = 2.306  # standard errors: a 95 % interval of the change, Student's t with 8 degrees of freedom
LIKELY = 0.01  # p-value below which a small fall is progress, and no plateau

FALLING_PART = 0.2  # of the steps, at the end: where a fall is looked for
FALLING_SHARE = 0.05  # of the whole fall: the least fall there; a straight line has 0.2

SHOWN_JUMPS = 3

EVALUATED_AFTER = 3  # evaluations after the best one, all of them worse
FEWEST_EVALUATIONS = 6
OVERFIT_SHARE = 0.1  # of the fall of the evaluation loss: the least by which the last evaluations are worse,
OVERFIT_NOISE = 3.0  # and more than so many times the noise between evaluations


def loss_not_finite(evidence: Evidence) -> list[Verdict]:
    """Return a verdict for each rank whose loss is not finite at the end, unless the guard stopped the run for it."""
    divergences = evidence.of_type(Diverged)
    if divergences and not divergences[-1].goes_back:
        return []
    without = _without_weight(evidence)
    rows = [row for row in evidence.workers if row.samples > 0 and row.rank not in without]
    return [_loss_not_finite(row) for row in rows if row.loss_mean is None]


def _without_weight(evidence: Evidence) -> set[int]:
    """Return the ranks whose loss had no weight in the last epoch, and so no mean."""
    arrays = evidence.arrays
    weights = arrays.cells["weight"][in_last_epoch(arrays.kept["samples_seen"], evidence.plan)]
    return set(arrays.ranks[~(weights != 0).any(axis=0)].tolist())


def _loss_not_finite(worker: WorkerRow) -> Verdict:
    trained = f"{worker.samples} samples" if worker.tokens is None else amount(worker.tokens, "tokens")
    return Verdict(
        code="loss_not_finite",
        rank=worker.rank,
        message=f"The loss of rank {worker.rank} is not a finite number at the end.",
        evidence=f"mean over its samples of the last epoch; {trained} in all epochs",
        next="Lower reference.lr, warm up longer, or set train.clip_grad_norm.",
    )


def jumps_text(curve: Curve, jumps: Sequence[Jump]) -> str:
    """Return the first few jumps as text: where, how far, and at which learning rate."""
    shown = []
    for jump in jumps[:SHOWN_JUMPS]:
        back = (
            f"back after {plural(jump.back - jump.at, 'step')}"
            if jump.back is not None
            else f"not back at the end ({number(curve.end_loss)})"
        )
        shown.append(
            f"at {plural(int(curve.samples_seen[jump.at]), 'sample')} from {number(jump.before)} to "
            f"{number(jump.height)}, {back}, at learning rate {number(float(curve.lr[jump.at]))}"
        )
    rest = [f"{len(jumps) - SHOWN_JUMPS} more"] if len(jumps) > SHOWN_JUMPS else []
    end = (
        []
        if curve.ended_lower
        else [f"{number(curve.start_loss)} at the start and {number(curve.end_loss)} at the end"]
    )
    return joined(*shown, *rest, *end)


def loss_spiked(curve: Curve, jumps: Sequence[Jump]) -> Verdict | None:
    """Return a verdict if the loss jumped, and no other verdict explains the jumps by the learning rate."""
    if not jumps:
        return None
    is_back = jumps[-1].back is not None
    times = f"{len(jumps)} time{'s' if len(jumps) > 1 else ''}"
    return Verdict(
        code="loss_spiked",
        rank=None,
        message=f"The loss jumped {times}, and came back."
        if is_back
        else f"The loss jumped {times}, and had not come back at the end.",
        evidence=jumps_text(curve, jumps),
        next="Set train.clip_grad_norm, or lower reference.lr. If the jump is at the same samples with another "
        "train.seed, look at the data there.",
    )


def loss_plateaued(evidence: Evidence, curve: Curve, trouble: Verdict | None) -> Verdict | None:
    """Return a verdict if the loss hardly fell, or did not fall in the last half of the steps at a high learning rate.

    If ``trouble``, a verdict on the learning rate, is given, a loss that hardly fell is not reported a second time.
    """
    if evidence.state is not RunState.SUCCEEDED or not (curve.is_whole and curve.has_enough_steps):
        return None
    half = curve.steps - int(PLATEAU_PART * curve.steps)
    trend, last = curve.trend(half, curve.steps), curve.mean(half, curve.steps)
    most = -trend.change + SURE_OF_NONE * trend.error  # the largest fall within the interval
    error = float(np.hypot(curve.error(0, curve.start_steps), curve.error(half, curve.steps)))
    fell, noise = curve.start_loss - last, SURE_OF_NONE * error
    if fell > max(noise, FELL_SHARE * abs(curve.start_loss)):
        mean_lr = float(curve.lr[half:].mean())
        is_progress = most >= PLATEAU_SHARE * fell or (trend.falls and trend.chance < LIKELY)
        return None if is_progress or mean_lr < PLATEAU_LR * curve.top_lr else _no_progress(curve, last, mean_lr)
    if trouble is not None or max(fell + noise, most) >= FELL_SHARE * abs(curve.start_loss):
        return None  # too noisy to be sure, or the loss falls at the end
    return _hardly_fell(curve, last, by_chance=fell <= noise)


def _no_progress(curve: Curve, last: float, lr: float) -> Verdict:
    return Verdict(
        code="loss_plateaued",
        rank=None,
        message=f"The loss made no progress over the last {PLATEAU_PART:.0%} of the steps, at a learning rate that was "
        "not low.",
        evidence=f"from {number(curve.start_loss)} at the start to {number(last)} over the last {PLATEAU_PART:.0%} of "
        f"the steps, at a mean learning rate of {number(lr)}",
        next="Let the learning rate fall there (schedule.name: cosine, or schedule.plateau), try a lower "
        "reference.lr, or train for fewer epochs.",
    )


def _hardly_fell(curve: Curve, last: float, *, by_chance: bool) -> Verdict:
    return Verdict(
        code="loss_plateaued",
        rank=None,
        message="The loss did not fall." if by_chance else "The loss hardly fell.",
        evidence=f"from {number(curve.start_loss)} at the start to {number(last)} over the last {PLATEAU_PART:.0%} of "
        f"the steps, at learning rates of up to {number(curve.top_lr)}",
        next="Try other learning rates: scaler find-lr. If none is better, see whether the loss depends on the "
        "trained parameters (frozen groups, labels, the recipe's loss), or was at its minimum from the start.",
    )


def loss_still_falling(evidence: Evidence, curve: Curve, others: Sequence[Verdict | None]) -> Verdict | None:
    """Return a verdict if the loss was still falling at the end; None if ``others`` has a verdict that explains it."""
    if evidence.state is not RunState.SUCCEEDED or not (curve.is_whole and curve.has_enough_steps) or any(others):
        return None
    start, last_half = (curve.steps - int(part * curve.steps) for part in (FALLING_PART, FALLING_PART / 2))
    trend, end = curve.trend(start, curve.steps), curve.blocks(last_half, curve.steps, BLOCKS // 2)
    share = -trend.change / curve.fall if curve.fall > 0.0 else 0.0
    if not FALLING_SHARE <= share <= 1.0 or trend.chance >= RARE or end[-1] >= min(end[0], curve.start_loss):
        return None
    first_lr, last_lr = float(curve.lr[start]), float(curve.lr[-1])
    return Verdict(
        code="loss_still_falling",
        rank=None,
        message="The loss was still falling at the end: more training would probably lower it further.",
        evidence=f"in the last {FALLING_PART:.0%} of the steps it fell by {share:.0%} of its whole fall, to "
        f"{number(float(end[-1]))}, while the learning rate went from {number(first_lr)} to {number(last_lr)}",
        next="Train for longer: raise train.epochs (or train.steps, train.samples); the schedule becomes longer, too.",
    )


def overfitting(evidence: Evidence, curve: Curve) -> Verdict | None:
    """Return a verdict if the evaluation loss rises since its best value while the training loss falls."""
    evaluations = [(event.samples_seen, event.values.get("loss")) for event in evidence.evaluations]
    known = [(at, value) for at, value in evaluations if value is not None]
    values = [value for _, value in known]
    if len(values) < FEWEST_EVALUATIONS or not curve.steps:
        return None
    best = int(np.argmin(values))
    after = values[best + 1 :]
    if len(after) < EVALUATED_AFTER:
        return None
    worse = min(after[-EVALUATED_AFTER:]) - values[best]
    # How far the middle of three evaluations is off the line through the others: its variance is 1.5 times that of one.
    bends = [abs(b - (a + c) / 2) for a, b, c in zip(values, values[1:], values[2:], strict=False)]
    noise = 1.4826 * median(bends) / 1.5**0.5
    if worse < OVERFIT_SHARE * (values[0] - values[best]) or worse <= OVERFIT_NOISE * noise:
        return None
    since = int(np.searchsorted(curve.samples_seen, known[best][0]))
    if curve.steps - since < BLOCKS or not _fell(curve, since):
        return None
    return Verdict(
        code="overfitting",
        rank=None,
        message="The loss on the evaluation data rises while the training loss falls: the model overfits.",
        evidence=f"evaluation loss {number(values[best])} at {plural(known[best][0], 'sample')}, and "
        f"{number(values[-1])} at {plural(known[-1][0], 'sample')}; the training loss fell meanwhile",
        next="Keep the best checkpoint instead of the last, train for fewer epochs, or regularise: weight decay, "
        "augmentation, dropout.",
    )


def _fell(curve: Curve, since: int) -> bool:
    """Whether the training loss fell significantly from step ``since`` to the end."""
    trend = curve.trend(since, curve.steps)
    return trend.falls and trend.chance < RARE
