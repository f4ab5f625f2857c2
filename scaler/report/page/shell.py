"""What pages are made of: one HTML file that needs nothing else, from a template, styles and scripts.

Text is escaped wherever it stands, data passes ``tojson``, and a content security policy in the page lets nothing be
loaded and only the page's own scripts run.
"""

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template
from markupsafe import Markup

from scaler.report.text.format import number, plural, printable

CHART_LIBRARY = "uPlot.iife.min.js"
PAGE_STYLES = ("uPlot.min.css", "page.css")
CURVE_SCRIPTS = (CHART_LIBRARY, "numbers.js", "drawing.js", "chart.js", "curves.js")
"""What draws the curves of ``charts.html.j2``, in the order in which they build on each other."""


def render_page(template: str, *, styles: Sequence[str], scripts: Sequence[str], **values: Any) -> str:
    """Return a template of ``static/`` as a document.

    Args:
        template: the file's name, one that extends ``page.html.j2``; it has ``number``, ``plural`` and ``printable``
            as filters.
        styles: names of files that go into it.
        scripts: likewise; the template allows them by ``script_hashes``.
        values: what the template says.
    """
    return _template(template).render(
        styles=Markup("\n".join(_static(name) for name in styles)),
        scripts=[Markup(_static(name)) for name in scripts],
        script_hashes=[_hash(_static(name)) for name in scripts],
        **values,
    )


def render_part(template: str, **values: Any) -> str:
    """Return a template of ``static/`` as a part of somebody else's page, escaped as a page of its own is."""
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
    environment.filters |= {"number": number, "plural": plural, "printable": printable}
    return environment.get_template(name)


def _without_controls(value: object) -> object:
    """Text as ``printable`` shows it, wherever a template says it: none turns what follows it around."""
    return printable(value) if type(value) is str else value  # Markup is the page's own


@cache
def _static(name: str) -> str:
    return files("scaler.report.page").joinpath("static", name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """How a content security policy names a script that may run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
