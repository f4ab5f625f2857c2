"""One run through every form of the report, the comparison, the checks, the notebook, the trackers, the display."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import Page
from rich.console import Console, RenderableType
from run_folders import write_run
from synthetic import SYNTHETIC_JOB, SyntheticRun

from scaler.cli.live_view import numbers_line
from scaler.cluster.progress import Progress, ProgressTracker
from scaler.job import Job
from scaler.metrics.curves import CURVES, Curves, Point
from scaler.notebook import Run
from scaler.plan import make_plan
from scaler.report.compare.model import Comparison
from scaler.report.compare.read import read_comparison
from scaler.report.compare.text import comparison_text
from scaler.report.run.checks import Limits, check_report
from scaler.report.run.definitions import NUMBERS, SPEED, TRAIN_LOSS, TRAIN_S, WALL_S, evaluation
from scaler.report.run.html import render_html
from scaler.report.run.markdown import render_markdown
from scaler.report.run.model import Report
from scaler.report.run.read import read_report
from scaler.report.run.text import report_text
from scaler.report.text.format import number, seconds


@dataclass(frozen=True)
class Views:
    """One run, as everything that shows runs has it."""

    run: SyntheticRun
    report: Report
    notebook: Run
    comparison: Comparison
    points: list[Point]
    live: Progress


def whole(run: SyntheticRun) -> SyntheticRun:
    return run.attempt(0, **UNEVEN)


def restarted(run: SyntheticRun) -> SyntheticRun:
    return run.attempt(0, stop=96, **UNEVEN).died(1).later(2.0).attempt(1, start=64, **UNEVEN)


UNEVEN: dict[str, Any] = {  # steps of the ranks begin and end at other times, and losses have weights of their own
    "step_time_s": lambda rank, seen: 0.25 if rank == seen // 16 % 2 else 0.125,
    "loss": lambda rank, seen: 3.0 - seen / 100 + rank,
    "weight": lambda rank, seen: 1.0 if rank else 40.0 + seen % 7,
}


@pytest.fixture(params=[whole, restarted], ids=lambda kind: kind.__name__)
def views(request: pytest.FixtureRequest, tmp_path: Path, digits: Callable[..., Job]) -> Views:
    runs = []
    for seed in (0, 1):
        job = digits(*SYNTHETIC_JOB, f"train.seed={seed}", "resources.price_per_worker_hour=36")
        run = request.param(SyntheticRun(job=job, plan=make_plan(job)))
        runs.append(run.evaluated(200, accuracy=0.9, loss=0.4))
    folders = [write_run(str(tmp_path), f"run-{seed}", run) for seed, run in enumerate(runs)]
    curves, tracker = Curves(), ProgressTracker()
    for event in runs[0].events:
        curves.add_event(event)
        tracker.add([], [event])
        if event.kind == "attempt_started":
            records = [record for record in runs[0].records if record.attempt == event.attempt]
            curves.add(records)
            tracker.add(records, [])
    points = curves.take(to_the_end=True)
    if any(point.forget for point in points):  # what TensorBoard does
        (at,) = (index for index, point in enumerate(points) if point.forget)
        points = [point for point in points[:at] if point.samples_seen < points[at].samples_seen - 1] + points[at + 1 :]
    return Views(
        runs[0], read_report(folders[0]), Run(folders[0]), read_comparison(folders), points, tracker.progress()
    )


def shown(renderable: RenderableType) -> str:
    text = StringIO()
    Console(file=text, width=80).print(renderable)
    return " ".join(text.getvalue().split())


def test_the_comparison_has_every_number_as_the_table_of_numbers_reads_it(views: Views) -> None:
    numbers = {**NUMBERS, "eval.accuracy": evaluation("accuracy"), "eval.loss": evaluation("loss")}
    compared = {m.name: m for m in views.comparison.measures if m.kind in ("end", "speed")}
    assert set(compared) == {key for key in numbers if key not in ("efficiency", "mfu")}, "these nobody measured here"
    for key, measure in compared.items():
        assert measure.arms[0].values[0] == numbers[key].read(views.report), key
        assert measure.unit == numbers[key].unit
    values = views.report.to_dict()
    for number_ in (SPEED, TRAIN_S, WALL_S, TRAIN_LOSS, NUMBERS["cost"], NUMBERS["worker_samples_per_s"]):
        section, name = number_.where.split(".")
        assert values[section][name] == number_.read(views.report), "report.json has it where the page says"


def test_the_speed_is_one_number_everywhere(views: Views) -> None:
    report, speed, train_s = views.report, SPEED.read(views.report), TRAIN_S.read(views.report)
    assert speed is not None
    kept = [
        record for record in views.run.records if record.samples_seen < 64 or record.attempt or views.run.wall_s == 0
    ]
    kept = kept if len(report.attempts) > 1 else list(views.run.records)
    assert speed == pytest.approx(200 / (sum(record.step_time_s for record in kept) / 2))
    limits = Limits(min_samples_per_s=1.0, max_wall_s=100.0, max_cost=100.0, max_loss=9.0, min_evals={"accuracy": 0.5})
    checks = {check.name: check for check in check_report(report, limits).checks}
    for check, number_ in ((checks[n.name], n) for n in (SPEED, WALL_S, NUMBERS["cost"], evaluation("accuracy"))):
        assert (check.value, check.unit) == (number_.read(report), number_.unit)
    steps = views.notebook.steps
    assert steps["samples"].sum() / steps["step_time_mean_s"].sum() == pytest.approx(speed)
    assert steps["samples_per_s"].to_numpy() == pytest.approx(steps["samples"] / steps["step_time_mean_s"])
    assert list(report.series.samples_per_s) == pytest.approx(steps["samples_per_s"].to_list())
    drawn = [point for point in views.points if "train/samples_per_s" in point.values]
    assert [point.values["train/samples_per_s"] for point in drawn] == pytest.approx(steps["samples_per_s"].to_list())
    assert sum(point.values["train/step_time_s"] for point in drawn) == pytest.approx(train_s)
    assert set().union(*(point.values for point in drawn)) <= set(CURVES)
    assert report.scaling is not None
    assert report.scaling.worker_samples_per_s * 2 == pytest.approx(speed), "the run kept its number of workers"
    busy = [row.data_wait_s + row.compute_s + row.sync_wait_s + row.update_s for row in report.workers]
    assert sum(busy) / 2 == pytest.approx(train_s)
    assert report.budget is not None
    parts = ("compute_s", "data_wait_s", "sync_wait_s", "update_s")
    assert sum(getattr(report.budget, part) for part in parts) == pytest.approx(train_s)


def test_the_live_display_has_the_speed_of_what_it_saw(views: Views) -> None:
    newest = [record for record in views.run.records if record.attempt == len(views.report.attempts) - 1]
    expected = sum(record.samples for record in newest) / (sum(record.step_time_s for record in newest) / 2)
    assert views.live.samples_per_s == pytest.approx(expected)
    if len(views.report.attempts) == 1:
        assert views.live.samples_per_s == pytest.approx(SPEED.read(views.report))
    last = views.notebook.steps.iloc[-1]
    assert (views.live.loss_mean, views.live.lr) == pytest.approx((last["loss_mean"], last["lr"]))
    assert f"loss {number(last['loss_mean'])} " in numbers_line(views.live)


def test_the_train_loss_is_one_number_everywhere(views: Views) -> None:
    loss, steps = TRAIN_LOSS.read(views.report), views.notebook.steps
    last = steps[steps["samples_seen"] >= 100]
    assert np.average(last["loss_mean"], weights=last["loss_weight"]) == pytest.approx(loss)
    assert list(views.report.series.loss_mean) == pytest.approx(steps["loss_mean"].to_list())
    drawn = [point.values["train/loss_mean"] for point in views.points if "train/loss_mean" in point.values]
    assert drawn == pytest.approx(steps["loss_mean"].to_list())
    records = views.notebook.records
    mine = records[~records["lost"] & (records["samples_seen"] >= 100) & (records["samples"] > 0)]
    assert np.average(mine["loss"], weights=mine["weight"]) == pytest.approx(loss)
    rows = [(row.loss_mean, mine[mine["rank"] == row.rank]["weight"].sum()) for row in views.report.workers]
    assert sum(mean * weight for mean, weight in rows if mean is not None) / mine["weight"].sum() == pytest.approx(loss)
    without = replace(views.report, final=replace(views.report.final, eval={}))
    (_, check) = check_report(without, Limits(max_loss=9.0)).checks
    assert (check.name, check.value) == (TRAIN_LOSS.name, loss)


def test_every_form_shows_the_same_digits_under_the_same_name(views: Views) -> None:
    report = views.report
    values = {
        SPEED.name: f"{number(SPEED.read(report))} samples/s",
        WALL_S.name: seconds(WALL_S.read(report)),
        TRAIN_LOSS.name: number(TRAIN_LOSS.read(report)),
        "eval accuracy": "0.9",
        "eval loss": "0.4",
    }
    text, markdown = shown(report_text(report)), render_markdown(report)
    notebook = Page(views.notebook._repr_html_()).text
    for name, value in values.items():
        assert f"{name} {value}" in text
        assert f"| {name} | {value}" in markdown
        assert f"{name} {value}" in notebook
    page, compared = Page(render_html(report)).text, shown(comparison_text(views.comparison))
    assert f"{SPEED.name} {number(SPEED.read(report))} {SPEED.unit}, {SPEED.of}" in page
    assert f"{TRAIN_LOSS.name} {values[TRAIN_LOSS.name]} {TRAIN_LOSS.of}" in page
    assert f"{WALL_S.name} {values[WALL_S.name]} {WALL_S.of}" in page
    for name in (SPEED.name, WALL_S.name, TRAIN_LOSS.name, TRAIN_S.name):
        assert f"{name} " in compared
    assert json.loads(json.dumps(report.to_dict()))["totals"]["samples_per_s"] == SPEED.read(report)
