"""Curves, whole and thinned."""

from dataclasses import replace

import pytest
from synthetic import SyntheticRun

from scaler.report.series import SERIES_POINTS


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
    job = synthetic_run.job.model_copy(update={"train": synthetic_run.job.train.model_copy(update={"epochs": 180.0})})
    run = replace(synthetic_run, job=job).attempt(0)
    run = run.altered(lambda r: (r.rank, r.step) == (1, 777), loss=50.0)
    run = run.altered(lambda r: (r.rank, r.step) == (0, 778), loss=-50.0)
    report = replace(run, plan=run.plan).report()
    assert report.totals.steps == 180 * 7
    assert len(report.series.samples_seen) == SERIES_POINTS
    assert max(value for value in report.series.loss_max if value is not None) == 50.0
    assert min(value for value in report.series.loss_min if value is not None) == -50.0
