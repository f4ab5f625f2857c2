"""Read an experiment: its cells, the reports of their runs, and what they show."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from scaler.experiment.file import ExperimentFile
from scaler.experiment.folder import CellRow, ExperimentFolder
from scaler.experiment.recommended import FILE, is_of
from scaler.report.experiment.labels import label
from scaler.report.experiment.model import CellInput, ExperimentReport, Question
from scaler.report.experiment.summary import summarize_experiment
from scaler.report.experiment.trials import SearchQuestion, TrialInput, summarize_search
from scaler.report.run.read import read_report
from scaler.report.run.tokens import in_one_unit
from scaler.runs.find import run_with_id

READERS = 8


def read_experiment(folder: ExperimentFolder) -> ExperimentReport:
    """Return the report of an experiment, also while it runs.

    Raises:
        RunError: the folder, or the folder of a run, cannot be read.
    """
    experiment, rows, about = folder.read_cells()

    def read(row: CellRow) -> CellInput:
        run = None if row.run_id is None else run_with_id(row.run_id, storage=folder.storage)
        problem = row.problem if run is not None or row.run_id is None else f"run {row.run_id} is gone"
        return CellInput(
            cell=row.cell,
            overrides=row.overrides,
            seed=row.seed,
            order=row.order,
            problem=problem,
            report=None if run is None else read_report(run),
        )

    with ThreadPoolExecutor(READERS) as pool:
        cells = list(pool.map(read, rows))
    if experiment.search is not None:
        trials = [
            TrialInput(cell=cell, ended=row.ended, stopped_at=row.stopped_at, copied_from=row.copied_from)
            for cell, row in zip(cells, rows, strict=True)
        ]
        return summarize_search(
            experiment.name,
            trials,
            search_question(experiment),
            job=about.job,
            options=about.overrides,
            environment=about.environment,
        )
    cells, unit = _in_one_unit(cells)
    report = summarize_experiment(
        experiment.name,
        cells,
        question_of(experiment),
        unit=unit,
        labels={row.cell: label(row.overrides) for row in rows},
        job=about.job,
        options=about.overrides,
        environment=about.environment,
        order_seed=experiment.order_seed,
    )
    return with_job_file(folder, report)


def _in_one_unit(cells: Sequence[CellInput]) -> tuple[list[CellInput], str]:
    """Return the cells with the reports of their runs in one unit, and the unit: samples or tokens."""
    reports, unit = in_one_unit([cell.report for cell in cells if cell.report is not None])
    left = iter(reports)
    return [cell if cell.report is None else replace(cell, report=next(left)) for cell in cells], unit


def with_job_file(folder: ExperimentFolder, report: ExperimentReport) -> ExperimentReport:
    """Return the report with the path of its recommended job file, if the folder has one of that recommendation."""
    chosen = report.recommendation
    if chosen is None or not folder.exists(FILE) or not is_of(folder.read(FILE).decode(), report):
        return report
    return replace(report, recommendation=replace(chosen, file=folder.path(FILE)))


def search_question(experiment: ExperimentFile) -> SearchQuestion:
    """Return what the search of an experiment asks."""
    search, compare = experiment.search, experiment.compare
    assert search is not None
    assert compare is not None
    return SearchQuestion(
        metric=compare.metric,
        mode=compare.mode,
        searcher=search.searcher,
        scheduler=search.scheduler,
        trials=search.trials,
        side_by_side=experiment.max_concurrent,
        space=search.model_dump(mode="json")["space"],
    )


def question_of(experiment: ExperimentFile) -> Question | None:
    """Return what an experiment asks; None: it compares nothing."""
    compare, target = experiment.compare, experiment.target
    if compare is None:
        return None
    assert compare.margin is not None  # only a search has none
    value = None if target is None else target.at_least if target.at_least is not None else target.at_most
    return Question(
        baseline=compare.baseline,
        metric=compare.metric,
        mode=compare.mode,
        margin=compare.margin,
        level=compare.confidence,
        target=value,
    )
