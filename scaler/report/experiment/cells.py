"""One cell of an experiment: what its run measured."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from scaler.core.equivalence import Mode
from scaler.core.samples_to_target import Reached, reached
from scaler.core.step_time import speeds
from scaler.report.compare.curves import RunClock
from scaler.report.experiment.model import CellInput, CellResult
from scaler.report.run.model import Report

TRAIN_LOSS = "train_loss"


def cell_result(cell: CellInput, when: Reached | None) -> CellResult:
    """Return the results of a cell.

    Args:
        cell: with its report, if it has one.
        when: its run reached the target; None: no target, or no run.
    """
    report = cell.report
    about: dict[str, Any] = {
        "cell": cell.cell,
        "overrides": dict(cell.overrides),
        "seed": cell.seed,
        "order": cell.order,
    }
    if report is None:
        return CellResult(
            **about,
            run_id=None,
            state="impossible" if cell.problem else "waiting",
            problem=cell.problem or None,
            world_size=None,
            global_batch_size=None,
            rule=None,
            peak_lr=None,
            total_samples=None,
            final={},
            samples_to_target=None,
            time_to_target_s=None,
            samples_per_s=None,
            train_s=None,
            cost=None,
        )
    samples = when.value if when is not None else None
    return CellResult(
        **about,
        run_id=report.run_id,
        state=report.state,
        problem=report.failure.strip().splitlines()[0] if report.failure else None,
        world_size=report.plan["world_size"],
        global_batch_size=report.plan["global_batch_size"],
        rule=report.plan["rule"],
        peak_lr=report.plan["peak_lr"],
        total_samples=report.plan["total_samples"],
        final=final_values(report),
        samples_to_target=samples,
        time_to_target_s=time_reached(report, when).value if when is not None else None,
        samples_per_s=throughput(report),
        train_s=report.totals.train_s,
        cost=report.cost.total if report.cost is not None else None,
    )


def final_values(report: Report) -> Mapping[str, float | None]:
    """Return the values of the last evaluation, and the training loss, by name."""
    return {**report.final.eval, TRAIN_LOSS: report.final.train_loss_mean}


def metric_curve(report: Report, metric: str) -> list[tuple[float, float]]:
    """Return ``(samples seen, value)`` of each evaluation; of ``train_loss``, of each stretch of steps."""
    series = report.series
    places = series.samples_seen if metric == TRAIN_LOSS else series.eval_samples_seen
    values = series.loss_mean if metric == TRAIN_LOSS else series.evals.get(metric, ())
    found: dict[float, float] = {}
    for place, value in zip(places, values, strict=False):
        found[float(place)] = math.nan if value is None else value  # the last one of each place
    return sorted(found.items())


def when_reached(report: Report, *, metric: str, mode: Mode, target: float) -> Reached | None:
    """Return when a run reached the target; None: it has no value of the metric."""
    curve = metric_curve(report, metric)
    return reached(curve, target=target, mode=mode, hold=min(2, len(curve))) if curve else None


def time_reached(report: Report, when: Reached) -> Reached:
    """Return when a run reached the target, in seconds from its first step, evaluations included.

    A run that did not reach it needs more time than it had.
    """
    clock = RunClock.of(report)
    if when.value is not None and (time := clock.elapsed_at(when.value)) is not None:
        return Reached(value=time, low=time, high=time)
    high = clock.elapsed_at(when.high) if when.is_reached else None
    return Reached(value=None, low=clock.elapsed_at(when.low) or 0.0, high=math.inf if high is None else high)


def throughput(report: Report) -> float | None:
    """Return the samples a second in steps, over all workers, without the first tenth of the run; None: not known.

    It is the harmonic mean over stretches of steps, weighted by their samples: all samples over all time.
    """
    series = report.series
    found = speeds(series.samples_seen, report.totals.samples_seen, series.samples_per_s)
    return found[0] if found else report.totals.samples_per_s


def waits(reports: Sequence[Report]) -> Mapping[str, float | None]:
    """Return what runs lost, as shares of the step time, means over workers and runs.

    ``data_wait``: waiting for data. ``sync_wait``: waiting for the others. ``imbalance``: by how much the slowest
    worker's compute time exceeds the mean. ``tail``: the share of the places in all steps that had no sample, because
    the batch does not divide evenly among the workers, or the last step of an epoch is short.
    """
    shares: dict[str, list[float]] = {"data_wait": [], "sync_wait": [], "imbalance": [], "tail": []}
    for report in reports:
        workers, batch = report.plan["world_size"], report.plan["global_batch_size"]
        places = report.totals.steps * workers * math.ceil(batch / workers)
        if places and max(report.series.global_batch_size, default=batch) <= batch:
            shares["tail"].append(max(0.0, 1 - report.totals.samples_seen / places))
        rows = report.workers
        whole = sum(row.compute_s + row.data_wait_s + row.sync_wait_s + row.update_s for row in rows)
        compute = [row.compute_s for row in rows]
        if not whole or not sum(compute):
            continue
        shares["data_wait"].append(sum(row.data_wait_s for row in rows) / whole)
        shares["sync_wait"].append(sum(row.sync_wait_s for row in rows) / whole)
        shares["imbalance"].append(max(compute) / fmean(compute) - 1)
    return {name: fmean(values) if values else None for name, values in shares.items()}
