"""What the loss did: jumped, stood still, was still falling, or fell in training only."""

from collections.abc import Sequence
from statistics import median

import numpy as np

from scaler.metrics.events import Diverged
from scaler.report.run.model import Verdict, WorkerRow
from scaler.report.run.verdicts.curve import BLOCKS, FELL_SHARE, RARE, Curve, Jump
from scaler.report.run.verdicts.evidence import Evidence
from scaler.report.run.workers import in_last_epoch
from scaler.report.text.format import joined, number, plural
from scaler.runs import RunState

PLATEAU_PART = 0.5  # the last part of the steps: what a plateau is looked for in
PLATEAU_SHARE = 0.02  # of the whole fall: less than that, for sure, is no progress
PLATEAU_RATE = 0.1  # of the highest rate: below it, the loss is meant to come to rest
SURE_OF_NONE = 2.306  # standard errors: the upper end of a 95 % interval of the change, Student's t with 8 degrees
LIKELY = 0.01  # a fall less likely by chance than this is some progress, and no plateau

FALLING_PART = 0.2  # the last part of the steps: what a fall at the end is looked for in
FALLING_SHARE = 0.05  # of the whole fall; a fall in a straight line to the end would have 0.2 there

SHOWN_JUMPS = 3

EVALUATED_AFTER = 3  # evaluations in a row after the best one that are all worse
FEWEST_EVALUATIONS = 6
OVERFIT_SHARE = 0.1  # of what the evaluations' loss fell: how much worse the last ones are
OVERFIT_NOISE = 3.0  # and how many times the noise from one evaluation to the next


def no_loss(evidence: Evidence) -> list[Verdict]:
    """The loss of a rank is not a number at the end; where that stopped the run, it is said already."""
    divergences = evidence.of_type(Diverged)
    if divergences and not divergences[-1].goes_back:
        return []
    without = _without_weight(evidence)
    rows = [row for row in evidence.workers if row.samples > 0 and row.rank not in without]
    return [_no_loss(row) for row in rows if row.loss_mean is None]


def _without_weight(evidence: Evidence) -> set[int]:
    """The ranks that have no share in the loss of the last epoch: they have no loss that could be a number."""
    arrays = evidence.arrays
    weights = arrays.cells["weight"][in_last_epoch(arrays.kept["samples_seen"], evidence.plan)]
    return set(arrays.ranks[~(weights != 0).any(axis=0)].tolist())


def _no_loss(worker: WorkerRow) -> Verdict:
    return Verdict(
        code="loss_not_finite",
        rank=worker.rank,
        message=f"The loss of rank {worker.rank} is not a finite number at the end.",
        evidence=f"over its samples of the last epoch, of {worker.samples} in all",
        next="Lower reference.lr, warm up longer, or set train.clip_grad_norm.",
    )


def jump_words(curve: Curve, jumps: Sequence[Jump]) -> str:
    """Return where the loss jumped, how far, and at what rate, the first few."""
    said = []
    for jump in jumps[:SHOWN_JUMPS]:
        back = (
            f"back after {plural(jump.back - jump.at, 'step')}"
            if jump.back is not None
            else f"not back at the end ({number(curve.end)})"
        )
        said.append(
            f"at {plural(int(curve.samples_seen[jump.at]), 'sample')} from {number(jump.before)} to "
            f"{number(jump.height)}, {back}, at a rate of {number(float(curve.lr[jump.at]))}"
        )
    rest = [f"{len(jumps) - SHOWN_JUMPS} more"] if len(jumps) > SHOWN_JUMPS else []
    end = [] if curve.ended_lower else [f"{number(curve.start)} at the start and {number(curve.end)} at the end"]
    return joined(*said, *rest, *end)


def spiked(curve: Curve, jumps: Sequence[Jump]) -> Verdict | None:
    """The loss jumped, and the rate is not to blame as far as is known."""
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
        evidence=jump_words(curve, jumps),
        next="Set train.clip_grad_norm, or lower reference.lr. If it comes back at the same samples with another "
        "train.seed, look at the data there.",
    )


