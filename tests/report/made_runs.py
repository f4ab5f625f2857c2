"""Make the records of an attempt from arrays of losses and times."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from made_events import make_event
from numpy.typing import ArrayLike, NDArray
from synthetic import Tables

from scaler.metrics.files import SCHEMA
from scaler.report.run.step_arrays import StepArrays, make_step_arrays

SAMPLES = 16  # of a rank in a step
NETWORK_S = 0.002  # of an all-reduce, after the last rank has come


def steps_of(
    steps: int,
    ranks: int = 2,
    *,
    loss: ArrayLike | None = None,
    lr: ArrayLike = 0.1,
    data_s: ArrayLike = 0.005,
    compute_s: ArrayLike = 0.1,
    update_s: ArrayLike = 0.005,
    network_s: ArrayLike = NETWORK_S,
    samples: ArrayLike = SAMPLES,
    merged: int = 1,
    attempt: int = 0,
    start: int = 0,
) -> pa.Table:
    """Return the records of an attempt. Values are broadcast to steps x ranks.

    All ranks wait for the one with the longest own time, then take ``network_s``. By default the loss falls with the
    inverse square root of the steps, without noise. ``merged`` is how many optimizer steps a record stands for.
    """
    shape = (steps, ranks)
    if loss is None:
        loss = healthy_loss(steps)[:, None]
    counts = np.broadcast_to(np.asarray(samples), shape).astype(np.int64)
    data, compute, update = (np.broadcast_to(np.asarray(one), shape) for one in (data_s, compute_s, update_s))
    own = data + compute + update
    sync = own.max(axis=1, keepdims=True) - own + np.broadcast_to(np.asarray(network_s), shape)
    seen = start + np.concatenate(([0], np.cumsum(counts.sum(axis=1))[:-1]))
    columns: dict[str, Any] = {
        "attempt": attempt,
        "rank": np.arange(ranks),
        "step": np.arange(steps)[:, None],
        "samples_seen": seen[:, None],
        "progress": seen[:, None].astype(float),
        "lr": _by_step(lr),
        "lr_planned": _by_step(lr),
        "samples": counts,
        "loss": loss,
        "step_time_s": (own + sync) * merged,
        "data_wait_s": data * merged,
        "compute_s": compute * merged,
        "sync_wait_s": sync * merged,
        "grad_norm": 1.0,
        "peak_memory_gib": 0.5,
        "evaluation_s": 0.0,
        "checkpoint_s": 0.0,
        "steps": merged,
    }
    return pa.table(
        {
            field.name: pa.array(np.broadcast_to(np.asarray(columns[field.name]), shape).ravel(), type=field.type)
            if field.name in columns
            else pa.nulls(steps * ranks, type=field.type)
            for field in SCHEMA
        }
    )


def step_arrays_of(*tables: pa.Table) -> StepArrays:
    """Return the step arrays of attempts whose steps are all in the final weights."""
    attempts = sorted({attempt for table in tables for attempt in table["attempt"].unique().to_pylist()})
    starts = {
        attempt: min(table["samples_seen"][0].as_py() for table in tables if table["attempt"][0].as_py() == attempt)
        for attempt in attempts
    }
    events = [make_event("attempt_started", attempt=it, start_samples=starts[it]) for it in attempts]
    return make_step_arrays(Tables(of_files=tables), events)


def _by_step(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    return array[:, None] if array.ndim == 1 else array


def healthy_loss(steps: int, *, power: float = 0.5, start: float = 2.3, floor: float = 0.3) -> NDArray[np.float64]:
    """Return a loss that falls as a power of the steps, as in a healthy training."""
    return floor + (start - floor) * (1.0 + np.arange(steps) / (steps / 50)) ** -power


def with_noise(
    level: Sequence[float] | NDArray[np.float64], ranks: int, share: float, random: np.random.Generator
) -> NDArray[np.float64]:
    """Return losses of ranks with gamma noise around ``level``, whose standard deviation is ``share`` of it."""
    shape = 1.0 / share**2
    means = np.asarray(level, dtype=np.float64)[:, None]
    return means * random.gamma(shape, 1.0 / shape, size=(len(means), ranks))


def warmup_cosine(steps: int, *, peak: float = 0.1, warmup: float = 0.1) -> NDArray[np.float64]:
    """Return the learning rates of a linear warmup and a cosine to 0."""
    place = np.arange(steps) / steps
    fall = 0.5 * (1.0 + np.cos(np.pi * (place - warmup) / (1.0 - warmup)))
    return peak * np.where(place < warmup, (place + 1.0 / steps) / warmup, fall)
