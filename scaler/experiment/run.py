"""Run the cells of an experiment that have not run yet."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from time import monotonic

from scaler.cluster.connection import Connection, can_fork, connect
from scaler.cluster.progress import Progress
from scaler.cluster.run_driver import require_runnable
from scaler.cluster.search.spec import TrialNews
from scaler.cluster.train_run import train_run
from scaler.core.nearest import nearest
from scaler.errors import ClusterError, JobFileError, RunError, ScalerError
from scaler.experiment.cell_runs import find_cell_runs
from scaler.experiment.folder import About, CellRow, ExperimentFolder
from scaler.experiment.matrix import NOT_IN_A_MATRIX, Cell, Matrix, worker_group
from scaler.experiment.search import cost_of, require_price
from scaler.metrics.events import AttemptStarted, Evaluated, Event, LeaveRequested, of_type
from scaler.metrics.reader import read_events
from scaler.report.experiment.cells import TRAIN_LOSS
from scaler.report.text.format import plural
from scaler.runs import RunFolder, RunState


@dataclass(frozen=True, kw_only=True, slots=True)
class Watcher:
    """What a caller hears of an experiment that runs.

    Args:
        on_wait: called with what the experiment does before it can start the next cell, such as ``starting 8 workers``.
        on_start: called with a cell, its place among the cells that run, and their number, before it starts.
        on_progress: called with the progress of the cell that runs, a few times a second.
        on_end: called with a cell and its run, or with the error that ended it.
        on_notice: called with a sentence for the user.
        on_trial: called with what a trial of a search has done, every second or so.
    """

    on_wait: Callable[[str], None] = lambda text: None
    on_start: Callable[[Cell, int, int], None] = lambda cell, place, number: None
    on_progress: Callable[[Progress], None] = lambda progress: None
    on_end: Callable[[Cell, RunFolder | None, ScalerError | None], None] = lambda cell, folder, error: None
    on_notice: Callable[[str], None] = lambda notice: None
    on_trial: Callable[[TrialNews], None] = lambda news: None


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What an experiment has and what it still has to do.

    Args:
        rows: one for each cell, with the runs that exist.
        unfinished: by the cell's number, a run that was interrupted and is to be resumed.
        to_run: the cells to run, in the order in which they run.
    """

    rows: Sequence[CellRow]
    unfinished: dict[int, RunFolder]
    to_run: Sequence[Cell]


def find_work(matrix: Matrix, *, address: str | None = None, retry: bool = False) -> Work:
    """Return the runs that exist for the cells of an experiment, and the cells that are to run.

    A cell with the job of a finished run is not run again. A run that failed is not tried again, unless ``retry``.

    Args:
        matrix: of the experiment.
        address: of a running cluster; None: an embedded one, whose size is known.
        retry: whether to resume runs that failed.

    Raises:
        RunError: the storage cannot be read.
        JobFileError: the matrix has a key that all cells must share.
    """
    require_price(matrix)
    for key in matrix.experiment.matrix:
        if key.split(".")[0] in NOT_IN_A_MATRIX:
            raise JobFileError(f"the matrix has {key}, which all cells share.", "Set it in the job.")
    runs = find_cell_runs(matrix.cells, storage=matrix.base.storage)
    rows, unfinished, done = [], {}, set()
    for cell in matrix.cells:
        row = CellRow(cell=cell.number, overrides=cell.overrides, seed=cell.seed, problem=cell.problem)
        run = runs.get(cell.number)
        if run is None and cell.plan is not None:
            row = replace(row, problem=_problem(cell, matrix, address=address))
        elif run is not None:
            folder, state = run.folder, run.state
            row = row.with_run(folder.run_id)
            if state is RunState.SUCCEEDED or (state is RunState.FAILED and not retry):
                done.add(cell.number)
            elif state in (RunState.STARTING, RunState.RUNNING):
                raise RunError(
                    f"run {folder.run_id} of a cell is running.", f"Wait for it: scaler wait {folder.run_id}"
                )
            else:
                unfinished[cell.number] = folder
        rows.append(row)
    impossible = {row.cell for row in rows if row.problem}
    to_run = [cell for cell in matrix.in_running_order() if cell.number not in done | impossible]
    return Work(rows=rows, unfinished=unfinished, to_run=to_run)


def _problem(cell: Cell, matrix: Matrix, *, address: str | None) -> str:
    """Return why a cell with a plan cannot run here; empty: it can."""
    assert cell.job is not None
    assert cell.plan is not None
    try:
        require_runnable(cell.job, cell.plan, recipe_folder=matrix.recipe_folder, address=address)
    except ScalerError as error:
        return str(error)
    return ""


