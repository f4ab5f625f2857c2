"""The loss as a curve of steps: its level, its noise, its trend, and where it jumped.

What is assumed: a step's loss is a level that moves slowly plus the noise of its samples, whose variance goes with one
over their number, and which is independent from one step to the next. Trends are judged by the means of ``BLOCKS``
stretches, so that noise which lasts for less than a stretch does not pass for a trend.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from typing import Self

import numpy as np
from numpy.typing import NDArray

from scaler.core.student_t import two_sided_chance
from scaler.report.grid import Grid

Floats = NDArray[np.float64]

RARE = 0.001  # beyond chance: once in a thousand runs where nothing is the matter, before any second condition
FEWEST_STEPS = 60  # fewer do not tell a trend from noise: a fifth of them is 12 steps
BLOCKS = 10  # stretches that a trend is fitted to: 8 degrees of freedom
START = 0.05  # of the steps: what the loss at the start is the mean of
FEWEST_AT_START = 5  # steps, at least

JUMP_STEPS = 10  # what a jump is the mean of, so that one outlier, ordinary in small batches, is none
BEFORE_STEPS = 50  # what it is measured by: the steps before,
FEWEST_BEFORE = 20  # at least so many of them
JUMP_NOISE = 6.0  # standard errors above the level before
JUMP_SHARE = 0.1  # of the whole fall: what a jump undoes at least
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
    height: float  # the highest mean of ``JUMP_STEPS`` steps until it was back


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """The loss of n steps, mean over ranks, up to the first that is no number."""

    loss: Floats
    samples: Floats  # of each step
    samples_seen: NDArray[np.int64]  # before each step
    lr: Floats
    is_whole: bool  # no step's loss was no number

    @classmethod
    def of(cls, grid: Grid) -> Self:
        """Return the curve of the steps that are in the final weights."""
        kept = grid.kept
        counted = kept["samples"] > 0
        loss = kept["loss"][counted]
        finite = np.isfinite(loss)
        end = len(loss) if finite.all() else int(np.argmin(finite))
        return cls(
            loss=loss[:end],
            samples=kept["samples"][counted][:end].astype(np.float64),
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
        """Return the mean by samples of some steps' losses."""
        return float(np.average(self.loss[start:stop], weights=self.samples[start:stop]))

    def error(self, start: int, stop: int) -> float:
        """Return the standard error of that mean, by how much the losses differ from one step to the next."""
        samples = self.samples[start:stop]
        each = np.diff(self.loss[start:stop]) ** 2 / (1.0 / samples[1:] + 1.0 / samples[:-1])
        return sqrt(float(each.mean()) / float(samples.sum()))

    @property
    def start_steps(self) -> int:
        """How many steps the loss at the start is the mean of."""
        return max(FEWEST_AT_START, int(START * self.steps))

    @property
    def fall(self) -> float:
        """How far the loss fell from its start to the lowest stretch; below 0 where it never was below its start."""
        return self.mean(0, self.start_steps) - float(self.blocks(0, self.steps, 2 * BLOCKS).min())

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
        means, noise, before = self._around()
        scale = self.fall if self.fall > 0.0 else abs(self.mean(0, self.start_steps))
        rises = means[FEWEST_BEFORE:] - before
        rose = np.flatnonzero((rises > JUMP_NOISE * noise) & (rises >= JUMP_SHARE * scale) & (rises > 0.0))
        found: list[Jump] = []
        free = 0  # the first step after the jump before
        for first in (rose + FEWEST_BEFORE).tolist():
            if first < free:
                continue
            level = float(before[first - FEWEST_BEFORE])
            found.append(_followed(means, first, level))
            back = found[-1].back
            if back is None:
                break
            free = back + JUMP_STEPS
        return tuple(found)

    def _around(self) -> tuple[Floats, Floats, Floats]:
        """Means of ``JUMP_STEPS`` from each step on; from ``FEWEST_BEFORE`` on, a rise's noise and the mean before.

        The noise is that of the steps before, by how much they differ from one to the next: a fall is none.
        """
        middle = self.loss.mean()
        counts = np.concatenate(([0.0], np.cumsum(self.samples)))
        sums = np.concatenate(([0.0], np.cumsum(self.samples * (self.loss - middle))))
        one = np.diff(self.loss) ** 2 / (1.0 / self.samples[1:] + 1.0 / self.samples[:-1])  # the variance of a sample
        ones = np.concatenate(([0.0], np.cumsum(one)))
        last = np.arange(JUMP_STEPS, self.steps + 1)
        after = counts[last] - counts[last - JUMP_STEPS]
        means = (sums[last] - sums[last - JUMP_STEPS]) / after + middle
        at = np.arange(FEWEST_BEFORE, self.steps - JUMP_STEPS + 1)
        first = np.maximum(at - BEFORE_STEPS, 0)
        count = counts[at] - counts[first]
        before = (sums[at] - sums[first]) / count + middle
        variance = np.maximum(ones[at - 1] - ones[first], 0.0) / (at - first - 1)
        return means, np.sqrt(variance * (1.0 / count + 1.0 / after[FEWEST_BEFORE:])), before


def _followed(means: Floats, first: int, level: float) -> Jump:
    """A jump from its first step to the one that is back."""
    height = float(means[first])
    for at in range(first + 1, len(means)):
        height = max(height, float(means[at]))
        if means[at] <= level + BACK_SHARE * (height - level):
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
