"""Texts about time, cost and efficiency, and where Markdown has them."""

from dataclasses import replace

import pytest
from synthetic import SyntheticRun

from scaler.report.run.cost_text import cost_text, flops_text, money, percent, scaling_text, slowest_first
from scaler.report.run.markdown import render_markdown
from scaler.report.run.model import Cost, Flops, Scaling

SCALING = Scaling(
    world_size=2, worker_samples_per_s=90.0, one_worker_samples_per_s=100.0, efficiency=0.9, source="run a|b\x1b[31m"
)
COST = Cost(price_per_worker_hour=2.5, worker_hours=8.0, total=20.0, per_million_samples=0.004)
FLOPS = Flops(flops_per_sample=1e9, worker_tflops=40.0, peak_tflops=100.0, mfu=0.4)


@pytest.mark.parametrize(
    ("share", "text"), [(0.00499, "<1%"), (0.005, "0%"), (0.0051, "1%"), (1.256, "126%"), (None, "–")]
)
def test_a_share_in_percent(share: float | None, text: str) -> None:
    assert percent(share) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.00999, "0.01"), (0.01, "0.01"), (-0.001, "-0.001"), (999.999, "1,000.00")]
)
def test_an_amount(value: float, text: str) -> None:
    assert money(value) == text


def test_what_is_not_known_is_left_out() -> None:
    assert scaling_text(replace(SCALING, one_worker_samples_per_s=None, efficiency=None, source=None)) is None
    assert flops_text(replace(FLOPS, peak_tflops=None, mfu=None)) == "40 TFLOPS a worker"
    assert cost_text(replace(COST, per_million_samples=None)) == "20.00 for 8 worker-hours at 2.50 each"


def test_markdown_says_what_workers_bought_and_cost(synthetic_run: SyntheticRun) -> None:
    report = synthetic_run.attempt(0).report()
    text = render_markdown(replace(report, scaling=SCALING, cost=COST, flops=FLOPS))
    assert "| efficiency | 90%: 90 samples/s a worker, against 100 of one alone (run a\\|b\\\\x1b\\[31m) |" in text
    assert "| cost | 20.00 for 8 worker-hours at 2.50 each; 0.004 a million samples |" in text
    assert "| computing | 40%: 40 of 100 TFLOPS a worker |" in text
    bare = render_markdown(replace(report, scaling=None, cost=None, flops=None))
    assert not [name for name in ("efficiency", "cost", "computing") if f"| {name} |" in bare]


def test_those_without_steps_come_last(synthetic_run: SyntheticRun) -> None:
    (first, second) = synthetic_run.attempt(0).report().workers
    idle, slow = replace(first, rank=5, steps=0), replace(second, compute_s=second.compute_s * 2)
    assert [worker.rank for worker in slowest_first([idle, first, slow])] == [1, 0, 5]
