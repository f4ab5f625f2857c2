"""Curves, whole and thinned."""

import math
from dataclasses import replace

import pytest
from synthetic import SyntheticRun

from scaler.report.run.series import SERIES_POINTS


def test_the_curve_of_a_short_run_has_every_step(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, loss=lambda rank, seen: 1.0 + rank).evaluated(100, acc=0.1).evaluated(200, acc=None)
    series = run.report().series
    assert series.samples_seen == (0, 16, 32, 48, 64, 80, 96, 100, 116, 132, 148, 164, 180, 196)
    assert set(series.loss_mean) == {1.5}
    assert set(series.loss_min) == {1.0}
    assert set(series.loss_max) == {2.0}
    assert series.lr == series.lr_planned
    assert series.lr[0] == pytest.approx(0.01)
    assert (series.eval_samples_seen, series.evals) == ((100, 200), {"acc": (0.1, None)})


def test_the_curve_of_a_long_run_is_thinned_and_keeps_extremes(synthetic_run: SyntheticRun) -> None:
    run = long(synthetic_run).altered(lambda r: (r.rank, r.step) == (1, 777), loss=50.0)
    run = run.altered(lambda r: (r.rank, r.step) == (0, 778), loss=-50.0)
    report = replace(run, plan=run.plan).report()
    assert report.totals.steps == 180 * 7
    assert len(report.series.samples_seen) == SERIES_POINTS
    assert max(value for value in report.series.loss_max if value is not None) == 50.0
    assert min(value for value in report.series.loss_min if value is not None) == -50.0


def test_a_steps_time_is_split_without_a_rest(synthetic_run: SyntheticRun) -> None:
    series = synthetic_run.attempt(0, step_time_s=lambda rank, seen: 0.125 + rank / 4).report().series
    assert set(series.compute_s) == {0.0625}
    assert set(series.data_wait_s) == {0.015625}
    assert set(series.sync_wait_s) == {0.03125}
    assert set(series.update_s) == {0.25 - 0.0625 - 0.015625 - 0.03125}, "means over ranks"
    assert set(series.step_time_s_max) == {0.375}
    assert series.samples_per_s == (*[16 / 0.25] * 6, 4 / 0.25, *[16 / 0.25] * 6, 4 / 0.25)
    assert series.samples_per_s == series.samples_per_s_min == series.samples_per_s_max


def test_the_slowest_and_the_fastest_step_of_a_stretch_stay(synthetic_run: SyntheticRun) -> None:
    run = long(synthetic_run).altered(lambda r: (r.rank, r.step) == (1, 777), step_time_s=4.0)
    run = run.altered(lambda r: (r.rank, r.step) == (0, 777), step_time_s=2.0)
    run = run.altered(lambda r: r.step == 785, step_time_s=0.015625)
    series = run.report().series
    assert len(series.step_time_s_max) == SERIES_POINTS
    assert max(series.step_time_s_max) == 4.0
    assert min(speed for speed in series.samples_per_s_min if speed is not None) == 16 / 3.0
    assert max(speed for speed in series.samples_per_s_max if speed is not None) == 16 / 0.015625


def test_the_rank_with_the_most_memory_is_seen(synthetic_run: SyntheticRun) -> None:
    series = synthetic_run.attempt(0, peak_memory_gib=lambda rank, seen: 2.0 if rank and seen >= 100 else 1.0).report()
    assert series.series.memory_gib_mean == (*[1.0] * 7, *[1.5] * 7)
    assert series.series.memory_gib_max == (*[1.0] * 7, *[2.0] * 7)


def test_a_gradient_that_is_no_number_is_a_gap(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, grad_norm=lambda rank, seen: math.inf if seen == 32 else 3.0)
    series = run.report().series
    assert series.grad_norm_mean[:4] == series.grad_norm_max[:4] == (3.0, 3.0, None, 3.0)


def test_the_workers_of_a_step_are_its_attempts(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, stop=96).left("resize").attempt(1, start=96, world_size=3)
    assert run.report().series.world_size == (*[2] * 6, *[3] * (len(run.report().series.samples_seen) - 6))


def long(run: SyntheticRun) -> SyntheticRun:
    """A training of 1,260 steps."""
    job = run.job.model_copy(update={"train": run.job.train.model_copy(update={"epochs": 180.0})})
    return replace(run, job=job).attempt(0)
