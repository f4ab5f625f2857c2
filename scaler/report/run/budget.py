"""Where a run's time went, what it cost, and what its workers achieved."""

from collections.abc import Mapping, Sequence

import numpy as np

from scaler.metrics.events import AttemptStarted, Event, WorkerEnded, of_type
from scaler.report.run.model import AttemptRow, Budget, Cost, Flops, Scaling, Totals
from scaler.report.run.step_arrays import BETWEEN, StepArrays

PARTS = ("compute_s", "data_wait_s", "sync_wait_s")
HOUR_S = 3600.0


def after_last_step(events: Sequence[Event]) -> dict[int, dict[str, float]]:
    """Return the seconds after the last record of each attempt, by name in ``BETWEEN``: means over its ranks."""
    ends: dict[int, list[WorkerEnded]] = {}
    for event in of_type(events, WorkerEnded):
        ends.setdefault(event.attempt, []).append(event)
    return {
        attempt: {name: sum(getattr(event, name) for event in mine) / len(mine) for name in BETWEEN}
        for attempt, mine in ends.items()
    }


def find_budget(
    arrays: StepArrays, attempts: Sequence[AttemptRow], after: Mapping[int, Mapping[str, float]], totals: Totals
) -> Budget | None:
    """Return where the wall clock went; None until the run has ended, or where its times are not known.

    Args:
        arrays: of the run.
        attempts: of the run. Without any, all of the time is start-up.
        after: seconds after the last record of each attempt.
        totals: of the run.
    """
    if totals.wall_s is None:
        return None
    startup_s = attempts[0].elapsed_s if attempts else totals.wall_s
    if startup_s is None:
        return None
    undone = [row.attempt for row in attempts if row.loses_its_end]
    workers = np.maximum(arrays.kept["workers"], 1)
    between = {
        name: float((arrays.between[name] / workers).sum())
        + sum(parts[name] for attempt, parts in after.items() if attempt not in undone)
        for name in BETWEEN
    }
    parts = {name: float(arrays.over_ranks(name).sum()) for name in PARTS}
    lost = arrays.steps["lost"]
    spent = {
        "startup_s": startup_s,
        **parts,
        "update_s": float(arrays.kept["own_s"].sum()) - sum(parts.values()),
        **between,
        "redone_s": float((arrays.steps["own_s"] + arrays.steps["between_s"])[lost].sum())
        + sum(sum(after[attempt].values()) for attempt in undone if attempt in after),
        "restart_s": totals.restart_s,
    }
    return Budget(**spent, other_s=totals.wall_s - sum(spent.values()))


def find_cost(price: float | None, attempts: Sequence[AttemptRow], totals: Totals) -> Cost | None:
    """Return what the run cost; None without a price, until the run has ended, or where times are not known.

    Each attempt's workers are paid from the end of the attempt before, or from submission, to its own end.

    Args:
        price: of a worker and hour.
        attempts: of the run. One that never began an attempt cost nothing that is known.
        totals: of the run.
    """
    if price is None or totals.wall_s is None:
        return None
    starts = [row.elapsed_s for row in attempts if row.elapsed_s is not None]
    if not starts or len(starts) < len(attempts):
        return None
    ends = [start - (row.restart_s or 0.0) for start, row in zip(starts[1:], attempts, strict=False)]
    paid = zip(attempts, [0.0, *ends], [*ends, totals.wall_s], strict=True)
    hours = sum(row.world_size * (end - begin) for row, begin, end in paid) / HOUR_S
    total = hours * price
    return Cost(
        price_per_worker_hour=price,
        worker_hours=hours,
        total=total,
        per_million_samples=total / totals.samples_seen * 1e6 if totals.samples_seen else None,
    )


def find_scaling(
    arrays: StepArrays,
    attempts: Sequence[AttemptRow],
    *,
    one_worker: tuple[float, str] | None,
    reference_samples_per_s: float | None,
) -> Scaling | None:
    """Return the efficiency of the attempts with as many workers as the last one with steps; None without steps.

    The speed of one worker is the first of these that is known: ``one_worker``, the job's reference, the last attempt
    of this run with one worker, if it had more later.

    Args:
        arrays: of the run.
        attempts: of the run.
        one_worker: samples/s of one worker in another run, and the name of that run.
        reference_samples_per_s: ``reference.samples_per_s``.
    """
    speeds = [(row, speed) for row in attempts if (speed := _worker_samples_per_s(arrays, [row.attempt])) is not None]
    if not speeds:
        return None
    judged, _ = speeds[-1]
    mine = _worker_samples_per_s(arrays, [row.attempt for row in attempts if row.world_size == judged.world_size])
    assert mine is not None
    known: list[tuple[float, str]] = [] if one_worker is None else [one_worker]
    if reference_samples_per_s is not None:
        known.append((reference_samples_per_s, "reference.samples_per_s"))
    if judged.world_size > 1:  # one worker is not compared with itself
        known += [(speed, f"attempt {row.attempt}") for row, speed in reversed(speeds) if row.world_size == 1]
    alone, source = known[0] if known else (None, None)
    return Scaling(
        world_size=judged.world_size,
        worker_samples_per_s=mine,
        one_worker_samples_per_s=alone,
        efficiency=mine / alone if alone is not None else None,
        source=source,
    )


def _worker_samples_per_s(arrays: StepArrays, attempts: Sequence[int]) -> float | None:
    """Samples of attempts over their workers' step times; None without steps in the weights."""
    mine = np.isin(arrays.kept["attempt"], attempts)
    worker_s = float((arrays.kept["own_s"][mine] * arrays.kept["workers"][mine]).sum())
    return float(arrays.kept["samples"][mine].sum()) / worker_s if worker_s > 0 else None


def find_flops(scaling: Scaling | None, events: Sequence[Event], peak_tflops: float | None) -> Flops | None:
    """Return the speed in FLOPs; None without steps, or if the recipe does not give its FLOPs.

    Args:
        scaling: of the run, with the speed of its last attempt with steps.
        events: of the run; ``AttemptStarted`` has the recipe's ``flops_per_sample``.
        peak_tflops: of a worker's device.
    """
    starts = of_type(events, AttemptStarted)
    each = starts[-1].flops_per_sample if starts else None
    if scaling is None or each is None:
        return None
    tflops = scaling.worker_samples_per_s * each / 1e12
    return Flops(
        flops_per_sample=each,
        worker_tflops=tflops,
        peak_tflops=peak_tflops,
        mfu=tflops / peak_tflops if peak_tflops is not None else None,
    )
