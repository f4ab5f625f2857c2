"""The loss over the steps of a run: its level, its noise, its trend, and its jumps.

The model: the loss of a step is a level that moves slowly, plus the noise of its samples. The variance of the noise is
inversely proportional to the number of samples, or to the weight of the loss. Trends are fitted to the means of
``BLOCKS`` blocks of steps, so that noise that lasts for less than a block is not mistaken for a trend. Jumps are judged
by medians, which outliers do not move, and by how much the medians of this run usually rise, so that noise that lasts
for many steps is not mistaken for a jump.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from typing import Self

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from scaler.core.student_t import two_sided_chance
from scaler.metrics.means import loss_sums, means_of
from scaler.report.run.step_arrays import StepArrays

Floats = NDArray[np.float64]

RARE = 0.001  # significance level: false in one healthy run of a thousand, before any second condition
FEWEST_STEPS = 60  # for a trend; fewer do not distinguish a trend from noise: a fifth of them is 12 steps
BLOCKS = 10  # that a trend is fitted to: 8 degrees of freedom
START = 0.05  # share of the steps whose mean is the loss at the start,
FEWEST_AT_START = 5  # at least so many steps
FELL_SHARE = 0.02  # of the loss at the start: a smaller fall counts as none

JUMP_STEPS = 10  # a jump is the median of so many steps, so that a few outliers are no jump
BEFORE_STEPS = 50  # steps before a jump that it is compared with,
FEWEST_BEFORE = 20  # at least so many; a jump in the first steps is compared with those that there are
JUMP_NOISE = 8.0  # standard errors above the level before; with 6, noise of 100 % causes false jumps
JUMP_SHARE = 0.1  # of the whole fall: the least that a jump undoes
FIRST_SHARE = 0.25  # of the loss at the start: the least height of a jump in the first steps, whose noise is uncertain
SPREAD_QUANTILE = 0.75  # of the rises in a run: gives their usual spread, which a jump must exceed
FEWEST_RISES = 10  # for a usual spread
NORMAL = 1.4826  # standard deviation of normal noise over its median absolute deviation
BACK_SHARE = 0.25  # of a jump: the loss is back when no more than this is left of it


@dataclass(frozen=True, kw_only=True, slots=True)
class Trend:
    """A straight line fitted to the means of blocks of steps."""

    change: float  # of the line, from the first block to the last
    error: float  # standard error of the change
    chance: float  # two-sided p-value: that a constant level changes as much; 0 without noise

    @property
    def falls(self) -> bool:
        """Whether the line goes down."""
        return self.change < 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Jump:
    """A jump of the loss. Steps are positions in the curve."""

    at: int  # the first step of the jump
    back: int | None  # the first step at which the loss was back; None: it did not come back
    before: float  # loss before the jump
    height: float  # highest loss until it was back: a median of ``JUMP_STEPS`` steps


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """The loss of n steps, mean over ranks, up to the first step whose loss is not finite."""

    loss: Floats  # n
    weight: Floats  # n: the samples of a step, or the weight that the loss returned
    samples_seen: NDArray[np.int64]  # n: before each step
    lr: Floats  # n
    is_whole: bool  # the loss of every step is finite

    @classmethod
    def of(cls, arrays: StepArrays) -> Self:
        """Return the curve of the steps that are in the final weights."""
        kept = arrays.kept
        counted = kept["weight"] != 0
        loss = kept["loss"][counted]
        finite = np.isfinite(loss)
        end = len(loss) if finite.all() else int(np.argmin(finite))
        return cls(
            loss=loss[:end],
            weight=kept["weight"][counted][:end],
            samples_seen=kept["samples_seen"][counted][:end],
            lr=kept["lr"][counted][:end],
            is_whole=end == len(loss),
        )

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.loss)

    @property
    def has_enough_steps(self) -> bool:
        """Whether there are enough steps to judge a trend."""
        return self.steps >= FEWEST_STEPS

    @property
    def top_lr(self) -> float:
        """The highest learning rate of all steps."""
        return float(self.lr.max())

    def mean(self, start: int, stop: int) -> float:
        """Return the weighted mean loss of the steps from ``start`` up to ``stop``."""
        weight = self.weight[start:stop]
        return float(means_of(loss_sums(self.loss[start:stop], weight).sum(), weight.sum()))

    def error(self, start: int, stop: int) -> float:
        """Return the standard error of ``mean``, from the differences between neighbouring steps."""
        weight = self.weight[start:stop]
        each = np.diff(self.loss[start:stop]) ** 2 / (1.0 / weight[1:] + 1.0 / weight[:-1])
        return sqrt(float(each.mean()) / float(weight.sum()))

    @property
    def start_steps(self) -> int:
        """Number of steps whose mean is the loss at the start."""
        return max(FEWEST_AT_START, int(START * self.steps))

    @property
    def start_loss(self) -> float:
        """The loss at the start: mean over ``start_steps``, or over the steps before a jump among them."""
        first = min(self._first_rise or FEWEST_BEFORE, self.start_steps)
        return min(self.mean(0, self.start_steps), self.mean(0, first))

    @property
    def end_loss(self) -> float:
        """The loss at the end: mean over the last of ``BLOCKS`` blocks."""
        return self.mean(self.steps - max(self.steps // BLOCKS, 1), self.steps)

    @property
    def fall(self) -> float:
        """The fall of the loss from its start to its lowest block; negative if it never was below its start."""
        return self.start_loss - float(self.blocks(0, self.steps, 2 * BLOCKS).min())

    @property
    def scale(self) -> float:
        """The measure for rises: the whole fall, or the loss at the start if the loss hardly fell."""
        return self.fall if self.fall > FELL_SHARE * abs(self.start_loss) else abs(self.start_loss)

    @property
    def ended_lower(self) -> bool:
        """Whether the loss at the end is below the loss at the start by more than ``FELL_SHARE``."""
        return self.start_loss - self.end_loss > FELL_SHARE * abs(self.start_loss)

    def blocks(self, start: int, stop: int, count: int = BLOCKS) -> Floats:
        """Return the mean losses of ``count`` blocks of steps, of nearly equal length."""
        bounds = np.linspace(start, stop, count + 1).astype(np.int64)
        return np.array([self.mean(first, last) for first, last in pairwise(bounds.tolist())])

    def trend(self, start: int, stop: int) -> Trend:
        """Return the trend of the steps from ``start`` up to ``stop``, at least ``BLOCKS`` steps."""
        return line(self.blocks(start, stop))

    def jumps(self) -> tuple[Jump, ...]:
        """Return the jumps of the loss in order; ``JUMP_STEPS`` and the constants below it define a jump."""
        if self.steps < FEWEST_BEFORE + JUMP_STEPS:
            return ()
        medians = _medians(self.loss)
        first = self._first_rise
        found = [_jump_from(medians, first, self.mean(0, first))] if first else []
        before, noise = self._before(medians)
        rises = medians[FEWEST_BEFORE:] - before
        rose = (rises > JUMP_NOISE * noise * _usual_spread(rises / noise)) & (rises >= JUMP_SHARE * self.scale)
        for at in (np.flatnonzero(rose & (rises > 0.0)) + FEWEST_BEFORE).tolist():
            if not found or ((back := found[-1].back) is not None and at >= back + JUMP_STEPS):
                found.append(_jump_from(medians, at, float(before[at - FEWEST_BEFORE])))
        return tuple(found)

    @property
    def _first_rise(self) -> int | None:
        """The first step of a jump before step ``FEWEST_BEFORE``; None: no jump there.

        The noise is estimated from the first ``FEWEST_STEPS`` steps, from the median difference between neighbours.
        """
        if self.steps < FEWEST_BEFORE + JUMP_STEPS:
            return None
        count = np.arange(1, FEWEST_BEFORE + 1)
        levels = np.cumsum(self.loss[:FEWEST_BEFORE]) / count
        rises = _medians(self.loss[1 : FEWEST_BEFORE + JUMP_STEPS]) - levels
        noise = NORMAL * float(np.median(np.abs(np.diff(self.loss[:FEWEST_STEPS])))) / sqrt(2.0)
        errors = np.sqrt(1.0 / count + 1.0 / JUMP_STEPS)
        best = int(np.argmax(rises / errors))
        level, rise = float(levels[best]), float(rises[best])
        if rise <= JUMP_NOISE * noise * float(errors[best]) or rise < FIRST_SHARE * abs(level):
            return None
        # The jump begins where the mean before it is lowest: at ``best`` that mean already holds steps of the rise.
        return int(np.argmin(levels[: best + 1] + noise / np.sqrt(count[: best + 1]))) + 1

    def _before(self, medians: Floats) -> tuple[Floats, Floats]:
        """Return, from step ``FEWEST_BEFORE`` on, the level before each step and the standard error of a rise above it.

        The level is the median of the medians before the step. The standard error takes steps as independent; it comes
        from the differences between neighbouring steps before the step, so that a steady fall does not count as noise.
        """
        at = np.arange(FEWEST_BEFORE, self.steps - JUMP_STEPS + 1)
        few = [float(np.median(medians[place - JUMP_STEPS :: -JUMP_STEPS])) for place in at[at < BEFORE_STEPS].tolist()]
        past = [medians[at[len(few) :] - back] for back in range(JUMP_STEPS, BEFORE_STEPS + 1, JUMP_STEPS)]
        before: Floats = np.concatenate((few, np.median(past, axis=0)))
        counts = np.concatenate(([0.0], np.cumsum(self.weight)))
        # The variance of a loss whose weight is 1, from each pair of neighbouring steps.
        one = np.diff(self.loss) ** 2 / (1.0 / self.weight[1:] + 1.0 / self.weight[:-1])
        ones = np.concatenate(([0.0], np.cumsum(one)))
        first = np.maximum(at - BEFORE_STEPS, 0)
        variance = np.maximum(ones[at - 1] - ones[first], 0.0) / (at - first - 1)
        count, after = counts[at] - counts[first], counts[at + JUMP_STEPS] - counts[at]
        least = 1e-9 * float(np.abs(self.loss).max()) + 1e-300  # rounding, in a loss without noise
        return before, np.sqrt(variance * (1.0 / count + 1.0 / after)) + least


def _medians(loss: Floats) -> Floats:
    """Return the median of each step and the ``JUMP_STEPS`` - 1 steps after it."""
    found: Floats = np.median(sliding_window_view(loss, JUMP_STEPS), axis=1)
    return found


def _usual_spread(rises: Floats) -> float:
    """Return the usual spread of the rises of a run, in standard errors of independent steps; at least 1.

    It is a standard deviation estimated from a quartile, so that jumps in up to a quarter of the steps do not change
    it. The steps around the greatest rise are left out: a jump that does not come back raises all of them.
    """
    top = int(np.argmax(rises))
    rest = np.delete(rises, slice(max(top - BEFORE_STEPS, 0), top + BEFORE_STEPS))
    if len(rest) < FEWEST_RISES:
        return 1.0
    usual, high = float(np.median(rest)), float(np.quantile(rest, SPREAD_QUANTILE))
    return max(NORMAL * (high - usual), 1.0)


def _jump_from(medians: Floats, first: int, level: float) -> Jump:
    """Return the jump that begins at step ``first`` from a loss of ``level``."""
    height = float(medians[first])
    for at in range(first + 1, len(medians)):
        height = max(height, float(medians[at]))
        if medians[at] <= level + BACK_SHARE * (height - level):
            return Jump(at=first, back=at, before=level, height=height)
    return Jump(at=first, back=None, before=level, height=height)


def line(means: Sequence[float] | Floats) -> Trend:
    """Return the least-squares line through at least 3 equally spaced means.

    Example:
        >>> found = line([4.0, 3.1, 1.9, 1.0])
        >>> round(found.change, 2), round(found.error, 2), found.falls
        (-3.06, 0.13, True)
    """
    values = np.asarray(means, dtype=np.float64)
    count = len(values)
    place = np.arange(count) - (count - 1) / 2
    slope = float((place * values).sum() / (place**2).sum())
    left = values - values.mean() - slope * place
    error = sqrt(float((left**2).sum()) / (count - 2) / float((place**2).sum())) * (count - 1)
    change = slope * (count - 1)
    chance = two_sided_chance(change / error, count - 2) if error > 0.0 else float(change == 0.0)
    return Trend(change=change, error=error, chance=chance)
