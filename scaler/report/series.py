"""Curves over the run, thinned for drawing."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaler.report.model import Series
from scaler.report.steps import Columns

SERIES_POINTS = 500


def make_series(steps: Columns, batches: NDArray[np.int64], events: Sequence[Mapping[str, Any]]) -> Series:
    """Return the curves of at most ``SERIES_POINTS`` stretches of steps.

    Args:
        steps: the run's, in order.
        batches: the global batch size of each.
        events: those of work that is in the weights.
    """
    count = len(steps["samples_seen"])
    starts = np.unique(np.linspace(0, count, num=min(count, SERIES_POINTS), endpoint=False).astype(np.int64))
    evaluations = {event["samples_seen"]: event["values"] for event in events if event["kind"] == "evaluated"}
    names = sorted({name for values in evaluations.values() for name in values})
    if not count:
        thinned: dict[str, tuple[float | None, ...]] = {"loss": (), "loss_min": (), "loss_max": ()}
    else:
        samples = steps["samples"].astype(np.float64)
        mean = np.add.reduceat(steps["loss"] * samples, starts) / np.add.reduceat(samples, starts)
        thinned = {
            "loss": _finite(mean),
            "loss_min": _finite(np.fmin.reduceat(steps["loss_min"], starts)),
            "loss_max": _finite(np.fmax.reduceat(steps["loss_max"], starts)),
        }
    noise = _noise_points(steps)
    return Series(
        samples_seen=tuple(steps["samples_seen"][starts].tolist()),
        loss_mean=thinned["loss"],
        loss_min=thinned["loss_min"],
        loss_max=thinned["loss_max"],
        lr=_finite(steps["lr"][starts]),
        lr_planned=_finite(steps["lr_planned"][starts]),
        global_batch_size=tuple(batches[starts].tolist()),
        progress=tuple(steps["progress"][starts].tolist()),
        noise_samples_seen=tuple(steps["samples_seen"][noise].tolist()),
        noise_scale=_finite(steps["noise_scale"][noise].astype(np.float64)),
        eval_samples_seen=tuple(sorted(evaluations)),
        evals={name: tuple(evaluations[at].get(name) for at in sorted(evaluations)) for name in names},
    )


def _noise_points(steps: Columns) -> NDArray[np.int64]:
    """Which of the measured steps are drawn: evenly, the first and the last among them. They are averages already."""
    measured = np.flatnonzero(np.isfinite(steps["grad_signal"].astype(np.float64)))
    chosen = np.linspace(0, len(measured) - 1, num=min(len(measured), SERIES_POINTS)).round().astype(np.int64)
    return measured[chosen]


def _finite(values: NDArray[np.float64]) -> tuple[float | None, ...]:
    """JSON has no NaN: what is not a number is not known."""
    return tuple(float(value) if np.isfinite(value) else None for value in values)
