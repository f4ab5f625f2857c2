"""The report's page in a real browser, from a file, with the network off."""

# ruff: noqa: F811 (a test names the fixtures that it takes)

from collections.abc import Callable
from dataclasses import replace

import pytest
from many_records import report_of_many
from playwright.sync_api import Page
from real_browser import browser, inked, opened  # noqa: F401  (fixtures)
from synthetic import SYNTHETIC_JOB, SyntheticRun

from scaler.job import Job
from scaler.plan import make_plan
from scaler.report.run.html import render_html
from scaler.report.run.model import Report

HOSTILE = "<img src=x onerror=\"document.title='broken'\">"
MOST_MB = 6.0
MOST_SECONDS = 1.0
Open = Callable[[str], Page]
Inked = Callable[[Page, str], int]


@pytest.fixture
def report(digits: Callable[..., Job]) -> Report:
    """A run of three workers in two attempts, with an evaluation, whose ranks differ."""
    job = digits(*SYNTHETIC_JOB)
    run = SyntheticRun(job=job, plan=make_plan(job))
    losses = {"loss": lambda rank, seen: 2.0 + rank - seen / 400}
    run = run.attempt(0, stop=96, **losses).died(1).later(3.2).attempt(1, start=64, world_size=3, **losses)
    return run.evaluated(100, **{HOSTILE: 0.5, "loss": 1.2}).evaluated(200, **{HOSTILE: 0.75, "loss": 1.1}).report()


def test_every_chart_is_drawn(opened: Open, inked: Inked, report: Report) -> None:
    page = opened(render_html(report))
    charts = page.eval_on_selector_all("figure.chart", "figures => figures.map((figure) => figure.id)")
    assert len(charts) >= 5
    for chart in charts:
        assert inked(page, chart) > 1000, chart


def test_pointing_at_a_chart_shows_the_values_there(opened: Open, report: Report) -> None:
    page = opened(render_html(report))
    loss = page.locator("#chart-loss")
    assert loss.locator(".at").inner_text() == "last values"
    last = loss.locator(".legend b").first.inner_text()
    loss.locator(".u-over").hover(position={"x": 2, "y": 40})
    assert loss.locator(".at").inner_text() == "at 0 samples"
    assert loss.locator(".legend b").first.inner_text() != last
    assert page.locator("#chart-lr .at").inner_text() == "at 0 samples", "the other charts follow"


def test_arrow_keys_read_values_aloud(opened: Open, report: Report) -> None:
    page = opened(render_html(report))
    page.locator("#chart-lr .plot").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert page.locator("#reading").inner_text().startswith("at 16 samples: used 0.0")
    page.keyboard.press("End")
    assert not page.locator("#reading").inner_text().startswith("at 16 samples")


def test_the_axis_can_be_time(opened: Open, report: Report) -> None:
    page = opened(render_html(report))
    assert page.locator("input[name=axis]").count() == 2
    before = page.locator("#chart-loss canvas").evaluate("canvas => canvas.toDataURL()")
    page.locator("input[value=samples]").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#chart-loss canvas").evaluate("canvas => canvas.toDataURL()") != before
    page.locator("#chart-loss .u-over").hover(position={"x": 2, "y": 40})
    assert page.locator("#chart-loss .at").inner_text().startswith("after ")
    page.locator("#chart-loss summary").click()
    assert page.locator("#chart-loss details th").first.inner_text() == "time since submission"


def test_a_run_whose_times_are_not_known_has_no_such_switch(opened: Open, inked: Inked, report: Report) -> None:
    series = report.series
    unknown = {name: (None,) * len(getattr(series, name)) for name in ("elapsed_s", "eval_elapsed_s")}
    page = opened(render_html(replace(report, series=replace(series, **unknown))))
    assert page.locator("input[name=axis]").count() == 0
    assert inked(page, "chart-loss") > 1000


