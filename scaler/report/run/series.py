"""The curves of a run, thinned for drawing."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaler.metrics.events import Evaluated, Event, of_type
from scaler.metrics.means import loss_sums, means_of
from scaler.report.run.elapsed import Elapsed
from scaler.report.run.model import AttemptRow, Series
from scaler.report.run.step_arrays import Columns, StepArrays

SERIES_POINTS = 500


def make_series(
    arrays: StepArrays,
    batches: NDArray[np.int64],
    events: Sequence[Event],
    attempts: Sequence[AttemptRow],
    elapsed: Elapsed,
) -> Series:
    """Return the curves, as at most ``SERIES_POINTS`` points; each stands for a stretch of steps.

    Args:
        arrays: of the run.
        batches: the global batch size of each step in the weights.
        events: those about work that is in the weights.
        attempts: of the run.
        elapsed: the elapsed seconds at the start of each step.
    """
    steps = arrays.kept
    stretches = _Stretches(len(steps["samples_seen"]))
    starts, loss_weight = stretches.starts, stretches.sum(steps["weight"])
    began = elapsed.of_steps(arrays.steps["is_kept"])
    sizes = {row.attempt: row.world_size for row in attempts}
    parts, speeds = _parts(arrays), _divided(steps["samples"].astype(np.float64), steps["own_s"])
    noise = _noise_points(steps)
    evaluations = {event.samples_seen: event for event in of_type(events, Evaluated)}
    places = sorted(evaluations)
    names = sorted({name for event in evaluations.values() for name in event.values})
    return Series(
        samples_seen=tuple(steps["samples_seen"][starts].tolist()),
        elapsed_s=_finite(began[starts]),
        loss_mean=_finite(means_of(stretches.sum(loss_sums(steps["loss"], steps["weight"])), loss_weight)),
        loss_weight=_finite(loss_weight),
        loss_min=_finite(stretches.least(steps["loss_min"])),
        loss_max=_finite(stretches.most(steps["loss_max"])),
        lr=_finite(steps["lr"][starts]),
        lr_planned=_finite(steps["lr_planned"][starts]),
        global_batch_size=tuple(batches[starts].tolist()),
        progress=tuple(steps["progress"][starts].tolist()),
        world_size=tuple(sizes[attempt] for attempt in steps["attempt"][starts].tolist()),
        samples_per_s=_finite(stretches.over(steps["samples"], steps["own_s"])),
        samples_per_s_min=_finite(stretches.least(speeds)),
        samples_per_s_max=_finite(stretches.most(speeds)),
        step_time_s_max=tuple(stretches.most(steps["step_time_s"] / steps["steps"]).tolist()),
        compute_s=tuple(stretches.over(parts["compute_s"], steps["steps"]).tolist()),
        data_wait_s=tuple(stretches.over(parts["data_wait_s"], steps["steps"]).tolist()),
        sync_wait_s=tuple(stretches.over(parts["sync_wait_s"], steps["steps"]).tolist()),
        update_s=tuple(stretches.over(parts["update_s"], steps["steps"]).tolist()),
        memory_gib_mean=_finite(stretches.mean(arrays.over_ranks("peak_memory_gib"))),
        memory_gib_max=_finite(stretches.most(_most_of_ranks(arrays, "peak_memory_gib"))),
        grad_norm_mean=_finite(stretches.mean(steps["grad_norm"])),
        grad_norm_max=_finite(stretches.most(steps["grad_norm"])),
        noise_samples_seen=tuple(steps["samples_seen"][noise].tolist()),
        noise_elapsed_s=_finite(began[noise]),
        noise_scale=_finite(steps["noise_scale"][noise]),
        eval_samples_seen=tuple(places),
        eval_elapsed_s=tuple(elapsed.at(evaluations[at].attempt, at) for at in places),
        evals={name: tuple(evaluations[at].values.get(name) for at in places) for name in names},
    )


class _Stretches:
    """Steps, divided into stretches of about equal length; without steps there is no stretch."""

    def __init__(self, count: int) -> None:
        points = np.linspace(0, count, num=min(count, SERIES_POINTS), endpoint=False)
        self.starts = np.unique(points.astype(np.int64))
        self._lengths = np.diff(np.r_[self.starts, count])

    def _reduce(self, how: np.ufunc, values: NDArray[Any]) -> NDArray[np.float64]:
        values = values.astype(np.float64)
        return np.asarray(how.reduceat(values, self.starts)) if len(self.starts) else np.zeros(0)

    def least(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """The smallest value of each stretch, without NaN."""
        return self._reduce(np.fmin, values)

    def most(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """The largest value of each stretch, without NaN."""
        return self._reduce(np.fmax, values)

    def sum(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """The sum of each stretch."""
        return self._reduce(np.add, values)

    def over(self, values: NDArray[Any], by: NDArray[Any]) -> NDArray[np.float64]:
        """The sum of each stretch over the sum of ``by``; NaN where that is 0."""
        return _divided(self.sum(values), self.sum(by))

    def mean(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """The mean of each stretch."""
        return np.asarray(self.sum(values) / self._lengths)


def _divided(values: NDArray[np.float64], by: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.divide(values, by, out=np.full(len(by), np.nan), where=by > 0))


def _parts(arrays: StepArrays) -> dict[str, NDArray[np.float64]]:
    """The parts of each step's time: means over ranks."""
    parts = {name: arrays.over_ranks(name) for name in ("compute_s", "data_wait_s", "sync_wait_s")}
    return {**parts, "update_s": arrays.kept["own_s"] - sum(parts.values())}


def _most_of_ranks(arrays: StepArrays, name: str) -> NDArray[Any]:
    return np.fmax.reduce(arrays.cells[name], axis=1) if len(arrays.ranks) else np.zeros(0)


def _noise_points(steps: Columns) -> NDArray[np.int64]:
    """The measured steps that are drawn: evenly spaced, with the first and the last. They are averages already."""
    measured = np.flatnonzero(np.isfinite(steps["grad_signal"]))
    chosen = np.linspace(0, len(measured) - 1, num=min(len(measured), SERIES_POINTS)).round().astype(np.int64)
    return measured[chosen]


def _finite(values: NDArray[np.float64]) -> tuple[float | None, ...]:
    """Values for JSON, which has no NaN: None instead."""
    return tuple(float(value) if np.isfinite(value) else None for value in values)
