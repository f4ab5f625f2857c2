"""Runs in a notebook."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from run_folders import write_run
from synthetic import SYNTHETIC_JOB, SyntheticRun

import scaler
from scaler.errors import RunError
from scaler.job import Job
from scaler.plan import make_plan
from scaler.runs import find_run

RUN = "digits-20260101-120000-7f3a"


@pytest.fixture
def storage(tmp_path: Path, digits: Callable[..., Job]) -> str:
    """A run that lost a worker after 96 samples and resumed from 64; rank 1's loss is 3, rank 0's 1."""
    job = digits(*SYNTHETIC_JOB)
    run = SyntheticRun(job=job, plan=make_plan(job))
    run = run.attempt(0, stop=96, loss=9.0).died(1).later(3.0)
    run = run.attempt(1, start=64, loss=lambda rank, seen: 1.0 + 2 * rank)
    run = run.evaluated(200, loss=0.5, **{"<b>acc</b>": 0.9})
    write_run(str(tmp_path), RUN, run)
    return str(tmp_path)


def test_a_run_has_its_frames(storage: str) -> None:
    run = scaler.read_run(RUN, storage=storage)
    assert run.run_id == RUN
    assert run.plan.world_size == 2
    assert len(run.records) == 2 * (6 + 10)
    assert run.records["lost"].sum() == 2 * 2
    steps = run.steps
    assert list(steps["samples_seen"]) == sorted(steps["samples_seen"])
    assert steps["samples"].sum() == 200
    assert list(steps["loss_mean"]) == [9.0] * 4 + [2.0] * 10
    assert (steps["loss_min"].iloc[-1], steps["loss_max"].iloc[-1]) == (1.0, 3.0)
    assert steps["samples_per_s"].iloc[0] == 16 / 0.125
    assert list(run.workers["rank"]) == [0, 1]
    assert list(run.workers["step_time_s.median"]) == [0.125, 0.125]
    assert list(run.attempts["ended_by"]) == ["lost", "finished"]
    assert set(run.events["kind"]) >= {"attempt_started", "group_ended", "evaluated"}
    assert str(run.events["time"].dt.tz) == "UTC"
    assert run.evals["eval.loss"].tolist() == [0.5]


def test_events_of_a_newer_scaler_are_shown_too(storage: str) -> None:
    rows = [{"kind": "moon_rose", "time": 1030.0, "phase": "full"}, {"kind": "moon_rose", "time": "noon"}]
    find_run(RUN, storage=storage).append_json("events.jsonl", rows)
    events = scaler.read_run(RUN, storage=storage).events
    assert list(events["kind"])[-2:] == ["moon_rose", "moon_rose"]
    assert list(events["phase"])[-2] == "full"
    assert list(events["time"].isna())[-2:] == [False, True]


def test_a_step_is_weighted_by_samples_and_an_empty_share_is_no_loss(
    tmp_path: Path, digits: Callable[..., Job]
) -> None:
    job = digits(*SYNTHETIC_JOB)
    run = SyntheticRun(job=job, plan=make_plan(job)).attempt(0, loss=lambda rank, seen: 1.0 + rank)
    run = run.altered(lambda record: record.samples_seen == 0 and record.rank == 0, samples=16)
    run = run.altered(lambda record: record.samples_seen == 16 and record.rank == 1, samples=0, loss=None)
    write_run(str(tmp_path), RUN, run)
    means = scaler.read_run(str(tmp_path / RUN)).steps["loss_mean"]
    assert means.iloc[0] == pytest.approx((16 * 1 + 8 * 2) / 24)
    assert means.iloc[1] == 1.0


def test_steps_are_those_of_the_report(tmp_path: Path, digits: Callable[..., Job]) -> None:
    job = digits(*SYNTHETIC_JOB)
    run = SyntheticRun(job=job, plan=make_plan(job)).attempt(0, loss=lambda rank, seen: 1.0 + rank)
    run = run.altered(lambda record: record.samples_seen == 16 and record.rank == 1, loss=float("nan"))
    write_run(str(tmp_path), RUN, run)
    found = scaler.read_run(str(tmp_path / RUN))
    steps, arrays = found.steps, run.arrays()
    assert np.isnan(steps["loss_mean"].iloc[1]), "a mean over some ranks is no mean over ranks"
    assert (steps["loss_min"].iloc[1], steps["loss_max"].iloc[1]) == (1.0, 1.0)
    assert np.array_equal(steps["loss_mean"], arrays.kept["loss"], equal_nan=True)
    assert [None if np.isnan(loss) else loss for loss in steps["loss_mean"]] == list(found.report.series.loss_mean)
    assert steps["compute_s"].tolist() == list(found.report.series.compute_s)


def test_it_shows_itself_with_everything_escaped(storage: str) -> None:
    run = scaler.read_run(RUN, storage=storage)
    assert repr(run) == f"<Run {RUN}: succeeded, 200 samples in 14 steps>"
    shown = run._repr_html_()
    assert f"<strong>{RUN}</strong> succeeded" in shown
    assert "eval &lt;b&gt;acc&lt;/b&gt;" in shown
    assert "<b>" not in shown
    assert "restarts" in shown  # its verdict
    assert '<path d="M' in shown
    assert not any(mark in shown for mark in ("<script", "<style", "http", "src="))


def test_a_run_without_a_step_shows_itself_too(tmp_path: Path, digits: Callable[..., Job]) -> None:
    job = digits(*SYNTHETIC_JOB)
    run = SyntheticRun(job=job, plan=make_plan(job), state="failed").attempt(0, stop=0)
    write_run(str(tmp_path), RUN, run)
    found = scaler.read_run(RUN, storage=str(tmp_path))
    assert len(found.records) == len(found.steps) == len(found.evals) == 0
    assert "<svg" not in found._repr_html_()


def test_the_list_of_runs(storage: str, tmp_path: Path, digits: Callable[..., Job]) -> None:
    job = digits(*SYNTHETIC_JOB)
    run = SyntheticRun(job=job, plan=make_plan(job)).attempt(0)
    write_run(storage, "digits-20260101-110000-aaaa", replace(run, state="stopped"))
    frame = scaler.read_runs(storage)
    assert list(frame["run_id"]) == ["digits-20260101-110000-aaaa", RUN]
    assert list(frame["state"]) == ["stopped", "succeeded"]
    assert (frame["ended_at"] - frame["started_at"]).dt.total_seconds().tolist() == [10.5, 10.5]
    assert len(scaler.read_runs(str(tmp_path / "nothing"))) == 0
    with pytest.raises(RunError, match="there is no run nothing, neither at this path nor in "):
        scaler.read_run("nothing", storage=storage)


def test_pandas_is_loaded_for_frames_alone(storage: str) -> None:
    show = "import sys, scaler; {}; print('pandas' in sys.modules, 'torch' in sys.modules, 'ray' in sys.modules)"
    read = f"run = scaler.read_run('last', storage={storage!r})"
    for use, loaded in (
        ("scaler.load_job", "False False False"),
        ("scaler.read_run, scaler.submit, scaler.resume, scaler.compare", "False False False"),
        (f"{read}; run.steps", "True False False"),
    ):
        done = subprocess.run([sys.executable, "-c", show.format(use)], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == loaded
