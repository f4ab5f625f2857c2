"""The learning-rate range test: what a run with a rising rate says of the rates that work.

Smith 2017, https://arxiv.org/abs/1506.01186, section 3.3: let the rate climb from one that does nothing to one that
destroys, and look at where the loss falls. Rates are judged on their logarithm, where a climb is even.

It is a heuristic. A test is a short training of its own: with more steps it has learned more by the time it reaches a
rate, so the fall, and what is suggested, lie lower (docs/decisions/0015 has what was measured).
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf, isfinite, log
from statistics import median

from scaler.errors import RunError, TrainingError

DIVERGED = 4.0  # times the least loss so far: where fastai's finder stops
FEWEST_STEPS = 10
MEMORY = 20  # a share of the test: what the average remembers, and what a slope is taken over on either side
CLEAR = 3.0  # times the median change from one step to the next: what a fall must be above


@dataclass(frozen=True, kw_only=True, slots=True)
class RangeTest:
    """What the curve suggests. A suggestion is None where the curve does not have the place it is read from."""

    smoothed: tuple[tuple[float, float], ...]  # rate and loss, as far as the loss is finite
    diverged_at: float | None  # the rate of the first step whose smoothed loss is not finite, or far above its least
    steepest: float | None  # where the loss falls fastest against log(lr)
    valley: float | None  # where half of the longest fall is done
    tenth_of_divergence: float | None


def judge_range(lrs: Sequence[float], losses: Sequence[float]) -> RangeTest:
    """Return what a range test suggests.

    Losses are smoothed by an average that forgets in a twentieth of the test, corrected for its start; so are the
    logarithms of the rates, for an average of losses stands at the average of their rates. Then

        diverged_at          the first rate at which the loss is ``DIVERGED`` times its least before, or not finite
        steepest             the rate before that with the least slope d loss / d log(lr), over a tenth of the test
        valley               the rate at which half of the longest fall (its longest falling subsequence) is done
        tenth_of_divergence  diverged_at / 10

    A fall that is not ``CLEAR`` times the noise of a step has neither steepest nor valley. Losses that reach 0 or less
    diverge only by not being finite.

    Args:
        lrs: the rate of each step, rising, > 0.
        losses: the loss of each step, mean over all workers, of the weights before it.

    Raises:
        RunError: fewer than ``FEWEST_STEPS`` steps.
        TrainingError: the first loss is not finite: no rate has been used yet.

    Sources:
        Smith 2017, https://arxiv.org/abs/1506.01186. The names are fastai's (``lr_find``), with these differences: its
        average does not move the rates along, so that what it reads lies later by what the average remembers; its
        steepest slope is one step's; its valley is the middle step of the longest fall, which begins wherever the test
        does: with a lower ``lrs[0]`` it suggests less.

    Example:
        >>> lrs = [10 ** (k / 10 - 4) for k in range(50)]
        >>> losses = [2.0 if lr < 1e-3 else 0.5 if lr < 1.0 else 9.0 for lr in lrs]
        >>> found = judge_range(lrs, losses)
        >>> [round(rate, 4) for rate in (found.steepest, found.valley, found.diverged_at)]
        [0.0009, 0.0009, 1.0]
    """
    if len(lrs) < FEWEST_STEPS:
        raise RunError(f"the range test has {len(lrs)} steps.", f"It takes at least {FEWEST_STEPS}.")
    finite = next((step for step, loss in enumerate(losses) if not isfinite(loss)), len(losses))
    if finite == 0:
        raise TrainingError(
            f"the loss of the first step is {losses[0]}, before any rate was used.",
            "Look at the recipe's loss and data; a rate cannot help.",
        )
    logs, smoothed = _smoothed(lrs[:finite], losses[:finite])
    end = _divergence(smoothed)
    diverged_at = lrs[end] if end < len(lrs) else None
    steepest = valley = None
    start, stop = _longest_fall(smoothed[:end])
    if smoothed[start] - smoothed[stop] > CLEAR * _noise(losses[:end]):
        half = (smoothed[start] + smoothed[stop]) / 2.0
        valley = exp(logs[next(step for step in range(start, stop + 1) if smoothed[step] <= half)])
        steepest = _steepest(logs[:end], smoothed[:end], reach=max(1, len(lrs) // MEMORY))
    return RangeTest(
        smoothed=tuple((exp(at), loss) for at, loss in zip(logs, smoothed, strict=True)),
        diverged_at=diverged_at,
        steepest=steepest,
        valley=valley,
        tenth_of_divergence=diverged_at / 10.0 if diverged_at is not None else None,
    )


def _smoothed(lrs: Sequence[float], losses: Sequence[float]) -> tuple[list[float], list[float]]:
    """Exponential averages of log(lr) and of the loss, corrected for their start."""
    keep = 1.0 - 1.0 / max(len(lrs) / MEMORY, 1.0)
    log_average = loss_average = 0.0
    logs, smoothed = [], []
    for step, (lr, loss) in enumerate(zip(lrs, losses, strict=True), start=1):
        log_average = keep * log_average + (1.0 - keep) * log(lr)
        loss_average = keep * loss_average + (1.0 - keep) * loss
        weight = 1.0 - keep**step
        logs.append(log_average / weight)
        smoothed.append(loss_average / weight)
    return logs, smoothed


def _divergence(losses: Sequence[float]) -> int:
    """The first step that is ``DIVERGED`` times the least before; the number of steps when none is."""
    least = inf
    for step, loss in enumerate(losses):
        if loss > DIVERGED * least and least > 0:
            return step
        least = min(least, loss)
    return len(losses)


def _noise(losses: Sequence[float]) -> float:
    """How much the loss changes from one step to the next, whatever the rate: the median."""
    return median(abs(after - before) for before, after in zip(losses, losses[1:], strict=False)) if losses[1:] else 0.0


def _longest_fall(losses: Sequence[float]) -> tuple[int, int]:
    """The first and the last step of the longest strictly falling subsequence (patience sorting)."""
    heights: list[float] = []  # for each length, the greatest loss that such a subsequence can end with, negated
    ends: list[int] = []
    before = [-1] * len(losses)
    for step, loss in enumerate(losses):
        place = bisect_left(heights, -loss)
        before[step] = ends[place - 1] if place else -1
        heights[place : place + 1] = [-loss]
        ends[place : place + 1] = [step]
    start = ends[-1]
    while before[start] >= 0:
        start = before[start]
    return start, ends[-1]


def _steepest(logs: Sequence[float], losses: Sequence[float], *, reach: int) -> float | None:
    """The rate of the least slope, taken from ``reach`` steps before to ``reach`` after; None: there is no room."""
    slopes = [
        ((losses[step + reach] - losses[step - reach]) / (logs[step + reach] - logs[step - reach]), logs[step])
        for step in range(reach, len(losses) - reach)
    ]
    return exp(min(slopes)[1]) if slopes and min(slopes)[0] < 0 else None
