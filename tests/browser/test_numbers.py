"""A number has the same text in the page's scripts as in Python."""

# ruff: noqa: F811 (a test names the fixtures that it takes)

import random
from collections.abc import Callable
from importlib.resources import files

from playwright.sync_api import Page
from real_browser import browser, opened  # noqa: F401  (fixtures)

from scaler.report.text.format import number, seconds

Open = Callable[[str], Page]

EDGES = (
    *(0.0, -0.0, 1.0, 16.0, 0.5, 999.94, 999.95, 999.96, 1000.0, 2034.0, 9999.4, 9999.5, 9999.6, 12344.5, 12345.5),
    *(1.0625, 2.1875, 0.03125, 1.00048828125, 0.00009999, 0.000099995, 0.0001, 1e-5, 1.5e-7, 1e-12, 1e-300, 1e-100),
    *(0.12345, 0.12355, 0.9995, 0.99949, 59.94, 59.96, 60.0, 61.9, 3599.9, 3600.0, 7384.0, 90000.0),
    *(1e14, 999_999_999_999_999.0, 1e15, 1.2345e15, 1e20, 1.5e300),
)


def test_numbers_and_times_are_the_same_text_in_the_page_and_in_python(opened: Open) -> None:
    chance = random.Random(7)
    values = [*EDGES, *(-value for value in EDGES)]
    values += [chance.choice((1, -1)) * 10 ** chance.uniform(-12, 17) for _ in range(3000)]
    values += [chance.randrange(2**20) / 2 ** chance.randrange(1, 20) for _ in range(3000)]  # many are ties
    script = files("scaler.report.page").joinpath("static", "numbers.js").read_text(encoding="utf-8")
    page = opened(f"<!DOCTYPE html><script>{script}</script>")
    times = [abs(value) for value in values if abs(value) < 1e15]
    for script_text, python_text, inputs in (("format", number, values), ("seconds", seconds, times)):
        texts = page.evaluate(f"values => values.map({script_text})", inputs)
        expected = [python_text(value) for value in inputs]
        wrong = [each for each in zip(inputs, texts, expected, strict=True) if each[1] != each[2]]
        assert not wrong
