"""The learning-rate range test: learning rates suggested by a run whose learning rate climbs.

Smith 2017, https://arxiv.org/abs/1506.01186, section 3.3: let the learning rate climb from one that is too low to train
to one that diverges, and look at where the loss falls. Slopes are against log(lr).

It is a heuristic. A test is a short training: with more steps, the model has learned more when a learning rate is
reached, so the fall of the loss, and the suggestions, are at lower learning rates.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import inf, isfinite, log
from statistics import median

from scaler.errors import RunError, TrainingError

DIVERGED = 4.0  # times the lowest loss so far: the bound of fastai's finder
FEWEST_STEPS = 10
MEMORY = 20  # 1/20 of the test: memory of the average that detects divergence, and reach of a slope on either side
SMOOTH = 40  # 1/40 of the test: memory of the smoothed loss on either side
CLEAR = 3.0  # times the median change between steps: a fall must be larger


@dataclass(frozen=True, kw_only=True, slots=True)
class RangeTest:
    """Learning rates that a range test suggests; None where the loss does not have the feature."""

    smoothed: tuple[float, ...]  # loss of each step, up to the first that is not finite
    diverged_at: float | None  # the first learning rate with a loss that is not finite, or far above its lowest
    steepest: float | None  # where the loss falls fastest against log(lr)
    valley: float | None  # in the middle of the longest fall
    tenth_of_divergence: float | None


def judge_range(lrs: Sequence[float], losses: Sequence[float]) -> RangeTest:
    """Return the learning rates that a range test suggests.

        diverged_at          the first learning rate at which a loss is not finite, or an exponential average of the
                             losses so far (memory: 1/20 of the test) is ``DIVERGED`` times its lowest value
        steepest             the learning rate with the most negative slope of the lowest loss so far, against log(lr)
        valley               the learning rate at which half of the longest fall (of the longest falling subsequence of
                             losses) is done
        tenth_of_divergence  diverged_at / 10

    Steepest and valley use the losses up to the lowest value of that average, smoothed over both sides, because an
    average of the past would be late. Steepest uses the lowest loss so far, because the recovery from a spike is not a
    fall. If the fall is not ``CLEAR`` times the noise of a step, both are None. If the lowest
    average is 0 or less, only a loss that is not finite counts as diverged.

    Args:
        lrs: the learning rate of each step, rising, > 0.
        losses: the loss of each step, before its update, mean over all workers.

    Raises:
        RunError: fewer than ``FEWEST_STEPS`` steps.
        TrainingError: the first loss is not finite, before any learning rate was used.

    Sources:
        Smith 2017, https://arxiv.org/abs/1506.01186. The names and the bound of divergence are fastai's (``lr_find``),
        with these differences: fastai uses an average of the past for everything, which is late; its steepest slope is
        over one step; its valley is the middle step of the longest fall, so that a lower ``lrs[0]`` lowers it.

    Example:
        >>> lrs = [10 ** (step / 20 - 4) for step in range(100)]
        >>> losses = [2.0 - 1.0 / (1.0 + 0.01 / lr) if lr < 1.0 else 9.0 for lr in lrs]  # half-way down at 0.01
        >>> found = judge_range(lrs, losses)
        >>> [round(lr, 3) for lr in (found.steepest, found.valley, found.diverged_at)]
        [0.01, 0.01, 1.259]
    """
    if len(lrs) < FEWEST_STEPS:
        raise RunError(f"the range test has {len(lrs)} steps.", f"It takes at least {FEWEST_STEPS}.")
    finite = next((step for step, loss in enumerate(losses) if not isfinite(loss)), len(losses))
    if finite == 0:
        raise TrainingError(
            f"the loss of the first step is {losses[0]}, before any learning rate was used.",
            "Check the recipe's loss and data; the learning rate is not the cause.",
        )
    trail = _trail(losses[:finite], steps=len(lrs))
    end = _divergence(trail)
    turn = 1 + trail.index(min(trail[:end]))
    fall, rest = _smoothed(losses[:turn], steps=len(lrs)), _smoothed(losses[turn:finite], steps=len(lrs))
    steepest = valley = None
    start, stop = _longest_fall(fall)
    if fall[start] - fall[stop] > CLEAR * _noise(losses[:turn]):
        half = (fall[start] + fall[stop]) / 2.0
        valley = lrs[next(step for step in range(start, stop + 1) if fall[step] <= half)]
        steepest = _steepest(lrs, list(accumulate(fall, min)), reach=max(2, len(lrs) // MEMORY))
    diverged_at = lrs[end] if end < len(lrs) else None
    return RangeTest(
        smoothed=(*fall, *rest),
        diverged_at=diverged_at,
        steepest=steepest,
        valley=valley,
        tenth_of_divergence=diverged_at / 10.0 if diverged_at is not None else None,
    )


def _trail(losses: Sequence[float], *, steps: int) -> list[float]:
    """Return an exponential average of the losses so far, corrected for its start."""
    keep = 1.0 - 1.0 / max(steps / MEMORY, 1.0)
    average, found = 0.0, []
    for step, loss in enumerate(losses, start=1):
        average = keep * average + (1.0 - keep) * loss
        found.append(average / (1.0 - keep**step))
    return found


def _divergence(losses: Sequence[float]) -> int:
    """Return the first step that is above ``DIVERGED`` times the lowest before it; without one, the number of steps."""
    least = inf
    for step, loss in enumerate(losses):
        if loss > DIVERGED * least and least > 0:
            return step
        least = min(least, loss)
    return len(losses)


def _smoothed(losses: Sequence[float], *, steps: int) -> list[float]:
    """Return an average whose weights fall off exponentially on both sides."""
    keep = 1.0 - 1.0 / max(steps / SMOOTH, 2.0)

    def sums(values: Sequence[float]) -> list[float]:
        return list(accumulate(values, lambda total, value: keep * total + value))

    before, after = sums(losses), sums(losses[::-1])[::-1]
    weights = sums([1.0] * len(losses))
    return [
        (past + coming - loss) / (weight + opposite - 1.0)
        for past, coming, loss, weight, opposite in zip(before, after, losses, weights, weights[::-1], strict=True)
    ]


def _noise(losses: Sequence[float]) -> float:
    """Return the median change of the loss from one step to the next."""
    return median(abs(after - before) for before, after in pairwise(losses)) if losses[1:] else 0.0


def _longest_fall(losses: Sequence[float]) -> tuple[int, int]:
    """Return the first and the last step of the longest strictly falling subsequence (patience sorting)."""
    heights: list[float] = []  # for each length, the largest loss that such a subsequence can end with, negated
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


def _steepest(lrs: Sequence[float], losses: Sequence[float], *, reach: int) -> float | None:
    """Return the learning rate of the most negative slope, over ``reach`` steps on both sides, or None."""
    slopes = [
        ((losses[step + reach] - losses[step - reach]) / log(lrs[step + reach] / lrs[step - reach]), lrs[step])
        for step in range(reach, len(losses) - reach)
    ]
    return min(slopes)[1] if slopes and min(slopes)[0] < 0 else None
