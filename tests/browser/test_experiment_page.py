"""The experiment's page in a real browser, from a file, with the network off."""

# ruff: noqa: F811 (a test names the fixtures that it takes)

from collections.abc import Callable
from functools import partial

import pytest
from made_experiment import by_batch, made_cell, summarize
from playwright.sync_api import Page
from real_browser import browser, inked, opened  # noqa: F401  (fixtures)
from synthetic import SyntheticRun

from scaler.report.experiment.html import render_experiment_html
from scaler.report.experiment.model import CellInput

Open = Callable[[str], Page]
Inked = Callable[[Page, str], int]


@pytest.fixture
def made(synthetic_run: SyntheticRun) -> Callable[..., CellInput]:
    return partial(made_cell, synthetic_run.attempt(0).report())


@pytest.fixture
def source(made: Callable[..., CellInput]) -> str:
    """The page of three batch sizes: one as good as the baseline and faster, and one that is worse."""
    settings = {
        16: {"accuracy": 0.95, "speed": 100.0},
        64: {"accuracy": 0.951, "speed": 250.0},
        1024: {"accuracy": 0.80, "speed": 900.0, "reaches": 1e9},
    }
    return render_experiment_html(summarize(by_batch(made, settings)))


def test_the_page_opens_with_the_answer_and_draws_every_curve(opened: Open, inked: Inked, source: str) -> None:
    page = opened(source)
    assert page.locator(".headline").inner_text().startswith("Batch 64 on 1 worker with rule linear is as good as")
    charts = page.eval_on_selector_all("figure.chart", "figures => figures.map((figure) => figure.id)")
    assert charts == ["chart-metric", "chart-samples", "chart-speed"]
    for chart in charts:
        assert inked(page, chart) > 500, chart
    page.locator("#chart-metric .u-over").hover(position={"x": 2, "y": 40})
    assert page.locator("#chart-metric .at").inner_text() == "at batch 16"
    assert page.locator("pre.paste").inner_text() == "scaler submit job.yaml --set scale.global_batch_size=64"


def test_the_page_fits_a_phone(opened: Open, source: str) -> None:
    page = opened(source)
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_an_experiment_of_500_cells_opens_quickly(opened: Open, made: Callable[..., CellInput]) -> None:
    settings = {16 + 4 * number: {"accuracy": 0.95} for number in range(167)}
    page = opened(render_experiment_html(summarize(by_batch(made, settings))))
    times = "performance.getEntriesByType('navigation')[0]"
    began, ended = page.evaluate(f"[{times}.startTime, {times}.domComplete]")
    assert page.locator("#quality-caption").count() == 1
    assert ended - began < 5000  # on a busy machine; 0.3 s on an idle one
