"""The comparison's page in a real browser, from a file, with the network off."""

# ruff: noqa: F811 (a test names the fixtures that it takes)

from collections.abc import Callable
from dataclasses import replace

import pytest
from playwright.sync_api import Page
from real_browser import browser, inked, opened  # noqa: F401  (fixtures)
from synthetic import SYNTHETIC_JOB, SyntheticRun

from scaler.job import Job
from scaler.plan import make_plan
from scaler.report.compare.arms import Member
from scaler.report.compare.html import render_comparison_html
from scaler.report.compare.summary import compare_runs

HOSTILE = "<img src=x onerror=\"document.title='broken'\">"
Open = Callable[[str], Page]
Inked = Callable[[Page, str], int]


@pytest.fixture
def source(digits: Callable[..., Job]) -> str:
    """The page of three runs in two arms: repeats, and one whose loss is a thousandfold and whose name holds HTML."""

    def member(run_id: str, *overrides: str, seed: int, scale: float) -> Member:
        job = digits(*SYNTHETIC_JOB, f"train.seed={seed}", *overrides)
        run = SyntheticRun(job=job, plan=make_plan(job))
        run = run.attempt(0, loss=lambda rank, seen: scale * (2.0 + rank - seen / 400))
        run = run.evaluated(100, loss=1.2 * scale).evaluated(200, loss=1.1 * scale)
        return Member(jobs=(job,), report=replace(run.report(), run_id=run_id))

    runs = [member("a-1", seed=0, scale=1.0), member("a-2", seed=1, scale=1.1)]
    return render_comparison_html(compare_runs([*runs, member(HOSTILE, "reference.lr=0.02", seed=0, scale=1000.0)]))


def test_every_curve_is_drawn(opened: Open, inked: Inked, source: str) -> None:
    page = opened(source)
    charts = page.eval_on_selector_all("figure.chart", "figures => figures.map((figure) => figure.id)")
    assert charts == ["chart-0", "chart-1"]
    for chart in charts:
        assert inked(page, chart) > 1000, chart
        assert page.locator(f"#{chart} .legend li").count() == 3


def test_pointing_at_a_chart_shows_each_run_s_value_there(opened: Open, source: str) -> None:
    page = opened(source)
    evaluations = page.locator("#chart-1")
    values = evaluations.locator(".legend b")
    assert evaluations.locator(".at").inner_text() == "last values"
    assert values.all_inner_texts() == ["1.1", "1.21", "1,100"]
    evaluations.locator(".u-over").hover(position={"x": 2, "y": 40})
    assert values.all_inner_texts() == [f"{value} (at 100 samples)" for value in ("1.2", "1.32", "1,200")]
    assert page.locator("#chart-0 .at").inner_text().startswith("at "), "the other charts follow"


def test_arrow_keys_read_values_aloud(opened: Open, source: str) -> None:
    page = opened(source)
    page.locator("#chart-1 .plot").focus()
    page.keyboard.press("End")
    assert page.locator("#reading").inner_text().startswith("at 200 samples: A: a-1 1.1; A: a-2 1.21; B: ")


def test_the_axis_can_be_time(opened: Open, source: str) -> None:
    page = opened(source)
    before = page.locator("#chart-0 canvas").evaluate("canvas => canvas.toDataURL()")
    page.locator("input[value=samples]").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#chart-0 canvas").evaluate("canvas => canvas.toDataURL()") != before
    page.locator("#chart-0 .u-over").hover(position={"x": 40, "y": 40})
    assert page.locator("#chart-0 .at").inner_text().startswith("after ")


def test_a_log_scale_shows_the_others_beside_a_run_that_diverged(opened: Open, source: str) -> None:
    page = opened(source)
    button = page.locator("#chart-0 .toggle")
    before = page.locator("#chart-0 canvas").evaluate("canvas => canvas.toDataURL()")
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert page.locator("#chart-0 canvas").evaluate("canvas => canvas.toDataURL()") != before


def test_a_name_that_holds_html_is_text(opened: Open, source: str) -> None:
    page = opened(source)
    assert page.title() == "3 runs, 2 arms – comparison"
    assert page.locator("img").count() == 0
    assert HOSTILE in page.locator("#chart-0 .legend").inner_text()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "light"), (390, "dark")])
def test_nothing_is_wider_than_the_window(opened: Open, source: str, width: int, scheme: str) -> None:
    page = opened(source)
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == width
