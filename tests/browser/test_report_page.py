"""The report's page in a real browser, from a file, with the network off."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import SYNTHETIC_JOB, SyntheticRun

from scaler.job import Job
from scaler.plan import make_plan
from scaler.report.html import render_html
from scaler.report.model import Report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("there is no Chromium here: apt-get install chromium", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api")

HOSTILE = "<img src=x onerror=\"document.title='broken'\">"
MOST_MIB = 6.0
MOST_SECONDS = 2.0  # 0.3 s on a machine that has nothing else to do
Open = Callable[[Report], "sync_api.Page"]


@pytest.fixture(scope="session")
def browser() -> Iterator["sync_api.Browser"]:
    with sync_api.sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: "sync_api.Browser", tmp_path: Path) -> Iterator[Open]:
    """Open a report's page; a request, a message on the console or an error fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    complaints: list[str] = []

    def open_page(report: Report) -> "sync_api.Page":
        file = tmp_path / "report.html"
        file.write_text(render_html(report), encoding="utf-8")
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda made: complaints.append(made.url) if made.url != file.as_uri() else None)
        page.goto(file.as_uri())
        return page

    yield open_page
    context.close()
    assert [what for what in complaints if not what.startswith("data:")] == []


@pytest.fixture
def report(digits: Callable[..., Job]) -> Report:
    """A run of three workers in two lives, with an evaluation, whose ranks differ."""
    job = digits(*SYNTHETIC_JOB)
    run = SyntheticRun(job=job, plan=make_plan(job))
    losses = {"loss": lambda rank, seen: 2.0 + rank - seen / 400}
    run = run.attempt(0, stop=96, **losses).died(1).later(3.2).attempt(1, start=64, world_size=3, **losses)
    return run.evaluated(100, **{HOSTILE: 0.5, "loss": 1.2}).evaluated(200, **{HOSTILE: 0.75, "loss": 1.1}).report()


def inked(page: "sync_api.Page", chart: str) -> int:
    """How many of a chart's pixels are not empty."""
    count: int = page.evaluate(
        """id => {
            const canvas = document.querySelector(`#${id} canvas`);
            const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            return data.filter((value, i) => i % 4 === 3 && value > 0).length;
        }""",
        chart,
    )
    return count


def test_every_chart_is_drawn(opened: Open, report: Report) -> None:
    page = opened(report)
    charts = page.eval_on_selector_all("figure.chart", "figures => figures.map((figure) => figure.id)")
    assert len(charts) >= 5
    for chart in charts:
        assert inked(page, chart) > 1000, chart


def test_pointing_at_a_chart_shows_the_values_there(opened: Open, report: Report) -> None:
    page = opened(report)
    loss = page.locator("#chart-loss")
    assert loss.locator(".at").inner_text() == "last values"
    last = loss.locator(".legend b").first.inner_text()
    loss.locator(".u-over").hover(position={"x": 2, "y": 40})
    assert loss.locator(".at").inner_text() == "at 0 samples"
    assert loss.locator(".legend b").first.inner_text() != last
    assert page.locator("#chart-lr .at").inner_text() == "at 0 samples", "the other charts follow"


def test_arrow_keys_read_values_aloud(opened: Open, report: Report) -> None:
    page = opened(report)
    page.locator("#chart-lr .plot").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert page.locator("#reading").inner_text().startswith("at 16 samples: used 0.0")
    page.keyboard.press("End")
    assert not page.locator("#reading").inner_text().startswith("at 16 samples")


def test_the_axis_can_be_time(opened: Open, report: Report) -> None:
    page = opened(report)
    assert page.locator("input[name=axis]").count() == 2
    before = page.locator("#chart-loss canvas").evaluate("canvas => canvas.toDataURL()")
    page.locator("input[value=clocks]").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#chart-loss canvas").evaluate("canvas => canvas.toDataURL()") != before
    page.locator("#chart-loss .u-over").hover(position={"x": 2, "y": 40})
    assert page.locator("#chart-loss .at").inner_text().startswith("after ")
    page.locator("#chart-loss summary").click()
    assert page.locator("#chart-loss details th").first.inner_text() == "time since submission"


def test_a_run_whose_times_are_not_known_has_no_such_switch(opened: Open, report: Report) -> None:
    unknown = (None,) * len(report.series.samples_seen)
    page = opened(replace(report, series=replace(report.series, elapsed_s=unknown)))
    assert page.locator("input[name=axis]").count() == 0
    assert inked(page, "chart-loss") > 1000


def test_a_name_that_holds_html_is_text(opened: Open, report: Report) -> None:
    page = opened(report)
    assert page.title() == f"{report.run_id} – report"
    assert page.locator("img").count() == 0
    assert HOSTILE in page.locator("#chart-eval-0 h3").inner_text()


def test_the_table_of_workers_is_sorted_by_its_columns(opened: Open, report: Report) -> None:
    page = opened(report)

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
    page = opened(report)
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_the_page_of_many_workers_is_small_and_quick(opened: Open, report: Report) -> None:
    series = report.series

    def stretched(values: tuple[object, ...]) -> tuple[object, ...]:
        return tuple(values[i * len(values) // 500] for i in range(500)) if values else ()

    steps = {
        name: stretched(getattr(series, name))
        for name in series.__dataclass_fields__
        if not name.startswith(("eval", "noise"))
    }
    places = {"samples_seen": tuple(range(0, 500 * 640, 640)), "elapsed_s": tuple(i / 3 for i in range(500))}
    workers = tuple(replace(report.workers[0], rank=rank) for rank in range(64))
    large = replace(report, workers=workers, series=replace(series, **{**steps, **places}))
    size = len(render_html(large).encode()) / 2**20
    page = opened(large)
    took = page.evaluate("new Promise((done) => requestAnimationFrame(() => done(performance.now() / 1000)))")
    print(f"64 workers, curves at their longest: {size:.2f} MiB, shown in {took:.2f} s")
    assert size < MOST_MIB
    assert took < MOST_SECONDS
    assert inked(page, "chart-loss") > 1000
