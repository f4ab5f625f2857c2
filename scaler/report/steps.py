"""The records as arrays: one entry for each worker's step, then one for each step."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scaler.metrics.record import Record
from scaler.plan import Plan
from scaler.report.model import AttemptRow

Columns = Mapping[str, NDArray[Any]]

_OF_ALL = ("samples_seen", "attempt", "progress", "lr", "lr_planned", "grad_signal", "grad_variance", "noise_scale")


def to_columns(records: pa.Table) -> Columns:
    """Return the records of ``read_records`` as arrays, ordered by step and rank; a missing value is NaN."""
    ordered = records.sort_by([("attempt", "ascending"), ("samples_seen", "ascending"), ("rank", "ascending")])
    return {name: ordered[name].to_numpy(zero_copy_only=False) for name in (*Record._fields, "lost")}


def surviving(columns: Columns, attempts: Sequence[AttemptRow]) -> Columns:
    """Return only the records of work that is in the final weights."""
    if not attempts:
        return chosen(columns, np.zeros(len(columns["step"]), dtype=bool))
    known = np.isin(columns["attempt"], [row.attempt for row in attempts])  # others' start was not said yet
    return chosen(columns, known & ~columns["lost"] & (columns["samples_seen"] < attempts[-1].end_samples))


def chosen(columns: Columns, keep: NDArray[np.bool_]) -> Columns:
    """Return the entries that ``keep`` says."""
    return {name: column[keep] for name, column in columns.items()}


def by_step(columns: Columns) -> Columns:
    """Return one entry for each step, over the workers that recorded it; what is the same on all is the first's."""
    seen = columns["samples_seen"]
    starts = np.flatnonzero(np.r_[True, seen[1:] != seen[:-1]]) if len(seen) else np.zeros(0, dtype=np.int64)
    of_all = {name: columns[name][starts] for name in _OF_ALL}
    if not len(starts):
        empty = np.zeros(0)
        names = ("loss", "loss_min", "loss_max", "step_time_s")
        return {**of_all, "samples": np.zeros(0, dtype=np.int64), **dict.fromkeys(names, empty)}
    weight = columns["samples"].astype(np.float64)
    loss = columns["loss"].astype(np.float64)
    counted = np.where(weight > 0, loss, np.nan)  # an empty share has no loss
    weighted = np.where(weight > 0, loss * weight, 0.0)
    samples = np.add.reduceat(weight, starts)
    return {
        **of_all,
        "samples": samples.astype(np.int64),
        "loss": np.divide(
            np.add.reduceat(weighted, starts), samples, out=np.full(len(starts), np.nan), where=samples > 0
        ),
        "loss_min": np.fmin.reduceat(counted, starts),
        "loss_max": np.fmax.reduceat(counted, starts),
        "step_time_s": np.maximum.reduceat(columns["step_time_s"], starts),
    }


def progress_after(steps: Columns, plan: Plan, samples_seen: int) -> float:
    """Return how far training came with ``steps``, in samples of the reference's training.

    Records say where each step began; where the last one ended is put on as if it were worth what the one before was.
    """
    if not plan.is_measured or not len(steps["progress"]):
        return float(samples_seen)
    seen, progress = steps["samples_seen"][-2:], steps["progress"][-2:]
    worth = (progress[1] - progress[0]) / (seen[1] - seen[0]) if len(seen) == 2 else 1.0 / plan.batch_ratio
    return float(progress[-1] + worth * steps["samples"][-1])


def has_ended(steps: Columns, plan: Plan, samples_seen: int) -> bool:
    """Return whether an attempt of these steps trained to the end of its plan."""
    return samples_seen >= plan.most_samples or progress_after(steps, plan, samples_seen) >= plan.total_samples