def test_a_time_that_is_not_known_takes_its_own_place_off_the_axis_alone(opened: Open, report: Report) -> None:
    series = report.series
    page = opened(render_html(replace(report, series=replace(series, elapsed_s=(None, *series.elapsed_s[1:])))))
    assert page.locator("#chart-lr .untimed").is_hidden()
    page.locator("input[value=time]").check(force=True)
    assert page.locator("#chart-lr .untimed").inner_text().endswith("is not drawn over time: its time is not known.")
    page.locator("#chart-lr summary").click()
    page.locator("#chart-lr tbody tr").first.wait_for()  # the table is filled a moment after the click
    assert page.locator("#chart-lr tbody tr").count() == len(series.samples_seen) - 1


def test_a_chart_of_which_no_time_is_known_stays_over_samples(opened: Open, inked: Inked, report: Report) -> None:
    unknown = (None,) * len(report.series.eval_elapsed_s)
    page = opened(render_html(replace(report, series=replace(report.series, eval_elapsed_s=unknown))))
    page.locator("input[value=time]").check(force=True)
    assert page.locator("#chart-eval-0 .untimed").inner_text() == "Drawn over samples: no time is known."
    page.locator("#chart-eval-0 .u-over").hover(position={"x": 2, "y": 40})
    assert page.locator("#chart-eval-0 .at").inner_text() == "at 0 samples"
    assert page.locator("#chart-lr .at").inner_text() == "last values", "its cursor is no time"
    assert inked(page, "chart-eval-0") > 1000


def test_a_name_that_holds_html_is_text(opened: Open, report: Report) -> None:
    page = opened(render_html(report))
    assert page.title() == f"{report.run_id} – report"
    assert page.locator("img").count() == 0
    assert HOSTILE in page.locator("#chart-eval-0 h3").inner_text()


def test_the_table_of_workers_is_sorted_by_its_columns(opened: Open, report: Report) -> None:
    page = opened(render_html(report))

    def ranks() -> list[str]:
        found: list[str] = page.eval_on_selector_all(
            ".sortable tbody tr", "rows => rows.map((row) => row.cells[0].dataset.value)"
        )
        return found

    assert ranks() == ["0", "1", "2"]
    page.get_by_role("button", name="rank", exact=True).click()
    assert ranks() == ["2", "1", "0"]
    page.get_by_role("button", name="loss", exact=True).click()
    assert ranks() == ["0", "1", "2"]


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "light"), (390, "dark")])
def test_nothing_is_wider_than_the_window(opened: Open, report: Report, width: int, scheme: str) -> None:
    page = opened(render_html(report))
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_the_page_of_many_records_is_small_and_quick(opened: Open, inked: Inked, digits: Callable[..., Job]) -> None:
    report = report_of_many(digits, workers=64, steps=20_000)
    assert (report.totals.steps, len(report.workers), len(report.series.samples_seen)) == (20_000, 64, 500)
    source = render_html(report)
    page = opened(source)
    drawn = "new Promise((done) => requestAnimationFrame(() => done(performance.now() / 1000)))"
    took = min(page.evaluate(drawn), *(opened(source).evaluate(drawn) for _ in range(2)))  # others share the machine
    print(f"64 workers x 20,000 steps: {len(source.encode()) / 1e6:.2f} MB, loaded and drawn in {took:.2f} s")
    assert len(source.encode()) / 1e6 < MOST_MB
    assert took < MOST_SECONDS
    assert inked(page, "chart-loss") > 1000


def test_on_paper_a_chart_is_as_wide_as_the_page(opened: Open, report: Report) -> None:
    page = opened(render_html(report))
    page.emulate_media(media="print")
    for width in (688, 1000):  # A4 between its margins, and a larger sheet
        page.set_viewport_size({"width": width, "height": 900})
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.locator("#chart-loss canvas").bounding_box()["width"] == width
        assert page.evaluate("document.documentElement.scrollWidth") == width
        page.evaluate("dispatchEvent(new Event('afterprint'))")
