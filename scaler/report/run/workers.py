"""The report's row of each worker."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaler.metrics.events import Event, WorkerEnded, WorkerStarted, of_type
from scaler.metrics.means import loss_sums, means_of
from scaler.plan import Plan
from scaler.report.run.model import AttemptRow, StepTime, WorkerRow
from scaler.report.run.step_arrays import BETWEEN, StepArrays
from scaler.report.run.tokens import planned_tokens

SUMS = ("step_time_s", "data_wait_s", "compute_s", "sync_wait_s")


def find_workers(
    arrays: StepArrays, events: Sequence[Event], attempts: Sequence[AttemptRow], plan: Plan
) -> tuple[WorkerRow, ...]:
    """Return a row for each rank with work in the weights, and for each that started but recorded nothing.

    Args:
        arrays: of the run.
        events: of the run, in order.
        attempts: of the run.
        plan: of the run.
    """
    started = {event.rank: event for event in of_type(events, WorkerStarted)}  # the newest of each rank
    after = _after_last_step(events, attempts)
    has_work = np.asarray(arrays.is_there.any(axis=0))
    ranks = [(int(rank), index) for index, rank in enumerate(arrays.ranks) if has_work[index]]
    idle = [(rank, None) for rank in sorted(set(started) - set(arrays.ranks.tolist()))]
    return tuple(
        _row(arrays, index, rank, started.get(rank), after.get(rank, dict.fromkeys(BETWEEN, 0.0)), plan)
        for rank, index in sorted([*ranks, *idle])
    )


def _row(
    arrays: StepArrays,
    index: int | None,
    rank: int,
    started: WorkerStarted | None,
    after: Mapping[str, float],
    plan: Plan,
) -> WorkerRow:
    steps = np.flatnonzero(arrays.is_there[:, index]) if index is not None else np.zeros(0, dtype=np.int64)
    mine = {name: cells[steps, index] if index is not None else np.zeros(0) for name, cells in arrays.cells.items()}
    sums = {name: float(mine[name].sum(dtype=np.float64)) for name in SUMS}
    between = {name: (float(arrays.rank_between[name][index]) if index is not None else 0.0) for name in BETWEEN}
    samples, busy = int(mine["samples"].sum(dtype=np.int64)), sums["step_time_s"]
    gpu_pct = float(arrays.rank_means["gpu_pct"][index]) if index is not None else np.nan
    return WorkerRow(
        rank=rank,
        node=started.node if started is not None else None,
        pid=started.pid if started is not None else None,
        steps=int(arrays.kept["steps"][steps].sum()),
        samples=samples,
        tokens=planned_tokens(arrays.kept["samples_seen"][steps], mine["samples"], plan),
        loss_mean=last_epoch_loss(arrays.kept["samples_seen"][steps], mine["loss"], mine["weight"], plan),
        worker_samples_per_s=samples / busy if busy > 0 else None,
        step_time_s=_step_time(arrays, steps, mine["step_time_s"]),
        data_wait_s=sums["data_wait_s"],
        compute_s=sums["compute_s"],
        sync_wait_s=sums["sync_wait_s"],
        update_s=busy - sums["data_wait_s"] - sums["compute_s"] - sums["sync_wait_s"],
        evaluation_s=between["evaluation_s"] + after["evaluation_s"],
        checkpoint_s=between["checkpoint_s"] + after["checkpoint_s"],
        peak_memory_gib=float(mine["peak_memory_gib"].max()) if len(steps) else 0.0,
        memory_limit_gib=started.memory_limit_gib if started is not None else None,
        device=started.device if started is not None else None,
        cpu_pct=_cpu_pct(mine["cpu_s"], mine["step_time_s"]),
        gpu_pct=gpu_pct if np.isfinite(gpu_pct) else None,
    )


def _step_time(arrays: StepArrays, steps: NDArray[np.int64], times_s: NDArray[Any]) -> StepTime:
    """The times of one worker's optimizer steps; a record of several steps counts as one, with their mean."""
    if not len(steps):
        return StepTime(median=0.0, p95=0.0, worst=0.0, worst_step=None)
    each = times_s / arrays.kept["steps"][steps]
    worst = int(np.argmax(each))
    median, p95 = np.quantile(each, [0.5, 0.95])
    return StepTime(
        median=float(median),
        p95=float(p95),
        worst=float(each[worst]),
        worst_step=int(arrays.kept["step"][steps[worst]]),
    )


def _cpu_pct(cpu_s: NDArray[Any], times_s: NDArray[Any]) -> float | None:
    """CPU time over step time in percent, over the records that have it; None without such records."""
    known = np.isfinite(cpu_s)
    busy = float(times_s[known].sum(dtype=np.float64))
    return float(cpu_s[known].sum(dtype=np.float64)) / busy * 100.0 if busy > 0 else None


def last_epoch_loss(
    seen: NDArray[np.int64], losses: NDArray[np.float64], weights: NDArray[Any], plan: Plan
) -> float | None:
    """Return the mean loss over the steps of the last epoch, or over all steps if there is no whole epoch.

    Args:
        seen: samples seen at the start of each step.
        losses: of each step.
        weights: of these losses in a mean.
        plan: of the run.
    """
    last = in_last_epoch(seen, plan)
    mean = float(means_of(loss_sums(losses[last], weights[last]).sum(), weights[last].sum()))
    return mean if np.isfinite(mean) else None


def in_last_epoch(seen: NDArray[np.int64], plan: Plan) -> NDArray[np.bool_]:
    """Return which steps are in the epoch in which the last step started, as a mask."""
    return seen >= seen[-1] - seen[-1] % plan.num_samples if len(seen) else np.zeros(0, dtype=bool)


def _after_last_step(events: Sequence[Event], attempts: Sequence[AttemptRow]) -> dict[int, dict[str, float]]:
    """Seconds after each rank's last record, by name in ``BETWEEN``, without those that a later attempt did again."""
    kept = {row.attempt for row in attempts if not row.loses_its_end}
    found: dict[int, dict[str, float]] = {}
    for event in of_type(events, WorkerEnded):
        if event.attempt in kept:
            sums = found.setdefault(event.rank, dict.fromkeys(BETWEEN, 0.0))
            for name in BETWEEN:
                sums[name] += getattr(event, name)
    return found
