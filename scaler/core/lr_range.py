"""The learning-rate range test: what a run with a rising rate says of the rates that work.

Smith 2017, https://arxiv.org/abs/1506.01186, section 3.3: let the rate climb from one that does nothing to one that
destroys, and look at where the loss falls. Rates are judged on their logarithm, where a climb is even.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite, log

from scaler.errors import RunError

DIVERGED = 4.0  # times the least loss so far: where fastai's finder stops
FEWEST_STEPS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class RangeTest:
    """What the curve suggests. A suggestion is None where the curve does not have the place it is read from."""

    smoothed: tuple[float, ...]  # loss, as far as it is finite
    diverged_at: float | None  # the first rate whose smoothed loss is beyond ``DIVERGED`` times the least before it
    steepest: float | None  # where the loss falls fastest against log(lr)
    valley: float | None  # in the middle of the longest fall
    tenth_of_divergence: float | None


def judge_range(lrs: Sequence[float], losses: Sequence[float]) -> RangeTest:
    """Return what a range test suggests.

    The loss is smoothed by an average that forgets in a twentieth of the test, corrected for its start. Then

        diverged_at          the first rate at which it is ``DIVERGED`` times its least value before, or no number
        steepest             the rate before that with the least slope d loss / d log(lr), after the first twentieth
        valley               half-way through the longest stretch over which it falls (its longest falling subsequence)
        tenth_of_divergence  diverged_at / 10

    Args:
        lrs: the rate of each step, rising, > 0.
        losses: the loss of each step, mean over all workers.

    Raises:
        RunError: fewer than ``FEWEST_STEPS`` steps, or no finite loss to begin with.

    Sources:
        Smith 2017, https://arxiv.org/abs/1506.01186. The names and the smoothing are those of fastai's ``lr_find``,
        whose own formulas differ in detail.

    Example:
        >>> lrs = [10 ** (k / 10 - 4) for k in range(50)]
        >>> losses = [2.0 if lr < 1e-3 else 0.5 if lr < 1.0 else 9.0 for lr in lrs]
        >>> found = judge_range(lrs, losses)
        >>> round(found.steepest, 4), round(found.diverged_at, 2)
        (0.001, 1.0)
    """
    if len(lrs) < FEWEST_STEPS:
        raise RunError(f"the range test has {len(lrs)} steps.", f"It takes at least {FEWEST_STEPS}.")
    smoothed = _smoothed(losses)
    if len(smoothed) < 2:
        raise RunError("the loss is no number from the first steps on.", "Lower --min.")
    least, end = inf, len(smoothed)
    for index, loss in enumerate(smoothed):
        if loss > DIVERGED * least and least > 0:
            end = index
            break
        least = min(least, loss)
    diverged_at = lrs[end] if end < len(lrs) else None
    before = smoothed[:end]
    first = 1 + len(lrs) // 20  # the average of a few steps is mostly noise
    slopes = [
        (before[i + 1] - before[i - 1]) / (log(lrs[i + 1]) - log(lrs[i - 1])) for i in range(first, len(before) - 1)
    ]
    falls = bool(slopes) and min(slopes) < 0
    return RangeTest(
        smoothed=tuple(smoothed),
        diverged_at=diverged_at,
        steepest=lrs[first + slopes.index(min(slopes))] if falls else None,
        valley=lrs[_valley(before)] if falls else None,
        tenth_of_divergence=diverged_at / 10.0 if diverged_at is not None else None,
    )


def _smoothed(losses: Sequence[float]) -> list[float]:
    """An exponential average, corrected for its start; ends before the first loss that is no number."""
    keep = 1.0 - 1.0 / max(len(losses) / 20.0, 1.0)
    average, found = 0.0, []
    for step, loss in enumerate(losses, start=1):
        if not isfinite(loss):
            break
        average = keep * average + (1.0 - keep) * loss
        found.append(average / (1.0 - keep**step))
    return found


def _valley(losses: Sequence[float]) -> int:
    """Half-way through the longest falling subsequence."""
    length, before = [1] * len(losses), [-1] * len(losses)
    for i in range(len(losses)):
        for j in range(i):
            if losses[j] > losses[i] and length[j] + 1 > length[i]:
                length[i], before[i] = length[j] + 1, j
    end = start = length.index(max(length))
    while before[start] >= 0:
        start = before[start]
    return start + (end - start) // 2
