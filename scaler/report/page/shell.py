"""The shell of every page: one HTML file with all styles, scripts and data inside, which loads nothing.

All pages have the same style sheets and scripts: a page is its data and a template that extends ``page.html.j2``.
Text is escaped, data passes ``tojson``, and a content security policy in the page allows only the page's own scripts.
"""

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template
from markupsafe import Markup

from scaler.report.page.chart import ChartSet
from scaler.report.page.parts import Heading, as_cell
from scaler.report.text.format import number, option, plural, printable, seconds

STYLES = ("uPlot.min.css", "page.css", "charts.css", "tables.css")
SCRIPTS = ("uPlot.iife.min.js", "numbers.js", "drawing.js", "chart.js", "sorting.js")
"""In the order in which they build on each other."""


def render_page(
    template: str, *, kind: str, subject: str, title: str, headline: str = "", charts: ChartSet, **values: Any
) -> str:
    """Return a template as a document that needs no other file.

    Args:
        template: a file of ``static/`` that extends ``page.html.j2``. It has the filters ``number``, ``option``,
            ``plural``, ``printable`` and ``seconds``.
        kind: the kind of page, such as ``report``, for the title of the browser's window.
        subject: the kind with its subject, such as ``Report of a run``, above the title.
        title: of the page.
        headline: the result as one sentence.
        charts: all charts of the page; the template has them as ``charts``.
        values: further values of the template, by name.
    """
    scripts = [_static(name) for name in SCRIPTS]
    return _template(template).render(
        styles=Markup("\n".join(_static(name) for name in STYLES)),
        scripts=[Markup(script) for script in scripts],
        script_hashes=[_hash(script) for script in scripts],
        kind=kind,
        subject=subject,
        title=title,
        headline=headline,
        charts=charts,
        **values,
    )


def render_part(template: str, **values: Any) -> str:
    """Return a template as a part of another page, with all text escaped."""
    return _template(template).render(**values)


@cache
def _template(name: str) -> Template:
    environment = Environment(
        loader=FunctionLoader(_static),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_without_controls,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.filters |= {
        "as_cell": as_cell,
        "number": number,
        "option": option,
        "plural": plural,
        "printable": printable,
        "seconds": seconds,
    }
    environment.tests["heading"] = lambda row: isinstance(row, Heading)
    return environment.get_template(name)


def _without_controls(value: object) -> object:
    """Text with its control characters shown, so that no text reverses or hides the text after it."""
    return printable(value) if type(value) is str else value  # Markup is the page's own


@cache
def _static(name: str) -> str:
    return files("scaler.report.page").joinpath("static", name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """The name of a script in a content security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
