"""What a search found, from trials with known values."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from made_experiment import made_cell

from scaler.cli.terminal import PIPE_WIDTH
from scaler.report.experiment.html import render_experiment_html
from scaler.report.experiment.model import ExperimentReport
from scaler.report.experiment.text import experiment_markdown, experiment_text
from scaler.report.experiment.trials import SearchQuestion, TrialInput, summarize_search, wider_space
from scaler.report.run.model import Report

Made = Callable[..., TrialInput]
QUESTION = SearchQuestion(
    metric="accuracy",
    mode="max",
    searcher="random",
    scheduler="asha",
    trials=4,
    side_by_side=1,
    space={"reference.lr": {"low": 0.001, "high": 1.0, "scale": "log"}},
)


@pytest.fixture
def made(sound: Report) -> Made:
    """Make a trial of 20,000 samples whose metric rises in a straight line."""

    def make(
        number: int, lr: float, accuracy: float, ended: str | None, seen: int = 20_000, **about: Any
    ) -> TrialInput:
        cell = made_cell(sound, number, {"reference.lr": lr}, 0, accuracy=accuracy)
        assert cell.report is not None
        state = "stopped" if ended in ("stopped", "replaced") else "succeeded"
        report = replace(
            cell.report,
            state=state,
            plan={**cell.report.plan, "total_samples": 20_000},
            totals=replace(cell.report.totals, samples_seen=seen),
            **about.pop("report", {}),
        )
        return TrialInput(
            cell=replace(cell, report=report),
            ended=ended,
            stopped_at=seen - 16 if ended == "stopped" else None,
            copied_from=about.get("copied_from"),
        )

    return make


def summarize(trials: Sequence[TrialInput], question: SearchQuestion = QUESTION) -> ExperimentReport:
    options = ["scale.num_workers=1", "reference.lr=0.5", "storage=here"]
    return summarize_search("find", trials, question, job="job.yaml", options=options, environment={"host": "h"})


def codes(report: ExperimentReport) -> list[str]:
    return [finding.code for finding in report.verdicts]


def test_the_best_trial_is_one_that_trained_to_its_end(made: Made) -> None:
    report = summarize(
        [
            made(0, 0.01, 0.90, "finished"),
            made(1, 0.1, 0.95, "finished"),
            made(2, 0.3, 0.99, "stopped", 5_016),
        ]
    )
    search = report.search
    assert search is not None
    assert (search.best, search.samples, search.samples_of_all) == (1, 45_016, 60_000)
    stopped = search.trials[2]
    assert (stopped.last, stopped.samples_seen) == (pytest.approx(0.895, abs=1e-3), 5_016), "at its last evaluation"
    assert search.command == "scaler submit job.yaml --set scale.num_workers=1 --set reference.lr=0.1"
    assert report.answer == (
        "The best of 3 trials is lr 0.1: accuracy 0.951. The search used 45,016 of the 60,000 samples (75%) that all "
        "of these trials take to their ends. 1 trial has not run."
    )
    assert codes(report) == ["best_of_many"]


def test_a_run_that_others_trained_further_counts_to_where_the_search_stopped_it(made: Made) -> None:
    trial = made(0, 0.1, 0.95, "stopped", 5_016)
    assert trial.cell.report is not None
    further = replace(
        trial.cell.report, state="succeeded", totals=replace(trial.cell.report.totals, samples_seen=20_000)
    )
    report = summarize([replace(trial, cell=replace(trial.cell, report=further))])
    assert report.search is not None
    assert report.search.samples == 5_000


def test_the_lowest_loss_is_the_best_where_less_is_better(made: Made) -> None:
    trials = [made(0, 0.01, 0.5, "finished"), made(1, 0.1, 0.4, "finished")]
    found = summarize(trials, replace(QUESTION, mode="min")).search
    assert found is not None
    assert found.best == 1


def test_a_best_value_at_the_edge_says_what_to_try(made: Made) -> None:
    report = summarize([made(0, 0.9, 0.95, "finished"), made(1, 0.01, 0.9, "finished")])
    assert codes(report) == ["best_at_the_edge", "best_of_many"]
    assert (
        report.verdicts[0].next == "Search beyond it: search.space: {reference.lr: {low: 0.01, high: 10, scale: log}}"
    )


@pytest.mark.parametrize(
    ("values", "best", "wider"),
    [
        ({"low": 0.01, "high": 1.0, "scale": "log"}, 0.1, None),
        ({"low": 0.01, "high": 1.0, "scale": "log"}, 0.012, {"low": 0.001, "high": 0.1, "scale": "log"}),
        ({"low": 0.0, "high": 1.0, "scale": "linear"}, 0.95, {"low": 0.5, "high": 1.5, "scale": "linear"}),
        ({"low": 8, "high": 128, "scale": "log"}, 128, {"low": 80, "high": 1280, "scale": "log"}),
        ([0.01, 0.1, 1.0], 0.01, [0.001, 0.01, 0.1]),
        ([16, 64, 256], 256, [64, 256, 1024]),
        ([16, 64, 256], 64, None),
        ([16, 64], 64, None),
        (["linear", "sqrt", "none"], "none", None),
        ([True, False, None], True, None),
    ],
)
def test_a_space_is_widened_only_at_an_edge(values: Any, best: Any, wider: Mapping[str, Any] | None) -> None:
    assert wider_space(values, best) == wider


def test_a_copy_counts_its_own_samples_and_no_trial_of_its_own(made: Made) -> None:
    origin = {"run_id": "run-0", "samples_seen": 8_000}
    report = summarize(
        [
            made(0, 0.01, 0.95, "finished"),
            made(1, 0.1, 0.90, "replaced", 8_000),
            made(2, 0.012, 0.96, "finished", copied_from="run-0", report={"branched_from": origin}),
        ],
        replace(QUESTION, scheduler="pbt", trials=2),
    )
    search = report.search
    assert search is not None
    assert (search.samples, search.samples_of_all) == (20_000 + 8_000 + 12_000, 40_000)
    assert "not run" not in report.answer


def test_a_search_that_has_just_begun_has_a_report(made: Made) -> None:
    report = summarize([])
    assert report.answer == "No trial of the search has been evaluated."
    json.dumps(report.to_dict(), allow_nan=False)
    assert "No trial" in render_experiment_html(report)
    failed = made(0, 0.1, 0.9, "failed")
    report = summarize([replace(failed, cell=replace(failed.cell, report=None, problem="no plan\nbecause"))])
    assert report.search is not None
    assert (report.search.best, report.search.trials[0].problem) == (None, "no plan")
    assert "no plan" in experiment_markdown(report)


def test_all_forms_show_the_same_and_a_terminal_is_80_columns_wide(made: Made) -> None:
    from rich.console import Console

    trials = [made(0, 0.1, 0.95, "finished"), made(1, 0.3, 0.9, "stopped", 5_016), made(2, 0.2, 0.9, None, 7_000)]
    report = summarize(trials, replace(QUESTION, side_by_side=2))
    assert codes(report)[-1] == "speed_not_comparable"
    stream = StringIO()
    Console(file=stream, width=80).print(experiment_text(report))
    text, markdown, page = stream.getvalue(), experiment_markdown(report), render_experiment_html(report)
    assert max(map(len, text.splitlines())) <= 80 < PIPE_WIDTH
    for part in ("lr 0.1", "5,016", "25%", "stopped", "running", "speed_not_comparable"):
        assert part in text
        assert part in markdown
        assert part in page
    assert report.search is not None
    assert report.search.command in " ".join(text.split())
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["search"]["best"] == 0
