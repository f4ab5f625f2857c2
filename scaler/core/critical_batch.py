"""The critical batch size, from the samples that several batch sizes need to a target.

    E(B) = E_min (1 + B / B_crit)

A small batch needs E_min samples; a batch of B_crit needs twice as many. Below B_crit a larger batch saves steps at
little cost in samples; above it a larger batch costs samples and saves few steps.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from scaler.core.fits import Groups, minimum, profile_interval
from scaler.core.intervals import Estimate, positive
from scaler.errors import PlanError

FEWEST_BATCHES = 3
BEYOND = 10.0  # times the measured batches: an interval that ends farther out does not tell B_crit
_REACH = 14.0  # natural logarithm: from here on, the curve is a constant, or a line, to the last measured digit


@dataclass(frozen=True, kw_only=True, slots=True)
class CriticalBatch:
    """The fitted curve, or why there is none.

    Args:
        critical_batch: B_crit in samples, with its interval. Without a value, the ends are bounds that hold.
        fewest_samples: E_min in samples; None without a value of B_crit.
        batches: the batch sizes that were fitted.
        left_out: batch sizes that were left out, because one of their runs did not reach the target.
        largest_residual: largest distance of a batch size's mean from the curve, in natural logarithms.
        p_misfit: p-value of the test that all batch sizes lie on the curve (``Groups.p_misfit``); None without repeats.
        refusal: why B_crit is not identifiable; None: it is.
        add: batch sizes to run, where it is not.
    """

    critical_batch: Estimate
    fewest_samples: Estimate | None
    batches: tuple[int, ...]
    left_out: tuple[int, ...] = ()
    largest_residual: float | None = None
    p_misfit: float | None = None
    refusal: str | None = None
    add: tuple[int, ...] = ()

    def samples(self, batch: float) -> float | None:
        """Return the samples to the target that the curve gives for a batch size; None without a curve."""
        if self.fewest_samples is None:
            return None
        assert self.fewest_samples.value is not None
        assert self.critical_batch.value is not None
        return self.fewest_samples.value * (1 + batch / self.critical_batch.value)


def fit_critical_batch(samples: Mapping[int, Sequence[float | None]], *, level: float) -> CriticalBatch:
    """Return B_crit and E_min by least squares of the logarithms of the samples to the target.

    The intervals are those of ``scaler.core.fits``. A batch size with a run that did not reach the target is left out
    with all its runs: the other runs alone would make it look better than it is.

    Args:
        samples: batch size -> samples to the target of each run; None: not reached, or not known.
        level: of the intervals, in (0, 1).

    Returns:
        A refusal with fewer than 3 batch sizes, and where an end of the interval of B_crit is more than 10 times
        outside the measured batch sizes; ``add`` then has the batch sizes to run.

    Raises:
        PlanError: samples that are not above 0, or a level outside (0, 1).

    Sources:
        McCandlish et al. 2018, https://arxiv.org/abs/1812.06162, section 2.3: with S = E / B steps,
        (S / S_min - 1) (E / E_min - 1) = 1, and B_crit = E_min / S_min.

    Example:
        >>> found = fit_critical_batch({16: [1160, 1170], 64: [1640, 1620], 256: [3570, 3550]}, level=0.90)
        >>> round(found.critical_batch.value), round(found.critical_batch.low), round(found.critical_batch.high)
        (101, 90, 112)
    """
    kept = {
        batch: [math.log(value) for value in positive([value for value in found if value is not None])]
        for batch, found in samples.items()
        if found and None not in found
    }
    batches = tuple(sorted(kept))
    left_out = tuple(sorted(samples.keys() - kept.keys()))
    if len(batches) < FEWEST_BATCHES:
        count = f"{len(batches)} batch size{'s' if len(batches) != 1 else ''} with all runs at the target"
        return CriticalBatch(
            critical_batch=Estimate(value=None),
            fewest_samples=None,
            batches=batches,
            left_out=left_out,
            refusal=f"{count}; the curve needs {FEWEST_BATCHES}.",
            add=_more(batches, left_out, FEWEST_BATCHES - len(batches)),
        )
    groups = Groups.of(kept)
    ends = _ends(groups)
    best = minimum(lambda log_critical: _squares(groups, log_critical)[0], *ends)
    squares, log_fewest = _squares(groups, best)
    rise = groups.rise(squares, parameters=2, level=level)
    low, high = profile_interval(
        lambda log_critical: _squares(groups, log_critical)[0],
        best,
        rise=rise,
        step=0.05,
        ends=ends,
    )
    critical = Estimate(value=math.exp(best), low=_exp(low), high=_exp(high))
    refusal, add = _refusal(critical, batches)
    distances = [
        mean - log_fewest - _bend(place, best) for place, mean in zip(groups.places, groups.means, strict=True)
    ]
    return CriticalBatch(
        critical_batch=critical if refusal is None else Estimate(value=None, low=critical.low, high=critical.high),
        fewest_samples=None if refusal is not None else _fewest_samples(groups, log_fewest, rise),
        batches=batches,
        left_out=left_out,
        largest_residual=max(map(abs, distances)),
        p_misfit=groups.p_misfit(distances, parameters=2),
        refusal=refusal,
        add=add,
    )


def predict_samples(samples: Mapping[int, Sequence[float]], batch: int, *, level: float) -> Estimate:
    """Return the samples to the target of a batch size that was not fitted, with a prediction interval.

    The interval is for the geometric mean of as many new runs as each measured batch size has. It has each value that,
    added to the points, would not make the fit worse than chance explains.

    Args:
        samples: batch size -> samples to the target of each run, at least 3 batch sizes.
        batch: the batch size to predict.
        level: of the interval, in (0, 1).

    Raises:
        PlanError: fewer than 3 batch sizes, samples that are not above 0, or a level outside (0, 1).

    Example:
        >>> found = predict_samples({16: [1160, 1170], 64: [1640, 1620], 256: [3570, 3550]}, 512, level=0.90)
        >>> round(found.value), round(found.low), round(found.high)
        (6101, 5699, 6527)
    """
    if len(samples) < FEWEST_BATCHES:
        raise PlanError(f"{len(samples)} batch sizes are too few for the curve.", f"Run {FEWEST_BATCHES} or more.")
    groups = Groups.of({key: [math.log(value) for value in positive(found)] for key, found in samples.items()})
    ends = _ends(groups)
    best = minimum(lambda log_critical: _squares(groups, log_critical)[0], *ends)
    smallest, log_fewest = _squares(groups, best)
    rise = groups.rise(smallest, parameters=2, level=level)
    value = log_fewest + _bend(batch, best)

    def squares(new: float) -> float:
        longer = replace(groups, places=(*groups.places, float(batch)), means=(*groups.means, new))
        near = (max(ends[0], best - 2), min(ends[1], best + 2))
        return _squares(longer, minimum(lambda log_critical: _squares(longer, log_critical)[0], *near, looks=4))[0]

    low, high = profile_interval(squares, value, rise=rise, step=0.05, ends=(value - _REACH, value + _REACH))
    return Estimate(value=math.exp(value), low=_exp(low), high=_exp(high))


def _ends(groups: Groups) -> tuple[float, float]:
    """Return the range of log B_crit that is looked at."""
    return math.log(groups.places[0]) - _REACH, math.log(groups.places[-1]) + _REACH


def _bend(batch: float, log_critical: float) -> float:
    """Return ``log(1 + B / B_crit)``."""
    return math.log1p(batch / math.exp(log_critical))


def _squares(groups: Groups, log_critical: float) -> tuple[float, float]:
    """Return the sum of squares between the groups and the curve, and log E_min, for one B_crit."""
    rests = [mean - _bend(place, log_critical) for place, mean in zip(groups.places, groups.means, strict=True)]
    log_fewest = sum(rests) / len(rests)
    return sum((rest - log_fewest) ** 2 for rest in rests), log_fewest


def _fewest_samples(groups: Groups, best: float, rise: float) -> Estimate:
    """Return E_min with its interval: with E_min held, B_crit is fitted again."""
    ends = _ends(groups)

    def squares(log_fewest: float) -> float:
        def given(log_critical: float) -> float:
            return sum(
                (mean - log_fewest - _bend(place, log_critical)) ** 2
                for place, mean in zip(groups.places, groups.means, strict=True)
            )

        return given(minimum(given, *ends, looks=16))

    low, high = profile_interval(squares, best, rise=rise, step=0.05, ends=(best - _REACH, best + _REACH))
    return Estimate(value=math.exp(best), low=_exp(low), high=_exp(high))


def _refusal(critical: Estimate, batches: Sequence[int]) -> tuple[str | None, tuple[int, ...]]:
    """Return why the points do not tell B_crit, and the batch sizes to add; None and nothing if they do."""
    smallest, largest = batches[0], batches[-1]
    is_open_above = critical.high is None or critical.high > BEYOND * largest
    is_open_below = critical.low is None or critical.low < smallest / BEYOND
    if is_open_above and is_open_below:
        middle = round(math.sqrt(smallest * largest))
        return "The runs vary too much to tell the critical batch size.", (*_smaller(smallest), middle, 4 * largest)
    if is_open_above:
        reason = f"Batches up to {largest:,} need too few more samples to tell the critical batch size."
        return reason, (4 * largest, 16 * largest)
    if is_open_below:
        return f"The critical batch size is below the measured batches, from {smallest:,}.", _smaller(smallest)
    return None, ()


def _smaller(batch: int) -> tuple[int, ...]:
    return tuple(sorted({max(1, batch // 16), max(1, batch // 4)} - {batch}))


def _more(batches: Sequence[int], left_out: Sequence[int], count: int) -> tuple[int, ...]:
    """Return batch sizes to add to too few: larger ones, or smaller ones where larger ones did not reach the target."""
    if not batches:
        return ()
    if any(batch > batches[-1] for batch in left_out):
        return tuple(sorted({max(1, batches[0] // 4**power) for power in range(1, count + 1)} - set(batches)))
    return tuple(batches[-1] * 4**power for power in range(1, count + 1))


def _exp(value: float | None) -> float | None:
    return None if value is None else math.exp(value)
