"""The loss as a curve of steps: its level, its noise, its trend, and where it jumped.

What is assumed: a step's loss is a level that moves slowly plus the noise of its samples, whose variance goes with one
over their number, or over the loss's own weight. Trends are judged by the means of ``BLOCKS`` stretches, so that noise
which lasts for less than a stretch does not pass for a trend. Jumps are judged by medians, which outliers do not move,
and by how far the medians of this run usually wander, so that noise which lasts for many steps does not pass for one
either.
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

RARE = 0.001  # beyond chance: once in a thousand runs where nothing is the matter, before any second condition
FEWEST_STEPS = 60  # fewer do not tell a trend from noise: a fifth of them is 12 steps
BLOCKS = 10  # stretches that a trend is fitted to: 8 degrees of freedom
START = 0.05  # of the steps: what the loss at the start is the mean of
FEWEST_AT_START = 5  # steps, at least
FELL_SHARE = 0.02  # of the loss at the start: a fall by less is next to none

JUMP_STEPS = 10  # what a jump is the median of: the few batches among them that are outliers do not make one
BEFORE_STEPS = 50  # what it is measured by: the steps before,
FEWEST_BEFORE = 20  # at least so many of them; a jump in the first ones is measured by what there is
JUMP_NOISE = 8.0  # standard errors above the level before; at 6, noise of 100 % makes some by chance
JUMP_SHARE = 0.1  # of the whole fall: what a jump undoes at least
FIRST_SHARE = 0.25  # of the loss at the start: what a jump in the first steps, whose noise is hardly known, is at least
WANDER = 0.75  # of the rises are lower than what a rise of this run usually is: so much of it is taken to be sound
FEWEST_RISES = 10  # that tell what is usual
NORMAL = 1.4826  # standard deviations in the quartile of normal noise
BACK_SHARE = 0.25  # of the jump: what may be left of it when the loss counts as back


@dataclass(frozen=True, kw_only=True, slots=True)
class Trend:
    """A straight line through the means of a stretch's blocks."""

    change: float  # from the stretch's first block to its last
    error: float  # its standard error
    chance: float  # that a level without a trend changes as much, either way; 0 without noise

    @property
    def falls(self) -> bool:
        """Whether the line goes down."""
        return self.change < 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Jump:
    """A rise of the loss, and what became of it. Steps are positions in the curve."""

    at: int  # its first step
    back: int | None  # the first step at which the loss was back; None: it was not until the end
    before: float  # the level it rose from
    height: float  # the highest median of ``JUMP_STEPS`` steps until it was back


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """The loss of n steps, mean over ranks, up to the first that is no number."""

    loss: Floats
    weight: Floats  # of each step's loss: its samples, or its own
    samples_seen: NDArray[np.int64]  # before each step
    lr: Floats
    is_whole: bool  # no step's loss was no number

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
        """How many steps there are."""
        return len(self.loss)

    @property
    def tells(self) -> bool:
        """Whether there are enough steps to say anything."""
        return self.steps >= FEWEST_STEPS

    @property
    def top_lr(self) -> float:
        """The highest rate of any step."""
        return float(self.lr.max())

    def mean(self, start: int, stop: int) -> float:
        """Return the mean by weight of some steps' losses."""
        weight = self.weight[start:stop]
        return float(means_of(loss_sums(self.loss[start:stop], weight).sum(), weight.sum()))

    def error(self, start: int, stop: int) -> float:
        """Return the standard error of that mean, by how much the losses differ from one step to the next."""
        weight = self.weight[start:stop]
        each = np.diff(self.loss[start:stop]) ** 2 / (1.0 / weight[1:] + 1.0 / weight[:-1])
        return sqrt(float(each.mean()) / float(weight.sum()))

    @property
    def start_steps(self) -> int:
        """How many steps the loss at the start is the mean of."""
        return max(FEWEST_AT_START, int(START * self.steps))

    @property
    def start(self) -> float:
        """The loss at the start: of the first stretch, or of its first steps where the loss rose after them."""
        first = min(self._first_rise or FEWEST_BEFORE, self.start_steps)
        return min(self.mean(0, self.start_steps), self.mean(0, first))

    @property
    def end(self) -> float:
        """The loss of the last stretch of ``BLOCKS``."""
        return self.mean(self.steps - max(self.steps // BLOCKS, 1), self.steps)

    @property
    def fall(self) -> float:
        """How far the loss fell from its start to the lowest stretch; below 0 where it never was below its start."""
        return self.start - float(self.blocks(0, self.steps, 2 * BLOCKS).min())

    @property
    def scale(self) -> float:
        """What rises are shares of: the whole fall; the loss at the start, where it fell by next to nothing."""
        return self.fall if self.fall > FELL_SHARE * abs(self.start) else abs(self.start)

    @property
    def ended_lower(self) -> bool:
        """Whether the loss at the end is below the one at the start, by more than next to nothing."""
        return self.start - self.end > FELL_SHARE * abs(self.start)

    def blocks(self, start: int, stop: int, count: int = BLOCKS) -> Floats:
        """Return the means of ``count`` stretches of steps, as equal as they come."""
        bounds = np.linspace(start, stop, count + 1).astype(np.int64)
        return np.array([self.mean(first, last) for first, last in pairwise(bounds.tolist())])

    def trend(self, start: int, stop: int) -> Trend:
        """Return the trend of some steps, at least ``BLOCKS`` of them."""
        return line(self.blocks(start, stop))

    def jumps(self) -> tuple[Jump, ...]:
        """Return where the loss jumped, in order: see ``JUMP_STEPS`` and what follows it."""
        if self.steps < FEWEST_BEFORE + JUMP_STEPS:
            return ()
        medians = _medians(self.loss)
        first = self._first_rise
        found = [_followed(medians, first, self.mean(0, first))] if first else []
        before, noise = self._before(medians)
        rises = medians[FEWEST_BEFORE:] - before
        rose = (rises > JUMP_NOISE * noise * _wander(rises / noise)) & (rises >= JUMP_SHARE * self.scale)
        for at in (np.flatnonzero(rose & (rises > 0.0)) + FEWEST_BEFORE).tolist():
            if not found or ((back := found[-1].back) is not None and at >= back + JUMP_STEPS):
                found.append(_followed(medians, at, float(before[at - FEWEST_BEFORE])))
        return tuple(found)

    @property
    def _first_rise(self) -> int | None:
        """The step before ``FEWEST_BEFORE`` at which the loss jumped; None: it did not.

        The noise is that of the first ``FEWEST_STEPS``, by the median of how much they differ from one to the next.
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
        # It began where the mean before is lowest for sure: a few steps of a rise are in the one it is found by.
        return int(np.argmin(levels[: best + 1] + noise / np.sqrt(count[: best + 1]))) + 1

    def _before(self, medians: Floats) -> tuple[Floats, Floats]:
        """From ``FEWEST_BEFORE`` on: the level before a step, and the noise of a rise above it, were steps independent.

        The level is the median of the medians before, as many as there are. The noise is that of the steps before, by
        how much they differ from one to the next: a fall is none.
        """
        at = np.arange(FEWEST_BEFORE, self.steps - JUMP_STEPS + 1)
        few = [float(np.median(medians[place - JUMP_STEPS :: -JUMP_STEPS])) for place in at[at < BEFORE_STEPS].tolist()]
        past = [medians[at[len(few) :] - back] for back in range(JUMP_STEPS, BEFORE_STEPS + 1, JUMP_STEPS)]
        before: Floats = np.concatenate((few, np.median(past, axis=0)))
        counts = np.concatenate(([0.0], np.cumsum(self.weight)))
        one = np.diff(self.loss) ** 2 / (
            1.0 / self.weight[1:] + 1.0 / self.weight[:-1]
        )  # the variance of a weight of 1
        ones = np.concatenate(([0.0], np.cumsum(one)))
        first = np.maximum(at - BEFORE_STEPS, 0)
        variance = np.maximum(ones[at - 1] - ones[first], 0.0) / (at - first - 1)
        count, after = counts[at] - counts[first], counts[at + JUMP_STEPS] - counts[at]
        least = 1e-9 * float(np.abs(self.loss).max()) + 1e-300  # what rounding makes of no noise at all
        return before, np.sqrt(variance * (1.0 / count + 1.0 / after)) + least


def _medians(loss: Floats) -> Floats:
    """Medians of ``JUMP_STEPS`` from each step on."""
    found: Floats = np.median(sliding_window_view(loss, JUMP_STEPS), axis=1)
    return found


def _wander(rises: Floats) -> float:
    """How many times the noise of independent steps a rise usually is, at least 1.

    That is its standard deviation by a quartile, which the jumps of a quarter of the steps do not move. Left out is the
    greatest rise: a jump that does not come back is a rise to all steps that have the time before it in their past.
    """
    top = int(np.argmax(rises))
    rest = np.delete(rises, slice(max(top - BEFORE_STEPS, 0), top + BEFORE_STEPS))
    if len(rest) < FEWEST_RISES:
        return 1.0
    usual, high = float(np.median(rest)), float(np.quantile(rest, WANDER))
    return max(NORMAL * (high - usual), 1.0)


def _followed(medians: Floats, first: int, level: float) -> Jump:
    """A jump from its first step to the one that is back."""
    height = float(medians[first])
    for at in range(first + 1, len(medians)):
        height = max(height, float(medians[at]))
        if medians[at] <= level + BACK_SHARE * (height - level):
            return Jump(at=first, back=at, before=level, height=height)
    return Jump(at=first, back=None, before=level, height=height)


def line(means: Sequence[float] | Floats) -> Trend:
    """Return the least-squares line through equally spaced means, at least 3.

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
