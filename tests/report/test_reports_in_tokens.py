"""Reports, comparisons and plans of jobs that count tokens; a sample has 1,000 of them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from synthetic import SYNTHETIC_JOB, SyntheticRun, as_json, codes
from test_text import rendered

from scaler.cli.live_view import View, numbers_line
from scaler.cluster.progress import Progress
from scaler.core.unit import unit_with
from scaler.job import Job
from scaler.plan import make_plan
from scaler.report.compare.arms import Member
from scaler.report.compare.format import curve_text, measure_text, value_text
from scaler.report.compare.summary import compare_runs
from scaler.report.compare.text import comparison_text
from scaler.report.experiment.model import CriticalBatchResult
from scaler.report.experiment.text import critical_text
from scaler.report.plan.html import render_plan_html
from scaler.report.plan.text import plan_text, plans_table
from scaler.report.run.html import render_html
from scaler.report.run.markdown import render_markdown
from scaler.report.run.text import report_text
from scaler.report.run.tokens import in_one_unit, in_unit

Golden = Callable[[str, str], None]
TOKENS = 1000
IN_TOKENS = (
    *(override for override in SYNTHETIC_JOB if override.startswith(("train.num", "train.epochs"))),
    "train.unit=tokens",
    f"train.tokens_per_sample={TOKENS}",
    "reference.global_batch_size=4000",
    "scale.per_worker_batch_size=8000",
    "schedule.warmup={tokens: 32000}",
)


def weight(share: float) -> Callable[[int, int], float]:
    """Return the weight of a worker's loss: a share of its tokens; the last step of an epoch has 2 samples."""
    return lambda rank, seen: share * TOKENS * (8 if seen % 100 < 96 else 2)


@pytest.fixture
def in_tokens(digits: Callable[..., Job]) -> Callable[..., SyntheticRun]:
    """Make a run of the synthetic job in tokens."""

    def run(*overrides: str) -> SyntheticRun:
        job = digits(*IN_TOKENS, *overrides)
        return SyntheticRun(job=job, plan=make_plan(job, 2))

    return run


@pytest.fixture
def padded(in_tokens: Callable[..., SyntheticRun]) -> SyntheticRun:
    """A run that lost an attempt, and whose samples are padding for the greater part."""
    run = in_tokens().attempt(0, stop=96, weight=weight(0.375)).died(1).later(3.2)
    return run.attempt(1, start=64, weight=weight(0.375)).evaluated(200, loss=0.6931)


def test_the_report_of_a_run_in_tokens(padded: SyntheticRun, golden: Golden) -> None:
    golden("report-tokens.txt", rendered(report_text(padded.report())))


def test_the_same_report_in_markdown(padded: SyntheticRun, golden: Golden) -> None:
    golden("report-tokens.md", render_markdown(padded.report()))


def test_the_page_of_a_run_in_tokens_speaks_tokens(padded: SyntheticRun) -> None:
    page = render_html(padded.report())
    for text in ("tokens/s", "200k tokens", "tokens seen", "total_tokens", "38% of the planned", "from token"):
        assert text in page
    assert "samples/s" not in page.partition("<script")[0]


def test_report_json_has_both_each_with_its_name(padded: SyntheticRun) -> None:
    report = as_json(padded.report())
    totals = report["totals"]
    assert (totals["samples_seen"], totals["tokens_seen"], totals["real_tokens"]) == (200, 200_000, 75_000)
    assert totals["tokens_per_s"] == pytest.approx(TOKENS * totals["samples_per_s"])
    assert (report["plan"]["unit"], report["plan"]["tokens_per_sample"]) == ("tokens", TOKENS)
    assert report["plan"]["global_batch_size"] == 16
    assert [row["tokens"] for row in report["workers"]] == [TOKENS * row["samples"] for row in report["workers"]]


def test_a_run_in_samples_has_no_tokens_and_the_same_report(synthetic_run: SyntheticRun) -> None:
    report = synthetic_run.attempt(0, weight=weight(0.5)).report()
    assert in_unit(report) is report
    assert (report.totals.tokens_seen, report.totals.real_tokens, report.workers[0].tokens) == (None, None, None)


@pytest.mark.parametrize(
    ("share", "code"),
    [(0.79, "padded_tokens"), (0.81, None), (1.0, None), (1.02, "tokens_beyond_plan"), (None, None)],
    ids=str,
)
def test_real_tokens_far_from_the_planned_are_a_finding(
    in_tokens: Callable[..., SyntheticRun], share: float | None, code: str | None
) -> None:
    values: dict[str, Any] = {} if share is None else {"weight": weight(share)}
    found = [each for each, _ in codes(in_tokens().attempt(0, **values).report())]
    assert [each for each in found if "token" in each] == ([code] if code else [])