def run_cells(
    matrix: Matrix,
    work: Work,
    folder: ExperimentFolder,
    about: About,
    *,
    address: str | None = None,
    verbose: bool = False,
    watcher: Watcher = Watcher(),
) -> None:
    """Run cells, one after another; cells with the same number of workers and resources share a group of workers.

    A cell that fails does not end the experiment; a cluster that is lost does.

    Args:
        matrix: of the experiment.
        work: what to run.
        folder: of the experiment; it is written after each cell.
        about: what the cells share.
        address: of a running cluster, ``auto`` or ``host:port``; None: an embedded cluster.
        verbose: show Ray's log.
        watcher: hears what happens.

    Raises:
        ClusterError: there is no such cluster, or it was lost.
        RunError: the storage cannot be written.
        KeyboardInterrupt: Ctrl-C or SIGTERM. The cell that ran has a checkpoint, and continues with the next call.
    """
    rows, budget = list(work.rows), matrix.experiment.budget
    until = None if budget.hours is None else monotonic() + budget.hours * 3600
    cells = work.to_run if budget.runs is None else work.to_run[: budget.runs]
    order = 0
    ran = [row.run_id for row in rows if row.run_id is not None and row.cell not in work.unfinished]
    spent = 0.0 if budget.cost is None else sum(cost_of(run_id, storage=about.storage) for run_id in ran)

    def write() -> None:
        folder.write_cells(matrix.experiment, rows, about)

    write()
    if not cells:
        return
    jobs = [cell.job for cell in cells if cell.job is not None]
    most = max(jobs, key=lambda job: (not can_fork(job), job.scale.max_workers))  # its cluster suits all
    watcher.on_wait("starting an embedded Ray" if address is None else f"connecting to the Ray at {address}")
    with connect(
        most, recipe_folder=matrix.recipe_folder, address=address, verbose=verbose, on_notice=watcher.on_notice
    ) as connection:
        for _, group in groupby(cells, key=worker_group):
            members = list(group)
            assert members[0].plan is not None
            watcher.on_wait(f"starting {plural(members[0].plan.world_size, 'worker')}")
            with _with_group(connection, members, is_embedded=address is None) as shared:
                for cell in members:
                    if until is not None and monotonic() > until:
                        return
                    if budget.cost is not None and spent >= budget.cost:
                        return
                    watcher.on_start(cell, order, len(cells))
                    run, error = _run_cell(cell, matrix, work, shared, address=address, watcher=watcher)
                    row = rows[cell.number]
                    rows[cell.number] = (
                        replace(row, problem=str(error)) if run is None else row.with_run(run.run_id, order=order)
                    )
                    order += 1
                    write()
                    if run is not None and error is None:
                        events = read_events(run)
                        require_metric(matrix, run, events)
                        end_if_interrupted(events)
                    if run is not None and budget.cost is not None:
                        spent += cost_of(run.run_id, storage=about.storage)


def require_metric(matrix: Matrix, run: RunFolder, events: Sequence[Event]) -> None:
    """End an experiment whose runs do not have the value that it compares: each further one would lack it too.

    Raises:
        JobFileError: names the values that a run has.
    """
    compare = matrix.experiment.compare
    if compare is None or compare.metric == TRAIN_LOSS:
        return
    evaluations = of_type(events, Evaluated)
    names = sorted(evaluations[-1].values) if evaluations else []
    if compare.metric not in names:
        near = nearest(compare.metric, names)
        hint = f"Did you mean {near}? " if near is not None else ""
        raise JobFileError(
            f"run {run.run_id} has no value {compare.metric}, which the experiment compares.",
            f"{hint}Its evaluation has: {', '.join(names) or 'nothing'}; and there is {TRAIN_LOSS}.",
        )


def end_if_interrupted(events: Sequence[Event]) -> None:
    """End an experiment that got Ctrl-C in the last steps of a cell: its run asked the workers to stop, and finished.

    Args:
        events: of the run.

    Raises:
        KeyboardInterrupt: the last attempt of the run was asked to stop.
    """
    asked = [event for event in of_type(events, LeaveRequested) if event.why == "stop"]
    attempts = of_type(events, AttemptStarted)
    if asked and asked[-1].attempt == attempts[-1].attempt:
        raise KeyboardInterrupt


def _run_cell(
    cell: Cell, matrix: Matrix, work: Work, connection: Connection, *, address: str | None, watcher: Watcher
) -> tuple[RunFolder | None, ScalerError | None]:
    """Train a cell to its end, from its checkpoint if its run was interrupted; return its run and what ended it."""
    assert cell.job is not None
    assert cell.plan is not None
    unfinished = work.unfinished.get(cell.number)
    started: list[RunFolder] = []
    error: ScalerError | None = None
    try:
        train_run(
            cell.job,
            cell.plan,
            unfinished=unfinished,
            recipe_folder=matrix.recipe_folder,
            address=address,
            connection=connection,
            on_start=started.append,
            on_progress=watcher.on_progress,
            on_notice=watcher.on_notice,
        )
    except (ClusterError, RunError):
        raise
    except ScalerError as raised:
        error = raised
    run = started[0] if started else unfinished
    watcher.on_end(cell, run, error)
    return run, error


@contextmanager
def _with_group(connection: Connection, cells: Sequence[Cell], *, is_embedded: bool) -> Iterator[Connection]:
    """Give the connection workers that several runs share; elastic jobs start their own for each run."""
    job = cells[0].job
    assert job is not None
    if job.scale.is_elastic:
        yield connection
        return
    from scaler.cluster.kept.group import KeptGroup

    with KeptGroup(job, is_embedded=is_embedded) as group:
        seeds = [cell.seed for cell in cells]
        group.prepare(connection.recipe, connection.recipe_folder, seeds=seeds)
        yield replace(connection, group=group)
