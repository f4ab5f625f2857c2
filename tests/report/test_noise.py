"""The noise scale and the gain of synthetic runs."""

import random
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from rich.console import Console
from synthetic import SYNTHETIC_JOB, SyntheticRun, as_json, codes

from scaler.core.noise_history import NoiseHistory
from scaler.core.noise_scale import GradientSquares
from scaler.job import Job
from scaler.plan import make_plan
from scaler.report.run.html import render_html
from scaler.report.run.markdown import render_markdown
from scaler.report.run.model import Report
from scaler.report.run.series import SERIES_POINTS
from scaler.report.run.text import report_text


def noisy(*, every: int = 1, signal: float = 1.0, scatter: float = 0.5, variance: float = 100.0) -> dict[str, Any]:
    """Values of records measured every so many steps of 16, the same on every rank."""

    def measured(name: str, mean: float, width: float) -> Callable[[int, int], float | None]:
        def value(rank: int, seen: int) -> float | None:
            step = seen // 100 * 7 + seen % 100 // 16
            return None if step % every else mean + width * random.Random(f"{name} {seen}").uniform(-1.0, 1.0)

        return value

    return {
        "grad_signal": measured("signal", signal, scatter),
        "grad_variance": measured("variance", variance, variance / 10),
        "noise_scale": lambda rank, seen: None if measured("", 1, 0)(rank, seen) is None else 50.0,
    }


def test_the_noise_scale_is_what_the_run_itself_found_last(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, **noisy())
    history, steps = NoiseHistory(), []
    for record in run.records:
        if record.rank == 0:
            assert record.grad_signal is not None
            assert record.grad_variance is not None
            history = history.update(GradientSquares(signal=record.grad_signal, variance=record.grad_variance))
            steps.append(record.step)
    report, present = run.report(), history.present()
    assert report.noise is not None
    assert present is not None
    assert report.noise.noise_scale == present.noise_scale
    assert (report.noise.lower, report.noise.upper) == (present.lower, present.upper)
    assert report.noise.measured_steps == 14
    assert report.noise.fitted_steps == present.fitted_steps == 7
    assert (report.noise.first_step, report.noise.last_step) == (steps[-7], steps[-1])
    assert report.noise.meaning.startswith("An estimate ")
    as_json(report)


def test_only_work_that_is_in_the_weights_is_measured(synthetic_run: SyntheticRun) -> None:
    whole = synthetic_run.attempt(0, **noisy()).report().noise
    restarted = synthetic_run.attempt(0, stop=96, **noisy()).attempt(1, start=64, **noisy()).report().noise
    assert restarted == whole
    spoilt = synthetic_run.attempt(0, stop=96, **noisy(signal=9.0)).attempt(1, start=0, **noisy()).report().noise
    assert spoilt == whole


def test_nothing_measured_is_no_noise_scale(synthetic_run: SyntheticRun) -> None:
    report = synthetic_run.attempt(0).report()
    assert report.noise is None
    assert (report.series.noise_samples_seen, report.series.noise_scale) == ((), ())


def test_too_few_steps_say_nothing_of_the_end(synthetic_run: SyntheticRun) -> None:
    report = synthetic_run.attempt(0, **noisy(every=4, variance=4.0)).report()  # steps 0, 4, 8 and 12
    noise = report.noise
    assert noise is not None
    assert (noise.measured_steps, noise.noise_scale, noise.lower, noise.upper) == (4, None, None, None)
    assert "gradient noise scale  not known: measured in 4 steps, 10 are needed" in shown(report)
    assert codes(report) == []


def test_a_signal_lost_in_its_noise_has_no_upper_end(synthetic_run: SyntheticRun) -> None:
    noise = synthetic_run.attempt(0, **noisy(signal=0.0, scatter=2.0)).report().noise
    assert noise is not None
    assert noise.lower is not None
    assert noise.upper is None


def test_the_curve_of_the_noise_scale_has_the_measured_steps(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, **noisy(every=7)).altered(lambda r: r.samples_seen == 100, noise_scale=None)
    series = run.report().series
    assert series.noise_samples_seen == (0, 100)
    assert series.noise_scale == (50.0, None)


def test_a_long_curve_of_the_noise_scale_is_thinned(synthetic_run: SyntheticRun) -> None:
    job = synthetic_run.job.model_copy(update={"train": synthetic_run.job.train.model_copy(update={"epochs": 180.0})})
    series = replace(synthetic_run, job=job).attempt(0, **noisy(scatter=0.0)).report().series
    assert len(series.noise_scale) == SERIES_POINTS
    assert (series.noise_samples_seen[0], series.noise_samples_seen[-1]) == (0, 17996)


def test_a_batch_above_the_noise_scale_is_advice(synthetic_run: SyntheticRun) -> None:
    report = synthetic_run.attempt(0, **noisy(variance=4.0)).report()
    assert codes(report) == [("batch_beyond_noise_scale", None)]
    assert report.all_clear is None
    assert synthetic_run.attempt(0, **noisy(variance=16.0)).report().verdicts == ()