def test_lengths_that_change_count_each_sample_by_its_own(in_tokens: Callable[..., SyntheticRun]) -> None:
    run = in_tokens(
        "scale.global_batch_size=16000", "train.sequence_lengths=[{at: {tokens: 100000}, tokens_per_sample: 2000}]"
    )
    assert [phase.start_samples for phase in run.plan.phases] == [0, 100]
    report = run.attempt(0).report()
    assert report.totals.tokens_seen == 100 * 1000 + 100 * 2000
    shown = in_unit(report)
    assert shown.totals.samples_seen == shown.attempts[-1].end_samples == 300_000
    assert set(shown.series.global_batch_size) <= {16_000, 4_000, 8_000}  # with the short last steps of two epochs
    assert shown.series.samples_seen[0] == 0
    assert shown.series.samples_seen[-1] == 100_000 + 96 * 2000
    assert "tokens a sample  1,000, 2,000 from token 100k" in rendered(report_text(report))


# Comparisons and experiments


def member(run: SyntheticRun, run_id: str, eval_loss: float) -> Member:
    report = run.attempt(0).evaluated(100, loss=2 * eval_loss).evaluated(200, loss=eval_loss).report()
    return Member(jobs=(run.job,), report=replace(report, run_id=run_id))


def test_a_comparison_of_token_jobs_is_in_tokens(in_tokens: Callable[..., SyntheticRun], golden: Golden) -> None:
    runs = in_tokens(), in_tokens("scale.rule=sqrt")
    comparison = compare_runs([member(run, name, 0.5) for run, name in zip(runs, ("a", "b"), strict=True)])
    assert (comparison.unit, comparison.common_samples) == ("tokens", 200_000)
    golden("compare-tokens.txt", rendered(comparison_text(comparison)))


def test_runs_of_two_units_are_compared_in_samples(
    in_tokens: Callable[..., SyntheticRun], synthetic_run: SyntheticRun
) -> None:
    comparison = compare_runs([member(in_tokens(), "a", 0.5), member(synthetic_run, "b", 0.5)])
    assert (comparison.unit, comparison.common_samples) == ("samples", 200)
    texts = {measure_text(measure) for measure in comparison.measures if measure.kind == "at_samples"}
    assert f"{curve_text('train_loss')} after 200 samples" in texts


def test_runs_with_samples_of_other_lengths_are_compared_by_tokens(in_tokens: Callable[..., SyntheticRun]) -> None:
    longer = in_tokens("train.tokens_per_sample=2000")
    reports, unit = in_one_unit([in_tokens().attempt(0).report(), longer.attempt(0).report()])
    assert unit == "tokens"
    assert [report.totals.samples_seen for report in reports] == [200_000, 400_000]
    assert [report.plan["global_batch_size"] for report in reports] == [16_000, 16_000]


def test_values_in_tokens_have_three_digits() -> None:
    assert [value_text(4_194_304.0, unit) for unit in ("tokens", "tokens/s", "samples")] == [
        "4.19M",
        "4.19M/s",
        "4,194,304",
    ]


def test_a_critical_batch_in_tokens() -> None:
    none: dict[str, Any] = dict.fromkeys(("refusal", "held_out"))
    found = CriticalBatchResult(
        value=1_500_000.0, low=1.2e6, high=2e6, fewest_samples=3.2e9, batches=(), add=(), noise_scale=8e5, samples=(),
        each=(), curve=(), **none,
    )  # fmt: skip
    assert critical_text(found, "tokens") == (
        "The critical batch size is 1.5M tokens (1.2M to 2M): there, a run needs twice the 3.2B tokens that a very "
        "small batch needs. The measured noise scale is 800k tokens."
    )


# Plans and live progress


def test_the_plan_of_a_job_in_tokens(digits: Callable[..., Job], golden: Golden) -> None:
    job = digits(
        *IN_TOKENS,
        "scale.global_batch_size=16000",
        "train.sequence_lengths=[{at: {tokens: 100000}, tokens_per_sample: 2000}]",
    )
    golden("plan-tokens.txt", rendered(plan_text(make_plan(job), job=job)))


def test_a_page_and_a_table_of_plans_in_tokens(digits: Callable[..., Job]) -> None:
    plans = [make_plan(digits(*IN_TOKENS), size) for size in (1, 2)]
    page, table = render_plan_html(plans), rendered(plans_table(plans))
    for text in ("16k", "1 x 8,000"):
        assert text in page
        assert text in table
    assert "which counts samples: of 1,000 tokens at the start" in page


def test_live_progress_in_tokens() -> None:
    progress = Progress(attempt=0, world_size=1, samples_seen=64, samples_per_s=12.5, lr=0.1, loss_mean=2.0)
    assert numbers_line(progress, unit_with(TOKENS)) == "loss 2  lr 0.1  12.5k tokens/s"
    assert "12.5k tokens/s" in rendered(View(total=200.0, done=64.0, progress=progress, unit=unit_with(TOKENS)))
