"""The range test's page in a real browser, from a file, with the network off."""

# ruff: noqa: F811 (a test names the fixtures that it takes)

from collections.abc import Callable

import pytest
from playwright.sync_api import Page
from real_browser import browser, inked, opened  # noqa: F401  (fixtures)

from scaler.report.find_lr.html import render_range_html
from scaler.report.find_lr.summary import SCHEMA_VERSION, FoundLrs

Open = Callable[[str], Page]
Inked = Callable[[Page, str], int]


@pytest.fixture
def source() -> str:
    """The page of a test of 50 steps from 1e-5 to 10 whose loss explodes above 2."""
    lrs = tuple(1e-5 * 10 ** (6 * step / 49) for step in range(50))
    losses = tuple(400.0 if lr > 2.0 else 0.3 + 2.0 / (1.0 + lr / 0.16) for lr in lrs)
    suggestions = {"steepest": 0.17, "valley": 0.13, "tenth_of_divergence": 0.22}
    found = FoundLrs(
        schema_version=SCHEMA_VERSION,
        run_id="digits-find-lr-1",
        name="digits",
        world_size=2,
        global_batch_size=256,
        reference_batch_size=16,
        base_lr=0.01,
        lr_ratio=16.0,
        rule_reason="sgd: linear rule",
        lrs=lrs,
        losses=losses,
        smoothed=losses,
        diverged_at=2.2,
        suggestions=suggestions,
        reference_suggestions={key: lr / 16 for key, lr in suggestions.items()},
        chosen="valley",
        hints=(),
    )
    return render_range_html(found)


def test_the_curve_is_drawn_and_read_over_the_learning_rate(opened: Open, inked: Inked, source: str) -> None:
    page = opened(source)
    assert inked(page, "chart-range") > 1000
    chart = page.locator("#chart-range")
    chart.locator(".u-over").hover(position={"x": 2, "y": 40})
    assert chart.locator(".at").inner_text() == "at learning rate 1e-05"
    assert chart.locator(".legend b").all_inner_texts() == ["2.3", "2.3"]
    assert chart.locator(".legend strong").all_inner_texts() == ["0.17", "0.13", "0.22", "2.2"]


def test_losses_above_the_ceiling_are_shown_when_asked_for(opened: Open, source: str) -> None:
    page = opened(source)
    button = page.get_by_role("button", name="Show all values")
    before = page.locator("#chart-range canvas").evaluate("canvas => canvas.toDataURL()")
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert page.locator("#chart-range canvas").evaluate("canvas => canvas.toDataURL()") != before


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "light"), (390, "dark")])
def test_nothing_is_wider_than_the_window(opened: Open, source: str, width: int, scheme: str) -> None:
    page = opened(source)
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == width