def test_a_batch_below_the_noise_scale_of_the_end_gets_no_advice_from_the_beginning(
    synthetic_run: SyntheticRun,
) -> None:
    """|G|^2 falls as 1 / t: the noise scale is 60 at the end, and 3 if all steps are averaged; the batch is 16."""
    job = synthetic_run.job.model_copy(update={"train": synthetic_run.job.train.model_copy(update={"epochs": 180.0})})
    values = noisy(variance=60.0 * 1 / 18000)

    def signal(rank: int, seen: int) -> float:
        return (1.0 + 0.5 * random.Random(seen).uniform(-1.0, 1.0)) / (seen + 1)

    run = replace(synthetic_run, job=job).attempt(0, **{**values, "grad_signal": signal})
    report = run.report()
    signals = [record.grad_signal or 0.0 for record in run.records if record.rank == 0]
    assert 60.0 / 18000 / (sum(signals) / len(signals)) < 16.0
    assert report.noise is not None
    assert report.noise.lower is not None
    assert report.noise.upper is not None
    assert 16.0 < report.noise.lower < 60.0 < report.noise.upper
    assert ("batch_beyond_noise_scale", None) not in codes(report)


# AdaScale: progress is measured.


@pytest.fixture
def adaptive(synthetic_run: SyntheticRun, digits: Callable[..., Job]) -> SyntheticRun:
    """Two epochs of the reference's 4 samples a step, in steps of 16; none of them is taken yet."""
    job = digits(*SYNTHETIC_JOB, "scale.rule=adascale")
    return replace(synthetic_run, job=job, plan=make_plan(job))


def test_progress_is_the_samples_seen_unless_it_is_measured(synthetic_run: SyntheticRun) -> None:
    report = synthetic_run.attempt(0, stop=48).report()
    assert report.totals.progress == report.totals.samples_seen == 48
    assert report.series.progress == (0.0, 16.0, 32.0)
    assert report.gain is None


def test_progress_with_adascale_is_of_the_references_training(adaptive: SyntheticRun) -> None:
    # A step of 16 samples is worth 2.5 steps of 4: 10 samples of the reference's training.
    half = {"progress": lambda rank, seen: seen * 10 / 16}
    report = replace(adaptive.attempt(0, stop=96, **half), state="stopped").report()
    assert (report.totals.samples_seen, report.totals.progress) == (96, 60.0)
    assert report.gain is not None
    assert (report.gain.mean, report.gain.steps_saved) == (2.5, 9.0)
    (verdict,) = report.verdicts
    assert verdict.message == "The run stopped after 30% of the training."
    assert verdict.evidence == "60 of 200 samples of the reference's training, in 96 samples"


def test_a_run_that_has_ended_came_to_its_end(adaptive: SyntheticRun) -> None:
    # The last step was worth more than the one before it, which only the end itself tells.
    values = {"progress": lambda rank, seen: min(seen * 10 / 16, 185.0)}
    report = adaptive.attempt(0, stop=316, **values).report()
    assert (report.totals.samples_seen, report.totals.progress) == (316, 200.0)
    cut_short = replace(adaptive.attempt(0, stop=316, **values), state="failed").report()
    assert cut_short.totals.progress < 200


def test_one_step_of_adascale_is_counted_as_one_of_the_reference(adaptive: SyntheticRun) -> None:
    report = replace(adaptive.attempt(0, stop=16), state="running").report()
    assert (report.totals.samples_seen, report.totals.progress) == (16, 4.0)


def test_no_step_of_adascale_is_no_progress(adaptive: SyntheticRun) -> None:
    report = replace(adaptive, state="failed").report()
    assert (report.totals.progress, report.gain) == (0.0, None)
    as_json(report)


@pytest.mark.parametrize(("optimizer", "rule", "says_so"), [("adam", "adascale", True), ("sgd", "adascale", False)])
def test_every_report_says_when_the_noise_scale_is_of_the_preconditioned_gradient(
    synthetic_run: SyntheticRun, digits: Callable[..., Job], optimizer: str, rule: str, says_so: bool
) -> None:
    job = digits(*SYNTHETIC_JOB, f"scale.rule={rule}", f"reference.optimizer={{name: {optimizer}}}")
    report = replace(synthetic_run, job=job, plan=make_plan(job)).attempt(0, **noisy(variance=0.5)).report()
    assert report.noise is not None
    assert report.noise.is_preconditioned is says_so
    words = "of the preconditioned gradient"
    assert (words in render_markdown(report)) is says_so
    assert (words in shown(report)) is says_so
    page = render_html(report)
    assert page.count(f"samples {words}, an estimate") == (2 if says_so else 0), "beside the number and on the chart"
    assert ("preconditioned gradient has the same norm" in page) is says_so
    assert ("batch_beyond_noise_scale" in [verdict.code for verdict in report.verdicts]) is not says_so


def shown(report: Report) -> str:
    console = Console(width=200, file=StringIO(), record=True)
    console.print(report_text(report))
    return console.export_text()
