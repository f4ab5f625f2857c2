"""The parameters of a law of scaling from measured step times, by least squares of relative errors."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import mul

from scaler.core.fits import Groups, least_squares, profile_interval
from scaler.core.intervals import Estimate, positive
from scaler.core.scaling_laws import Law
from scaler.errors import PlanError


@dataclass(frozen=True, kw_only=True, slots=True)
class LawFit:
    """A fitted law, or why there is none.

    Args:
        law: the law.
        num_workers: the numbers of workers that were fitted.
        parameters: name -> estimate with interval. Values are at least 0, and intervals are cut at 0.
        largest_residual: largest relative distance of the mean at one number of workers from the law.
        p_misfit: p-value of the test that the law holds (``Groups.p_misfit``); None without repeats.
        refusal: why the law is not identifiable; None: it is.
        add: numbers of workers to run, where it is not.
    """

    law: Law
    num_workers: tuple[int, ...]
    parameters: Mapping[str, Estimate]
    largest_residual: float | None = None
    p_misfit: float | None = None
    refusal: str | None = None
    add: tuple[int, ...] = ()

    def step_time_s(self, workers: float) -> float | None:
        """Return the step time that the law gives for a number of workers; None without a fit."""
        if self.refusal is not None:
            return None
        first, *others = [self.parameters[name].value or 0.0 for name in self.law.parameters]
        coefficients = [first] + [
            value / factor * (1 if name.endswith("_s") else first)
            for name, value, factor in zip(self.law.parameters[1:], others, self.law.factors[1:], strict=False)
        ]
        return self.law.step_time_s(workers, coefficients)

    @property
    def most_workers(self) -> float | None:
        """The number of workers at which strong scaling ends: more make a step longer. None: no end is measured.

        ``sqrt((1 - sigma) / kappa)`` of the universal scalability law.
        """
        kappa = self.parameters.get("coherency", Estimate(value=None)).value
        sigma = self.parameters.get("contention", Estimate(value=None)).value
        if not kappa or sigma is None or sigma >= 1:
            return None
        return math.sqrt((1 - sigma) / kappa)


def fit_law(law: Law, step_times_s: Mapping[int, Sequence[float]], *, level: float) -> LawFit:
    """Return the parameters of a law with their intervals (``scaler.core.fits``).

    Args:
        law: one of ``LAWS``.
        step_times_s: number of workers -> the step time of each repeat, in seconds: for strong scaling at one global
            batch size, for weak scaling at one batch size per worker.
        level: of the intervals, in (0, 1).

    Returns:
        A refusal with fewer numbers of workers than parameters + 1; ``add`` then has those to run.

    Raises:
        PlanError: no step times at a number of workers, a step time that is not above 0, or a level outside (0, 1).

    Example:
        >>> from scaler.core.scaling_laws import LAWS
        >>> times = {1: [1.00, 1.01, 0.99], 2: [0.56, 0.55, 0.54], 4: [0.32, 0.33, 0.325], 8: [0.21, 0.215, 0.21]}
        >>> found = fit_law(LAWS["strong", "amdahl"], times, level=0.90).parameters["serial_fraction"]
        >>> round(found.value, 3), round(found.low, 3), round(found.high, 3)
        (0.099, 0.098, 0.1)
    """
    counts = tuple(sorted(step_times_s))
    fewest = len(law.parameters) + 1
    if len(counts) < fewest:
        last = counts[-1] if counts else 1
        return LawFit(
            law=law,
            num_workers=counts,
            parameters={},
            refusal=f"{len(counts)} numbers of workers; the law needs {fewest}.",
            add=tuple(last * 2**power for power in range(1, fewest - len(counts) + 1)),
        )
    fit = _Fit(law, step_times_s)
    rise = fit.rise(level)
    estimates = {}
    for index, (name, factor) in enumerate(zip(law.parameters, law.factors, strict=False)):
        low, high = fit.interval(index, rise, is_ratio=index > 0 and not name.endswith("_s"))
        value = fit.bounded[index] if index == 0 or name.endswith("_s") else fit.bounded[index] / fit.bounded[0]
        estimates[name] = Estimate(
            value=factor * value,
            low=None if low is None else factor * max(0.0, min(low, value)),
            high=None if high is None else factor * max(high, value),
        )
    return LawFit(
        law=law,
        num_workers=counts,
        parameters=estimates,
        largest_residual=max(
            abs(law.step_time_s(place, fit.bounded) / (place / mean if law.is_of_speed else mean) - 1)
            for place, mean in zip(fit.groups.places, fit.means, strict=True)
        ),
        p_misfit=fit.groups.p_misfit(fit.distances, parameters=len(law.parameters)),
    )


def predict_step_time(law: Law, step_times_s: Mapping[int, Sequence[float]], workers: int, *, level: float) -> Estimate:
    """Return the step time on a number of workers that was not measured, with a prediction interval, in seconds.

    The interval is for the mean of as many new measurements as each measured number of workers has, with the same
    relative spread.

    Args:
        law: one of ``LAWS``.
        step_times_s: as in ``fit_law``.
        workers: the number of workers to predict.
        level: of the interval, in (0, 1).

    Raises:
        PlanError: fewer numbers of workers than parameters + 1, or as ``fit_law``.

    Example:
        >>> from scaler.core.scaling_laws import LAWS
        >>> times = {1: [1.00, 1.01, 0.99], 2: [0.56, 0.55, 0.54], 4: [0.32, 0.33, 0.325], 8: [0.21, 0.215, 0.21]}
        >>> found = predict_step_time(LAWS["strong", "amdahl"], times, 16, level=0.90)
        >>> round(found.value, 3), round(found.low, 3), round(found.high, 3)
        (0.155, 0.154, 0.157)
    """
    if len(step_times_s) <= len(law.parameters):
        raise PlanError(
            f"{len(step_times_s)} numbers of workers are too few for {law.name}.",
            f"Run {len(law.parameters) + 1} or more.",
        )
    fit = _Fit(law, step_times_s)
    low, high = fit.predicted(workers, fit.rise(level))
    value = law.step_time_s(workers, fit.bounded)
    ends = [None if end is None or end <= 0 else law.response(workers, end) for end in (low, high)]
    if law.is_of_speed:
        ends.reverse()
    return Estimate(
        value=value,
        low=None if ends[0] is None else min(ends[0], value),
        high=None if ends[1] is None else max(ends[1], value),
    )


class _Fit:
    """A linear fit of relative errors; each number of workers is scaled by its own mean."""

    def __init__(self, law: Law, step_times_s: Mapping[int, Sequence[float]]) -> None:
        responses = {p: [law.response(p, t) for t in positive(times)] for p, times in step_times_s.items()}
        for place, values in responses.items():
            if not values:
                raise PlanError(f"There is no step time at {place} workers.", "Leave it out.")
        means = {place: math.fsum(values) / len(values) for place, values in responses.items()}
        self.law = law
        self.groups = Groups.of({p: [value / means[p] for value in values] for p, values in responses.items()})
        self.means = tuple(means[int(place)] for place in self.groups.places)
        self.rows = [
            tuple(entry / mean for entry in law.columns(place))
            for place, mean in zip(self.groups.places, self.means, strict=True)
        ]
        self.free, self.squares = least_squares(self._columns(self.rows), self.groups.means)
        self.bounded = self._solve_bounded()
        self.distances = [
            mean - math.fsum(map(mul, self.free, row)) for mean, row in zip(self.groups.means, self.rows, strict=True)
        ]

    def rise(self, level: float) -> float:
        """Return by how much the sum of squares may rise inside an interval."""
        return self.groups.rise(self.squares, parameters=len(self.law.parameters), level=level)

    def _columns(self, rows: Sequence[Sequence[float]]) -> list[list[float]]:
        return [list(column) for column in zip(*rows, strict=True)]

    def _solve_bounded(self) -> list[float]:
        """Return the best coefficients that are not below 0: the best fit over all choices of which are 0."""
        columns = self._columns(self.rows)
        best, smallest = [0.0] * len(columns), math.inf
        for chosen in range(1, 2 ** len(columns)):
            indices = [index for index in range(len(columns)) if chosen >> index & 1]
            found, squares = least_squares([columns[index] for index in indices], self.groups.means)
            if min(found) >= 0 and squares < smallest:
                smallest, best = squares, [0.0] * len(columns)
                for index, value in zip(indices, found, strict=True):
                    best[index] = value
        return best

    def interval(self, index: int, rise: float, *, is_ratio: bool) -> tuple[float | None, float | None]:
        """Return the interval of a coefficient, or of its ratio to the first."""
        columns = self._columns(self.rows)
        own = columns.pop(index)

        def squares(value: float) -> float:
            if is_ratio:
                first = [a + value * b for a, b in zip(columns[0], own, strict=True)]
                return least_squares([first, *columns[1:]], self.groups.means)[1]
            rest = [mean - value * entry for mean, entry in zip(self.groups.means, own, strict=True)]
            return least_squares(columns, rest)[1]

        best = self.free[index] / (self.free[0] if is_ratio else 1.0)
        scale = 1.0 if is_ratio else self.free[0]
        return profile_interval(
            squares, best, rise=rise, step=1e-4 * abs(scale), ends=(best - 1e3 * abs(scale), best + 1e3 * abs(scale))
        )

    def predicted(self, workers: int, rise: float) -> tuple[float | None, float | None]:
        """Return the interval of the mean of new responses: those that would not make the fit too bad."""
        row = self.law.columns(workers)
        value = math.fsum(map(mul, self.free, row))
        scale = abs(value) or 1.0
        columns = self._columns([*self.rows, [entry / scale for entry in row]])

        def squares(new: float) -> float:
            return least_squares(columns, [*self.groups.means, new / scale])[1]

        return profile_interval(
            squares, value, rise=rise, step=1e-3 * scale, ends=(value - 1e3 * scale, value + 1e3 * scale)
        )
