"""What an experiment shows, from reports with known values."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from io import StringIO
from typing import Any

import pytest
from made_experiment import QUESTION, SEEDS, by_batch, made_cell, summarize
from rich.console import Console

from scaler.cli.terminal import PIPE_WIDTH
from scaler.core.intervals import Estimate
from scaler.report.experiment.html import render_experiment_html
from scaler.report.experiment.model import CellInput, ExperimentReport
from scaler.report.experiment.tables import sheets
from scaler.report.experiment.text import experiment_markdown, experiment_text
from scaler.report.run.model import Report


@pytest.fixture
def made(sound: Report) -> Callable[..., CellInput]:
    """Make a cell with known values."""
    return partial(made_cell, sound)


def test_groups_are_judged_by_the_margin_and_the_fastest_good_one_is_recommended(
    made: Callable[..., CellInput],
) -> None:
    report = summarize(
        by_batch(
            made,
            {
                16: {"accuracy": 0.95, "speed": 100.0},
                64: {"accuracy": 0.951, "speed": 250.0},
                1024: {"accuracy": 0.80, "speed": 900.0, "reaches": 1e9},
            },
        )
    )
    base, good, bad = report.groups
    assert (base.is_baseline, base.difference_to_baseline) == (True, None)
    assert good.difference_to_baseline is not None
    assert good.difference_to_baseline.equivalent
    assert good.difference_to_baseline.mean == pytest.approx(0.001)
    assert bad.difference_to_baseline is not None
    assert bad.difference_to_baseline.verdict == "worse"
    assert (good.reached, bad.reached) == (3, 0)
    assert good.samples_to_target is not None
    assert good.samples_to_target.value == pytest.approx(10_000, rel=1e-3)
    assert good.time_to_target_s is not None
    assert good.time_to_target_s.value == pytest.approx(10_000 / 250, rel=1e-3)
    assert good.efficiency is not None
    assert good.efficiency.value == pytest.approx(1.0)
    assert good.samples_per_s is not None
    assert good.samples_per_s.value == pytest.approx(250)
    assert report.recommendation is not None
    assert report.recommendation.overrides == {"scale.global_batch_size": 64}
    assert report.recommendation.command == "scaler submit job.yaml --set scale.global_batch_size=64"
    assert report.answer == (
        "Batch 64 on 1 worker with rule linear is as good as the baseline (accuracy +0.001, 95% interval -0.0015 to "
        "+0.0035, 3 seeds) and 2.5x as fast to accuracy 0.9. At 1,024 accuracy is worse by 0.15."
    )


def test_the_answer_names_the_largest_loss_and_says_whatever_only_of_several_settings(
    made: Callable[..., CellInput],
) -> None:
    lost = {16: {"accuracy": 0.95}, 256: {"accuracy": 0.90}, 1024: {"accuracy": 0.51}}
    assert summarize(by_batch(made, lost)).answer.endswith(
        "At 256 accuracy is worse by 0.05; the largest loss is 0.44, at 1,024."
    )
    cells = by_batch(made, lost)
    for number in range(3):
        overrides = {"scale.global_batch_size": 256, "scale.rule": "sqrt"}
        cells.append(made(9 + number, overrides, number, accuracy=0.80))
    assert summarize(cells).answer.endswith(
        "At 256 accuracy is worse by 0.05 to 0.15 whatever the other settings; the largest loss is 0.44, at 1,024."
    )


def workers_report(made: Callable[..., CellInput], speeds: dict[int, tuple[float, float, float]]) -> ExperimentReport:
    cells = [
        made(3 * place + seed, {"scale.num_workers": workers}, seed, accuracy=0.95, speed=speeds[workers][seed])
        for place, workers in enumerate(speeds)
        for seed in SEEDS
    ]
    return summarize(cells, replace(QUESTION, baseline={"scale.num_workers": 1}))


def test_the_answer_says_what_more_workers_bring_at_the_same_batch(made: Callable[..., CellInput]) -> None:
    steady = workers_report(made, {1: (100.0,) * 3, 2: (180.0,) * 3, 8: (200.0,) * 3})
    assert (
        "2 workers at batch 16: 1.8x as fast as 1 worker; 8 workers: not measured, because they shared CPUs."
        in steady.answer
    )
    by_weak = by_batch(made, {16: {"accuracy": 0.95}})
    by_weak += [
        made(3 + seed, {"scale.num_workers": 2, "scale.global_batch_size": 32}, seed, accuracy=0.95) for seed in SEEDS
    ]
    assert "2 workers: not measured at the same batch." in summarize(by_weak).answer
    assert "workers:" not in summarize(by_batch(made, {16: {"accuracy": 0.95}, 64: {"accuracy": 0.95}})).answer


def test_a_speed_that_may_be_half_or_twice_is_not_known_and_the_machine_was_busy(
    made: Callable[..., CellInput],
) -> None:
    report = workers_report(made, {1: (100.0, 110.0, 105.0), 2: (20.0, 300.0, 250.0)})
    assert re.search(r"2 workers at batch 16: not known, [\d.]+x to [\d.]+x as fast as 1 worker\.", report.answer)
    assert "not known (" in shown(report)
    (finding,) = [each for each in report.verdicts if each.code == "uneven_speed"]
    assert finding.message.startswith("Runs of one setting differ in speed by 15 times: ")
    assert finding.evidence == "workers 2: 20 to 300 samples/s"
    steady = workers_report(made, {1: (100.0, 110.0, 105.0), 2: (150.0, 200.0, 250.0)})
    assert "uneven_speed" not in [each.code for each in steady.verdicts]


def shown(report: ExperimentReport) -> str:
    console = Console(width=PIPE_WIDTH, record=True, file=StringIO())
    console.print(experiment_text(report))
    return console.export_text()


def test_the_title_of_a_table_stands_above_its_columns(made: Callable[..., CellInput]) -> None:
    lines = shown(summarize(by_batch(made, {16: {"accuracy": 0.95}, 64: {"accuracy": 0.95}}))).splitlines()
    place = next(place for place, line in enumerate(lines) if line.startswith("Throughput"))
    assert lines[place + 1].split() == ["setting", "runs", "samples/s"]


def test_no_batch_is_proposed_that_exceeds_the_training_set_or_missed_the_target(
    made: Callable[..., CellInput],
) -> None:
    """The fit of batches up to 128 asks for 512 and 2,048; the training set has 1,437, and 1,024 missed the target."""
    settings: dict[int, dict[str, Any]] = {
        batch: {"accuracy": 0.95, "num_samples": 1437} for batch in (16, 32, 64, 128)
    }
    found = summarize(by_batch(made, settings)).critical_batch
    assert found is not None
    assert found.refusal == "Batches up to 128 need too few more samples to tell the critical batch size."
    assert found.add == (512,)
    missed = {1024: {"accuracy": 0.5, "num_samples": 1437, "reaches": 1e9}}
    found = summarize(by_batch(made, settings | missed)).critical_batch
    assert found is not None
    assert found.add == (512,)
    missed = {256: {"accuracy": 0.5, "num_samples": 1437, "reaches": 1e9}}
    report = summarize(by_batch(made, settings | missed))
    assert report.critical_batch is not None
    assert report.critical_batch.add == ()
    (finding,) = [each for each in report.verdicts if each.code == "critical_batch_not_identifiable"]
    assert finding.next.startswith("Larger batches exceed the training set or miss the target.")


def test_a_law_says_which_runs_do_not_count(made: Callable[..., CellInput]) -> None:
    cells = by_batch(made, {1: {"accuracy": 0.9}, 2: {"accuracy": 0.9, "speed": 180.0}}, "scale.num_workers")
    other = {"scale.num_workers": 4, "resources.cpus_per_worker": 0.5}
    cells += [made(6 + seed, other, seed, accuracy=0.9) for seed in SEEDS]
    (law,) = [each for each in summarize(cells, None).laws if each.law == "amdahl"]
    assert law.refusal == (
        "2 numbers of workers; the law needs 3. 4 workers ran only with other settings (cpus_per_worker 0.5), and do "
        "not count."
    )
    shared = by_batch(
        made, {workers: {"accuracy": 0.9, "speed": 100.0} for workers in (1, 2, 4, 8)}, "scale.num_workers"
    )
    (law,) = [each for each in summarize(shared, None).laws if each.law == "amdahl"]
    assert law.refusal == "2 numbers of workers; the law needs 3. 4 and 8 workers ran, but shared CPUs."


def test_a_faster_group_that_is_not_shown_to_be_good_is_not_recommended(made: Callable[..., CellInput]) -> None:
    cells = by_batch(made, {16: {"accuracy": 0.95}, 64: {"accuracy": 0.95, "speed": 300.0}})
    wide = [replace(cell) if cell.seed else made(cell.cell, cell.overrides, 0, accuracy=0.99, speed=300.0)
            for cell in cells]  # fmt: skip
    report = summarize([*cells[:3], *wide[3:]])
    assert report.groups[1].difference_to_baseline is not None
    assert report.groups[1].difference_to_baseline.verdict == "undecided"
    assert report.recommendation is None or report.recommendation.overrides == {"scale.global_batch_size": 16}
    assert "undecided" in [finding.code for finding in report.verdicts]


def test_a_failed_cell_is_a_row_and_a_waiting_one_is_counted(made: Callable[..., CellInput]) -> None:
    cells = by_batch(made, {16: {"accuracy": 0.95}, 64: {"accuracy": 0.95}})
    cells[4] = made(4, cells[4].overrides, 1, accuracy=0.1, state="failed")
    cells[5] = replace(cells[5], report=None)
    cells.append(replace(cells[5], cell=6, overrides={"scale.global_batch_size": 7}, problem="no plan"))
    report = summarize(cells)
    assert [cell.state for cell in report.cells] == ["succeeded"] * 4 + ["failed", "waiting", "impossible"]
    assert (report.groups[1].failed, report.groups[1].seeds) == (1, (0,))
    assert report.cells[4].problem == "RecipeError: boom"
    assert report.answer.endswith(" 1 cell of the matrix has not run.")
    assert report.recommendation is None or report.recommendation.label == "batch 16", "a group that failed is not good"


def test_without_a_baseline_that_ran_nothing_is_claimed(made: Callable[..., CellInput]) -> None:
    cells = [replace(cell, report=None) if cell.cell < 3 else cell for cell in by_batch(
        made, {16: {"accuracy": 0.95}, 64: {"accuracy": 0.95}})]  # fmt: skip
    report = summarize(cells)
    assert report.recommendation is None
    assert report.answer.startswith("The baseline has not run, so nothing can be compared with it.")


def test_speed_up_is_over_the_fewest_workers_and_oversubscription_is_not_scaling(
    made: Callable[..., CellInput],
) -> None:
    speeds = {1: 100.0, 2: 180.0, 4: 190.0}
    cells = by_batch(
        made, {workers: {"accuracy": 0.9, "speed": speed} for workers, speed in speeds.items()}, "scale.num_workers"
    )
    report = summarize(cells, None)
    assert [(row.kind, row.num_workers, row.is_oversubscribed) for row in report.speed] == [
        ("strong", 1, False),
        ("strong", 2, False),
        ("strong", 4, True),
    ]
    assert report.speed[1].speed_up.value == pytest.approx(1.8)
    assert report.speed[1].efficiency.value == pytest.approx(0.9)
    assert report.speed[2].base_samples_per_s == pytest.approx(100)
    assert report.answer.startswith("2 workers with the same global batch are 1.8 times as fast as 1 worker ")
    assert [finding.code for finding in report.verdicts] == ["oversubscribed"]
    assert report.laws
    assert all(law.refusal is not None for law in report.laws), "two numbers of workers identify no law"
    assert all(len(row) == len(sheet.head) for sheet in sheets(report) for row in sheet.rows)
    assert {"throughput", "strong", "lost", "laws"} <= {sheet.id for sheet in sheets(report)}
    assert render_experiment_html(report).count("<table") == len(sheets(report))


def test_the_optimum_of_a_sweep_is_inside_it_or_reported_at_the_edge(made: Callable[..., CellInput]) -> None:
    accuracies = {0.01: 0.90, 0.03: 0.95, 0.1: 0.93}
    inside = summarize(
        by_batch(made, {lr: {"accuracy": value} for lr, value in accuracies.items()}, "reference.lr"),
        replace(QUESTION, baseline={"reference.lr": 0.01}),
    )
    (row,) = inside.sweeps
    assert (row.lrs, row.best, row.is_inside) == ((0.01, 0.03, 0.1), 0.03, True)
    edge = summarize(
        by_batch(made, {0.01: {"accuracy": 0.9}, 0.03: {"accuracy": 0.95}}, "reference.lr"),
        replace(QUESTION, baseline={"reference.lr": 0.01}),
    )
    assert "optimum_at_the_edge" in [finding.code for finding in edge.verdicts]


def test_rules_at_a_reference_that_is_not_tuned_are_no_claim(made: Callable[..., CellInput]) -> None:
    cells: list[CellInput] = []
    for rule in ("none", "linear"):
        cells += [made(len(cells) + seed, {"scale.rule": rule}, seed, accuracy=0.95) for seed in SEEDS]
    report = summarize(cells, replace(QUESTION, baseline={"scale.rule": "none"}))
    (finding,) = [each for each in report.verdicts if each.code == "reference_not_tuned"]
    assert finding.next == ("Sweep it at the baseline: scaler experiment run job.yaml --lr 0.0025,0.005,0.01,0.02,0.04")


def test_the_critical_batch_is_fitted_to_the_samples_to_the_target(made: Callable[..., CellInput]) -> None:
    fewest, critical = 4_000.0, 100.0
    report = summarize(
        by_batch(
            made,
            {batch: {"accuracy": 0.95, "reaches": fewest * (1 + batch / critical)} for batch in (16, 32, 64, 128, 256)},
        )
    )
    found = report.critical_batch
    assert found is not None
    assert found.refusal is None, found.refusal
    assert found.value == pytest.approx(critical, rel=0.05)
    assert found.fewest_samples == pytest.approx(fewest, rel=0.05)


def test_every_form_shows_the_answer_and_the_json_is_plain(made: Callable[..., CellInput]) -> None:
    cells = by_batch(made, {16: {"accuracy": 0.95}, 64: {"accuracy": 0.951, "speed": 250.0}})
    report = summarize(cells)
    console = Console(width=PIPE_WIDTH, record=True, file=StringIO())
    console.print(experiment_text(report))
    text = " ".join(console.export_text().split())
    markdown, page = experiment_markdown(report), render_experiment_html(report)
    assert report.answer in text
    assert report.answer.split(" (")[0] in markdown
    assert report.answer.split(" (")[0] in page
    values = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    wanted = {"schema_version", "experiment_id", "baseline", "cells", "groups", "critical_batch", "recommendation"}
    assert wanted | {"answer", "verdicts"} <= values.keys()
    assert values["groups"][1]["samples_to_target"].keys() == {"value", "low", "high"}
    assert isinstance(report.groups[1].final, Estimate)


def test_names_from_outside_are_escaped_on_the_page(made: Callable[..., CellInput]) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    cells = [made(seed, {"scale.rule": hostile}, seed, accuracy=0.95) for seed in SEEDS]
    page = render_experiment_html(summarize(cells, replace(QUESTION, baseline={})))
    assert hostile not in page
