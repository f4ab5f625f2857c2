"""Make the report of an experiment from the reports of its runs."""

from collections.abc import Mapping, Sequence
from typing import Any

from scaler.report.experiment.answer import answer
from scaler.report.experiment.batches import critical_batch, sweeps
from scaler.report.experiment.equal import equal_budgets
from scaler.report.experiment.findings import findings, rules_need_sweep
from scaler.report.experiment.groups import group_results, make_groups
from scaler.report.experiment.model import SCHEMA_VERSION, CellInput, ExperimentReport, Question
from scaler.report.experiment.next_cells import next_cells
from scaler.report.experiment.recommendation import recommend
from scaler.report.experiment.speed import law_results, speed_rows

LEVEL = 0.9  # of the intervals, if nothing is compared


def summarize_experiment(
    name: str,
    cells: Sequence[CellInput],
    question: Question | None,
    *,
    unit: str = "samples",
    labels: Mapping[int, str],
    job: str,
    options: Sequence[str] = (),
    environment: Mapping[str, Any],
    order_seed: int | None = None,
) -> ExperimentReport:
    """Return the report of an experiment, also while it runs.

    Args:
        name: of the experiment.
        cells: in the order of the matrix.
        question: what it asks; None: speed only.
        unit: of the counts in the reports of the cells, samples or tokens.
        labels: a short text for the combination of each cell, by the cell's number.
        job: the path of the job file, for commands.
        options: ``key.key=value`` texts that hold for every cell.
        environment: the machine and the versions; ``cpus`` is the number of CPUs of the cluster.
        order_seed: of the random order in which the cells ran; None: not known.
    """
    level = LEVEL if question is None else question.level
    groups = make_groups(cells, question, labels=labels)
    results = group_results(groups, question, level=level)
    cpus = environment.get("cpus")
    speed = speed_rows(groups, level=level, cpus=cpus)
    swept = sweeps(results, question) if question is not None else []
    critical = (
        critical_batch(groups, results, level=level) if question is not None and question.target is not None else None
    )
    recommendation = recommend(results, question, job=job, options=options, unit=unit) if question is not None else None
    laws = law_results(groups, level=level, cpus=cpus)
    rows = tuple(member.result for group in groups for member in group.members)
    missing = sum(row.state == "waiting" for row in rows)
    next_ones = (
        next_cells(
            results,
            question,
            swept,
            critical,
            laws,
            recommendation,
            rules_need_sweep=rules_need_sweep(results, swept),
            cpus=cpus,
        )
        if question is not None and not missing
        else None
    )
    return ExperimentReport(
        schema_version=SCHEMA_VERSION,
        experiment_id=name,
        unit=unit,
        answer=answer(results, speed, question, recommendation, missing=missing, unit=unit),
        metric=question.metric if question is not None else None,
        mode=question.mode if question is not None else None,
        margin=question.margin if question is not None else None,
        level=level,
        target=question.target if question is not None else None,
        baseline=next((group.label for group in groups if group.is_baseline), None),
        cells=tuple(sorted(rows, key=lambda row: row.cell)),
        groups=tuple(results),
        speed=tuple(speed),
        laws=tuple(laws),
        sweeps=tuple(swept),
        critical_batch=critical,
        equal=tuple(equal_budgets(groups, question, level=level)) if question is not None else (),
        recommendation=recommendation,
        next=next_ones,
        verdicts=tuple(findings(results, speed, swept, critical, question, job=job, unit=unit)),
        order_seed=order_seed,
        environment=dict(environment),
    )
