"""The curves of one run over samples and time: their values at any place, and where they first reach a value."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from scaler.metrics.means import loss_sums, means_of
from scaler.report.run.definitions import STARTUP_S
from scaler.report.run.model import Report

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunClock:
    """The samples that a run had trained at each time; between known places, at a constant speed."""

    samples_seen: Floats  # ascending
    elapsed_s: Floats  # since the first step of the run, ascending; empty: not known

    @classmethod
    def of(cls, report: Report) -> Self:
        """Return the clock of a run, up to the end of its last step if its speed is known.

        Time starts at the first step of the run; the start-up time is compared separately.
        """
        series = report.series
        samples, elapsed = _floats(series.samples_seen), _floats(series.elapsed_s) - _floats([STARTUP_S.read(report)])
        known = np.isfinite(elapsed)
        if known.any() and known[-1] and (speed := series.samples_per_s[-1]):
            end = float(report.totals.samples_seen)
            samples = np.append(samples, end)
            elapsed = np.append(elapsed, elapsed[-1] + (end - samples[-2]) / speed)
            known = np.append(known, True)
        # The clock of one node may be behind another's, but time must not decrease.
        return cls(samples_seen=samples[known], elapsed_s=np.maximum.accumulate(elapsed[known]))

    @property
    def start_s(self) -> float | None:
        """Start of the first known step; above 0 if earlier steps were trained again. None: no times are known."""
        return float(self.elapsed_s[0]) if len(self.elapsed_s) else None

    @property
    def end_s(self) -> float | None:
        """End of the last known step; None: no times are known."""
        return float(self.elapsed_s[-1]) if len(self.elapsed_s) else None

    def elapsed_at(self, samples: float) -> float | None:
        """Return when the run had trained a number of samples; None: not known."""
        return _between(samples, self.samples_seen, self.elapsed_s)

    def samples_at(self, elapsed_s: float) -> float | None:
        """Return how many samples the run had trained at a time; None before its first step and after its end."""
        return _between(elapsed_s, self.elapsed_s, self.samples_seen)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainLoss:
    """The training loss as a mean over the last ``window`` samples, because the loss of a single step is noisy.

    Each part of the series counts with its loss's weight; parts without a finite loss are left out.
    """

    window: int
    starts: Floats  # of the parts of the series, in samples, and the end of the last part
    sums: Floats  # of weight * loss up to each start, without losses that are not finite
    counts: Floats  # sums of these weights

    @classmethod
    def of(cls, report: Report, *, window: int) -> Self:
        """Return a run's training loss."""
        starts = np.append(_floats(report.series.samples_seen), float(report.totals.samples_seen))
        loss = _floats(report.series.loss_mean)
        weights = np.where(np.isfinite(loss), _floats(report.series.loss_weight), 0.0)
        sums, counts = (np.append(0.0, np.cumsum(each)) for each in (loss_sums(loss, weights), weights))
        return cls(window=window, starts=starts, sums=sums, counts=counts)

    def at(self, samples: float) -> float | None:
        """Return the mean loss of the window that ends there; None outside the run, or without a finite loss."""
        if not self.starts[0] < samples <= self.starts[-1]:
            return None
        ends = [max(float(self.starts[0]), samples - self.window), samples]
        total, weight = (np.diff(np.interp(ends, self.starts, each)) for each in (self.sums, self.counts))
        mean = float(means_of(total, weight)[0])
        return mean if np.isfinite(mean) else None

    def points(self) -> tuple[list[float], list[float | None]]:
        """Return places and values: the end of each part, from the first whole window on."""
        first = self.starts[0] + self.window
        places = [float(place) for place in self.starts[1:] if place >= first]
        return places, [self.at(place) for place in places]


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalCurve:
    """One value of the evaluations."""

    samples_seen: Floats
    values: Floats

    @classmethod
    def of(cls, report: Report, name: str) -> Self:
        """Return a value of a run's evaluations; empty if no evaluation has a finite value of that name."""
        values = _floats(report.series.evals.get(name, ()))
        known = np.isfinite(values)
        samples = _floats(report.series.eval_samples_seen)
        return cls(samples_seen=samples[known] if len(values) else values, values=values[known])

    def at(self, samples: float) -> float | None:
        """Return the value there, interpolated between evaluations; None before the first and after the last."""
        return _between(samples, self.samples_seen, self.values)

    def points(self) -> tuple[list[float], list[float | None]]:
        """Return places and values."""
        return self.samples_seen.tolist(), self.values.tolist()


def first_reached(
    places: Sequence[float], values: Sequence[float | None], target: float, *, is_line: bool
) -> float | None:
    """Return the place where values first fall to a target; None: they never do.

    Args:
        places: ascending.
        values: one for each place; None is skipped.
        target: the value to reach.
        is_line: whether values are interpolated; if not, only the places themselves count.

    Example:
        >>> [first_reached([10, 20, 30], [3.0, 1.0, 2.0], 2.0, is_line=is_line) for is_line in (True, False)]
        [15.0, 20.0]
    """
    before: tuple[float, float] | None = None
    for place, value in zip(places, values, strict=True):
        if value is None:
            continue
        if value <= target:
            if not is_line or before is None:
                return float(place)
            place_before, value_before = before
            return place_before + (place - place_before) * (value_before - target) / (value_before - value)
        before = (place, value)
    return None


def _between(x: float, xs: Floats, ys: Floats) -> float | None:
    return float(np.interp(x, xs, ys)) if len(xs) and xs[0] <= x <= xs[-1] else None


def _floats(values: Sequence[float | None] | Sequence[int]) -> Floats:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