def plateaued(evidence: Evidence, curve: Curve, trouble: Verdict | None) -> Verdict | None:
    """The loss hardly fell at all; or the last half of the steps brought nothing, at a rate that should bring some.

    That it hardly fell is left to ``trouble`` with the rate, where there is any.
    """
    if evidence.state is not RunState.SUCCEEDED or not (curve.is_whole and curve.tells):
        return None
    half = curve.steps - int(PLATEAU_PART * curve.steps)
    trend, last = curve.trend(half, curve.steps), curve.mean(half, curve.steps)
    most = -trend.change + SURE_OF_NONE * trend.error  # the largest fall that the losses allow
    error = float(np.hypot(curve.error(0, curve.start_steps), curve.error(half, curve.steps)))
    fell, noise = curve.start - last, SURE_OF_NONE * error
    if fell > max(noise, FELL_SHARE * abs(curve.start)):
        rate = float(curve.lr[half:].mean())
        is_progress = most >= PLATEAU_SHARE * fell or (trend.falls and trend.chance < LIKELY)
        return None if is_progress or rate < PLATEAU_RATE * curve.top_lr else _stood_still(curve, last, rate)
    if trouble is not None or max(fell + noise, most) >= FELL_SHARE * abs(curve.start):
        return None  # too noisy to say that it hardly fell, or falling at last
    return _hardly_fell(curve, last, by_chance=fell <= noise)


def _stood_still(curve: Curve, last: float, rate: float) -> Verdict:
    return Verdict(
        code="loss_plateaued",
        rank=None,
        message=f"The loss made no progress over the last {PLATEAU_PART:.0%} of the steps, although the rate was not "
        "low.",
        evidence=f"from {number(curve.start)} at the start to {number(last)} over the last {PLATEAU_PART:.0%} of the "
        f"steps, at a mean rate there of {number(rate)}",
        next="Let the rate fall there (schedule.name: cosine, or schedule.plateau), try a lower reference.lr, or train "
        "for less.",
    )


def _hardly_fell(curve: Curve, last: float, *, by_chance: bool) -> Verdict:
    return Verdict(
        code="loss_plateaued",
        rank=None,
        message="The loss did not fall." if by_chance else "The loss hardly fell.",
        evidence=f"from {number(curve.start)} at the start to {number(last)} over the last {PLATEAU_PART:.0%} of the "
        f"steps, at rates of up to {number(curve.top_lr)}",
        next="Try rates: scaler find-lr. If none does better, see whether the loss depends on the parameters that are "
        "trained (frozen groups, labels, the recipe's loss), or began where it can fall no further.",
    )


def still_falling(evidence: Evidence, curve: Curve, others: Sequence[Verdict | None]) -> Verdict | None:
    """The loss was falling to the end, by an amount that counts, and below where it began; silent beside ``others``."""
    if evidence.state is not RunState.SUCCEEDED or not (curve.is_whole and curve.tells) or any(others):
        return None
    start, last_half = (curve.steps - int(part * curve.steps) for part in (FALLING_PART, FALLING_PART / 2))
    trend, end = curve.trend(start, curve.steps), curve.blocks(last_half, curve.steps, BLOCKS // 2)
    share = -trend.change / curve.fall if curve.fall > 0.0 else 0.0
    if not FALLING_SHARE <= share <= 1.0 or trend.chance >= RARE or end[-1] >= min(end[0], curve.start):
        return None
    rates = curve.lr[start], curve.lr[-1]
    return Verdict(
        code="loss_still_falling",
        rank=None,
        message="The loss was still falling at the end: more training would probably lower it further.",
        evidence=f"the last {FALLING_PART:.0%} of the steps brought {share:.0%} of its whole fall, to "
        f"{number(float(end[-1]))}, while the rate went from {number(float(rates[0]))} to {number(float(rates[1]))}",
        next="Train for longer: raise train.epochs (or steps, samples); the schedule is stretched with it.",
    )


def overfitting(evidence: Evidence, curve: Curve) -> Verdict | None:
    """The evaluations' loss rises since its best, while the training's falls."""
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
    # Of three evaluations in a row, what the middle one is off the line: its variance is 3/2 of one's.
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
        evidence=f"evaluated {number(values[best])} at {plural(known[best][0], 'sample')} and {number(values[-1])} at "
        f"{plural(known[-1][0], 'sample')}; the training loss fell from there on",
        next="Keep the best checkpoint instead of the last, train for less, or regularise: weight decay, augmentation, "
        "dropout.",
    )


def _fell(curve: Curve, since: int) -> bool:
    """Whether the training loss fell from a step to the end, beyond chance."""
    trend = curve.trend(since, curve.steps)
    return trend.falls and trend.chance < RARE
