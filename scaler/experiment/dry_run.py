"""What an experiment would run: every plan, what has run already, and how long the rest takes."""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from scaler.errors import ScalerError
from scaler.experiment.matrix import Cell, Matrix
from scaler.experiment.run import find_work
from scaler.report.experiment.cells import throughput
from scaler.report.experiment.labels import label
from scaler.report.run.read import read_report
from scaler.report.text.format import money, number, option, plural, printable, seconds
from scaler.runs import RunState, list_runs

RECENT = 50  # runs of the storage whose speed is read
BETWEEN_S = 1.0  # from one cell's last step to the next one's first


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedCell:
    """One cell of a dry run.

    Args:
        cell: its number.
        label: what the matrix sets.
        seed: ``train.seed``.
        run_id: its run, if it has one.
        is_to_run: whether it would run.
        problem: why it cannot run; empty: it can.
        world_size: workers.
        global_batch_size: samples a step.
        rule: of ``scale.rule``.
        peak_lr: peak learning rate.
        total_steps: optimizer steps.
        seconds: estimated from the speed of finished runs with as many workers; None: there is none.
        cost: of these seconds, in the currency of the job's price; None: no price, or no estimate.
    """

    cell: int
    label: str
    seed: int
    run_id: str | None
    is_to_run: bool
    problem: str
    world_size: int | None
    global_batch_size: int | None
    rule: str | None
    peak_lr: float | None
    total_steps: int | None
    seconds: float | None
    cost: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class DryRun:
    """What an experiment would run.

    Args:
        name: of the experiment.
        cells: in the order of the matrix.
        seconds: of all cells that would run; None: not known for one of them.
        cost: of all cells that would run; None: not known for one of them.
    """

    name: str
    cells: Sequence[PlannedCell]
    seconds: float | None
    cost: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)

    def text(self) -> RenderableType:
        """Return it for a terminal: a row for each combination, then the sums."""
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
        for place, name in enumerate(("setting", "workers", "batch", "rule", "peak lr", "steps", "seeds", "to run")):
            table.add_column(name, justify="left" if place in (0, 3) else "right", overflow="fold")
        groups: dict[str, list[PlannedCell]] = {}
        for cell in self.cells:
            groups.setdefault(cell.label, []).append(cell)
        for name, cells in groups.items():
            first = cells[0]
            table.add_row(
                printable(name),
                number(first.world_size),
                number(first.global_batch_size),
                first.rule or "–",
                option(first.peak_lr) if first.peak_lr is not None else "–",
                number(first.total_steps),
                f"{len(cells)}",
                f"{sum(cell.is_to_run for cell in cells)}",
            )
        to_run = sum(cell.is_to_run for cell in self.cells)
        have_run = sum(cell.run_id is not None and not cell.is_to_run for cell in self.cells)
        time = (
            f"about {seconds(self.seconds)}"
            if self.seconds is not None
            else "a time that is not known: no finished run has as many workers"
        )
        cost = f", at a cost of {money(self.cost)}" if self.cost is not None else ""
        whole = f"{plural(len(self.cells), 'cell')}: {have_run:,} have run, {to_run:,} to run in {time}{cost}."
        problems = [
            Text(printable(f"{name}: {cells[0].problem.splitlines()[0]}"))
            for name, cells in groups.items()
            if cells[0].problem
        ]
        refused = [Text(""), Text("Cannot run", style="bold"), *problems] if problems else []
        return Group(table, *refused, Text(""), Text(whole, style="bold"))


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
