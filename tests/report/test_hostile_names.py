"""Names that somebody chose to do harm: in a terminal, in Markdown and on a page they are text."""

import re
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from markdown_it import MarkdownIt
from pages import Page
from rich.console import Console
from synthetic import SYNTHETIC_JOB, SyntheticRun

from scaler.job import Job
from scaler.plan import make_plan
from scaler.report.run.html import render_html
from scaler.report.run.markdown import render_markdown
from scaler.report.run.model import Report
from scaler.report.run.text import report_text

NAMES = [
    "two words",
    'it\'s "quoted"',
    "line\nbreak",
    "a\r\nb",
    "tab\there",
    "../../etc/passwd",
    "<script>alert(1)</script>",
    "'\"><img src=x onerror=alert(1)>",
    "</script><!--",
    "a|b|c",
    "`code` **bold** _it_ ~~no~~",
    "# heading",
    "[link](javascript:alert(1))",
    "![x](http://a.b/c.png)",
    "[red]markup[/red]",
    "{{ 7 * 7 }}{% raw %}",
    "\x1b[31mred\x1b[0m",
    "\x1b]8;;http://a.b\x07link\x1b]8;;\x07",
    "\x9b31m",
    "bell\x07 back\x08space",
    "right\u202eto\u202cleft",
    "iso\u2066late\u2069d",
    "zero\u200bwidth",
    "line\u2028separator",
    "nul\0byte",
    "\ud800",
    "=1+2",
    "x" * 300,
]
MOVES = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff]")


@pytest.fixture(params=NAMES, ids=ascii)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def report(digits: Callable[..., Job], name: str) -> Report:
    """A failed run with the name wherever a name can stand: metric, parameter, group, node, run, failure, decision."""
    job = digits(*SYNTHETIC_JOB, "groups=[{match: '*', lr_ratio: 10}]")
    run = SyntheticRun(job=job, plan=make_plan(job, parameters={name: 64, "other": 8}), state="failed", failure=name)
    run = run.attempt(0).evaluated(200, **{name: 0.5, "loss": 1.0})
    run = run.event("lr_lowered", 164, by="plateau", factor=0.5, reason=name)
    events = (replace(event, node=name) if event.kind == "worker_started" else event for event in run.events)
    run = replace(run, events=tuple(events))
    plan: dict[str, Any] = {**run.plan.to_dict(), "name": name}
    plan["groups"] = [{**group, "name": name} for group in plan["groups"]]
    return replace(run.report(), run_id=name, plan=plan)


def test_a_terminal_is_not_moved(report: Report, name: str) -> None:
    stream = StringIO()
    console = Console(file=stream, force_terminal=True, color_system=None, highlight=False, markup=False, width=400)
    console.print(report_text(report))
    printed = stream.getvalue()
    assert not MOVES.search(printed)
    printed.encode()  # there is no half of a character in it
    if name.isprintable():
        assert name in printed


def test_a_page_gets_no_element_from_a_name(report: Report, name: str) -> None:
    source = render_html(report)
    source.encode()
    page = Page(source)
    assert not page.all("img")
    assert not [attributes for _, attributes in page.elements if any(key.startswith("on") for key in attributes)]
    assert not [link for link in page.all("a") if not (link.get("href") or "").startswith("#")]
    others = Page(render_html(replace(report, failure="x", run_id="x")))
    assert len(page.all("script")) == len(others.all("script"))
    assert page.data["charts"]
    assert "49" not in page.text.replace("149", "") or "{{" not in name or "{{ 7 * 7 }}" in page.text
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\u202a-\u202e\u2066-\u2069]", page.text)


def test_markdown_shows_a_name_as_text(report: Report, name: str) -> None:
    text = render_markdown(report)
    text.encode()
    assert not MOVES.search(text)
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(text)
    assert not {token.type for token in tokens} & {"html_block", "hr", "blockquote_open"}
    inline = {child.type for token in tokens for child in token.children or []}
    assert inline <= {"text", "text_special", "strong_open", "strong_close", "code_inline"}
    spans = [child.content for token in tokens for child in token.children or [] if child.type == "code_inline"]
    assert set("".join(spans)) <= set("▁▂▃▄▅▆▇█·"), "code spans hold curves alone"
    assert len([token for token in tokens if token.type == "heading_open"]) == 1
    for row in text.splitlines():
        if row.startswith("| "):
            assert len(re.findall(r"(?<!\\)\|", row)) in (3, 7, 8, 9, 10)
