"""What an experiment would run: every plan, what has run already, and how long the rest takes."""

import math
from collections.abc import Sequence
from contextlib import suppress

from scaler.errors import ScalerError
from scaler.experiment.matrix import Cell, Matrix
from scaler.experiment.run import find_work
from scaler.report.experiment.cells import throughput
from scaler.report.experiment.labels import label
from scaler.report.experiment.progress import DryRun, PlannedCell
from scaler.report.run.read import read_report
from scaler.runs import RunState, list_runs

RECENT = 50  # runs of the storage whose speed is read
BETWEEN_S = 1.0  # from one cell's last step to the next one's first


def dry_run(matrix: Matrix, *, retry: bool = False) -> DryRun:
    """Return what an experiment would run.

    Args:
        matrix: of the experiment.
        retry: whether cells that failed would run again.

    Raises:
        RunError: the storage cannot be read.
    """
    work = find_work(matrix, retry=retry)
    to_run = {cell.number for cell in work.to_run}
    speeds = _speeds(matrix)
    cells = [
        _planned(cell, row.run_id, row.problem, is_to_run=cell.number in to_run, speeds=speeds)
        for cell, row in zip(matrix.cells, work.rows, strict=True)
    ]
    waiting = [cell for cell in cells if cell.is_to_run]
    times, costs = [cell.seconds for cell in waiting], [cell.cost for cell in waiting]
    return DryRun(
        name=matrix.experiment.name,
        cells=cells,
        seconds=sum(time for time in times if time is not None) if None not in times else None,
        cost=sum(cost for cost in costs if cost is not None) if None not in costs and costs else None,
    )


def _planned(
    cell: Cell, run_id: str | None, problem: str, *, is_to_run: bool, speeds: Sequence[tuple[int, int, float]]
) -> PlannedCell:
    plan, job = cell.plan, cell.job
    time = None
    if plan is not None:
        batch = plan.global_batch_size
        near = [(abs(math.log(other / batch)), speed) for workers, other, speed in speeds if workers == plan.world_size]
        time = plan.total_samples / min(near)[1] + BETWEEN_S if near else None
    price = job.resources.price_per_worker_hour if job is not None else None
    return PlannedCell(
        cell=cell.number,
        label=label(cell.overrides),
        seed=cell.seed,
        run_id=run_id,
        is_to_run=is_to_run,
        problem=problem,
        world_size=plan.world_size if plan is not None else None,
        global_batch_size=plan.global_batch_size if plan is not None else None,
        rule=plan.rule if plan is not None else None,
        peak_lr=plan.peak_lr if plan is not None else None,
        total_steps=plan.total_steps if plan is not None else None,
        seconds=time,
        cost=time / 3600 * price * plan.world_size if time and price and plan is not None else None,
    )


def _speeds(matrix: Matrix) -> list[tuple[int, int, float]]:
    """Return workers, global batch and throughput of the finished runs of the job, the newest ones."""
    found = []
    runs = [run for run in list_runs(matrix.base.storage) if run.run_id.startswith(f"{matrix.base.name}-")]
    for run in runs[-RECENT:]:
        with suppress(ScalerError):
            if run.state() is RunState.SUCCEEDED:
                report = read_report(run)
                speed = throughput(report)
                if speed:
                    found.append((report.plan["world_size"], report.plan["global_batch_size"], speed))
    return found
