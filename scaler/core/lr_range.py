"""The learning-rate range test: what a run with a rising rate says of the rates that work.

Smith 2017, https://arxiv.org/abs/1506.01186, section 3.3: let the rate climb from one that does nothing to one that
destroys, and look at where the loss falls. Rates are judged on their logarithm, where a climb is even.

It is a heuristic. A test is a short training of its own: with more steps it has learned more by the time it reaches a
rate, so the fall, and what is suggested, lie lower.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import inf, isfinite, log
from statistics import median

from scaler.errors import RunError, TrainingError

DIVERGED = 4.0  # times the least loss so far: where fastai's finder stops
FEWEST_STEPS = 10
MEMORY = 20  # a share of the test: what the average remembers that tells divergence; slopes reach as far, either way
SMOOTH = 40  # a share of the test: what a smoothed loss sees on either side
CLEAR = 3.0  # times the median change from one step to the next: what a fall must be above


@dataclass(frozen=True, kw_only=True, slots=True)
class RangeTest:
    """What the curve suggests. A suggestion is None where the curve does not have the place it is read from."""

    smoothed: tuple[float, ...]  # loss of each step, as far as it is finite
    diverged_at: float | None  # the first rate at which the loss is not finite, or far above its least
    steepest: float | None  # where the loss falls fastest against log(lr)
    valley: float | None  # where half of the longest fall is done
    tenth_of_divergence: float | None


def judge_range(lrs: Sequence[float], losses: Sequence[float]) -> RangeTest:
    """Return what a range test suggests.

        diverged_at          the first rate at which an average of the losses so far, which forgets in a twentieth of
                             the test, is ``DIVERGED`` times its least, or a loss is not finite
        steepest             the rate with the least slope d least loss so far / d log(lr)
        valley               the rate at which half of the longest fall (its longest falling subsequence) is done
        tenth_of_divergence  diverged_at / 10

    Steepest and valley are of the losses up to where that average is least, smoothed by weights that fall off on either
    side (not later than they are, as an average of the past would have them); the least so far, because a recovery from
    a spike is no fall. A fall that is not ``CLEAR`` times the noise of a step has neither. Losses that reach 0 or less
    diverge only by not being finite.

    Args:
        lrs: the rate of each step, rising, > 0.
        losses: the loss of each step, mean over all workers, of the weights before it.

    Raises:
        RunError: fewer than ``FEWEST_STEPS`` steps.
        TrainingError: the first loss is not finite: no rate has been used yet.

    Sources:
        Smith 2017, https://arxiv.org/abs/1506.01186. The names and the bound of divergence are fastai's (``lr_find``),
        with these differences: it reads everything from an average of the past, which lies later than the losses; its
        steepest slope is one step's; its valley is the middle step of the longest fall, which begins wherever the test
        does, so that a lower ``lrs[0]`` makes it suggest less.

    Example:
        >>> lrs = [10 ** (step / 20 - 4) for step in range(100)]
        >>> losses = [2.0 - 1.0 / (1.0 + 0.01 / lr) if lr < 1.0 else 9.0 for lr in lrs]  # half-way down at 0.01
        >>> found = judge_range(lrs, losses)
        >>> [round(rate, 3) for rate in (found.steepest, found.valley, found.diverged_at)]
        [0.01, 0.01, 1.259]
    """
    if len(lrs) < FEWEST_STEPS:
        raise RunError(f"the range test has {len(lrs)} steps.", f"It takes at least {FEWEST_STEPS}.")
    finite = next((step for step, loss in enumerate(losses) if not isfinite(loss)), len(losses))
    if finite == 0:
        raise TrainingError(
            f"the loss of the first step is {losses[0]}, before any rate was used.",
            "Look at the recipe's loss and data; a rate cannot help.",
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
    """An exponential average of the losses so far, corrected for its start."""
    keep = 1.0 - 1.0 / max(steps / MEMORY, 1.0)
    average, found = 0.0, []
    for step, loss in enumerate(losses, start=1):
        average = keep * average + (1.0 - keep) * loss
        found.append(average / (1.0 - keep**step))
    return found


def _divergence(losses: Sequence[float]) -> int:
    """The first step that is ``DIVERGED`` times the least before; the number of steps when none is."""
    least = inf
    for step, loss in enumerate(losses):
        if loss > DIVERGED * least and least > 0:
            return step
        least = min(least, loss)
    return len(losses)


def _smoothed(losses: Sequence[float], *, steps: int) -> list[float]:
    """An average with weights that fall off exponentially on either side; of what there is, at both ends."""
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
    """How much the loss changes from one step to the next, whatever the rate: the median."""
    return median(abs(after - before) for before, after in pairwise(losses)) if losses[1:] else 0.0


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


def _steepest(lrs: Sequence[float], losses: Sequence[float], *, reach: int) -> float | None:
    """The rate of the least slope, taken from ``reach`` steps before to ``reach`` after; None: there is no room."""
    slopes = [
        ((losses[step + reach] - losses[step - reach]) / log(lrs[step + reach] / lrs[step - reach]), lrs[step])
        for step in range(reach, len(losses) - reach)
    ]
    return min(slopes)[1] if slopes and min(slopes)[0] < 0 else None
