"""Pages in a real browser: from files, with the network off."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright import sync_api

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

Open = Callable[[str], sync_api.Page]


@pytest.fixture(scope="module")  # a module that imports it has a browser of its own
def browser() -> Iterator[sync_api.Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: sync_api.Browser, tmp_path: Path) -> Iterator[Open]:
    """Open a page's source; a request, a message on the console or an error fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    complaints: list[str] = []

    def open_page(source: str) -> sync_api.Page:
        file = tmp_path / "page.html"
        file.write_text(source, encoding="utf-8")
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
def inked() -> Callable[[sync_api.Page, str], int]:
    """Count a chart's pixels that are not empty."""

    def count(page: sync_api.Page, chart: str) -> int:
        pixels: int = page.evaluate(
            """id => {
                const canvas = document.querySelector(`#${id} canvas`);
                const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
                return data.filter((value, i) => i % 4 === 3 && value > 0).length;
            }""",
            chart,
        )
        return pixels

    return count
