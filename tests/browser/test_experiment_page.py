"""The experiment's page in a real browser, from a file, with the network off."""

# ruff: noqa: F811 (a test names the fixtures that it takes)

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product

import pytest
from made_experiment import QUESTION, SEEDS, by_batch, made_cell, summarize
from playwright.sync_api import Page
from real_browser import browser, inked, opened  # noqa: F401  (fixtures)
from synthetic import SyntheticRun

from scaler.report.experiment.html import render_experiment_html
from scaler.report.experiment.model import CellInput
from scaler.report.experiment.workloads import public_workloads

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
    assert charts == ["chart-worth", "chart-good", "chart-samples", "chart-speed"]
    for chart in charts:
        assert inked(page, chart) > 500, chart
    page.locator("#chart-good .u-over").hover(position={"x": 2, "y": 40})
    assert page.locator("#chart-good .at").inner_text() == "at batch 16"
    assert page.locator("#chart-worth .at").inner_text() == "at batch 16", "the cursor is in both"
    command = page.locator("pre.paste").first.inner_text()
    assert command.split() == ["scaler", "submit", "job.yaml", "\\", "--set", "scale.global_batch_size=64"]


def test_the_picture_is_read_with_the_keyboard_and_shows_values_outside_on_demand(opened: Open, source: str) -> None:
    page = opened(source)
    plot = page.locator("#chart-good .plot")
    assert "0.001 (-0.00148 to 0.00348) at 64" in (plot.get_attribute("aria-label") or "")
    plot.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert page.locator("#chart-good .at").inner_text() == "at batch 64"
    assert page.locator("#reading").inner_text().startswith("at batch 64: ")
    assert "0.001 (-0.001" in page.locator("#chart-good .legend b").first.inner_text()
    assert page.locator("#chart-good .legend li").last.inner_text().split() == ["margin", "-0.01", "to", "0.01"]
    button = page.locator("#chart-good .toggle")
    assert (button.inner_text(), button.get_attribute("aria-pressed")) == ("Show all values", "false")
    before = page.locator("#chart-good canvas").evaluate("canvas => canvas.toDataURL()")
    button.click()
    assert page.locator("#chart-good canvas").evaluate("canvas => canvas.toDataURL()") != before


def test_the_page_fits_a_phone(opened: Open, source: str) -> None:
    page = opened(source)
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_critical_batch_is_beside_those_of_public_workloads_also_on_a_phone(
    opened: Open, made: Callable[..., CellInput]
) -> None:
    settings = {
        batch: {"accuracy": 0.95, "reaches": 5200.0 * (1 + batch / 200) * factor}
        for batch, factor in ((16, 1.01), (32, 0.99), (64, 1.01), (128, 1.0))
    }
    page = opened(render_experiment_html(summarize(by_batch(made, settings))))
    assert page.locator(".strip li").count() == len(public_workloads()) + 2, "the experiment, and the axis"
    places = page.eval_on_selector_all(".strip .dot", "dots => dots.map((dot) => parseFloat(dot.style.left))")
    assert places == sorted(places)
    assert page.locator(".strip .own .name").inner_text() == "this experiment"
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_an_experiment_of_500_cells_opens_in_a_second(opened: Open, made: Callable[..., CellInput]) -> None:
    cells = [
        made(number, {"scale.global_batch_size": 2 ** (4 + size), "scale.rule": f"r{rule}"}, seed, accuracy=0.95)
        for number, (size, rule, seed) in enumerate(product(range(7), range(24), SEEDS))
    ]
    question = replace(QUESTION, baseline={"scale.global_batch_size": 16, "scale.rule": "r0"})
    source = render_experiment_html(summarize(cells, question))
    page = opened(source)
    assert page.locator(".uplot").count() == 4
    drawn_ms = page.evaluate("performance.now()")  # at least until the last chart was drawn
    times = page.evaluate("performance.getEntriesByType('navigation')[0].toJSON()")
    print(
        f"{len(cells)} cells: {len(source) / 1024:.0f} KiB, drawn after {times['domComplete']:.0f} ms ({drawn_ms:.0f})"
    )
    assert len(source) < 600 * 1024
    assert times["domComplete"] < 5000  # on a busy machine; 0.4 s on an idle one
