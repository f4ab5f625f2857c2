from collections.abc import Callable
from dataclasses import replace

import pytest
from markdown_it import MarkdownIt
from synthetic import SyntheticRun

from scaler.report.run.markdown import render_markdown

HOSTILE = "a|b*c*_d_`e`[f](g)<img src=x>&amp;#~~h~~\\|\x1b[31m\nnew"


def test_the_report_of_a_run_with_faults(synthetic_run: SyntheticRun, golden: Callable[[str, str], None]) -> None:
    run = synthetic_run.attempt(0, stop=96).died(1).later(3.2).attempt(1, start=64)
    run = run.evaluated(200, loss=0.6931, accuracy=0.96111)
    golden("report-faults.md", render_markdown(run.report()))


def test_the_report_of_a_run_to_which_everything_happened(
    eventful: SyntheticRun, golden: Callable[[str, str], None]
) -> None:
    golden("report-eventful.md", render_markdown(eventful.report()))


def test_the_report_of_a_run_with_many_attempts(
    many_attempts: SyntheticRun, golden: Callable[[str, str], None]
) -> None:
    golden("report-many-attempts.md", render_markdown(many_attempts.report()))


def test_a_sound_run_says_so(synthetic_run: SyntheticRun) -> None:
    text = render_markdown(synthetic_run.attempt(0).report())
    assert text.startswith("# digits-20260101-120000-7f3a: succeeded\n\nNothing to report: ")


def parsed_tables(text: str) -> list[list[list[str]]]:
    """Tables, rows and cells as GitHub would show them, as plain text."""
    found: list[list[list[str]]] = []
    for token in MarkdownIt("gfm-like", {"linkify": False}).parse(text):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and found and token.level >= 4:
            children = token.children or []
            if [child.type for child in children] == ["code_inline"]:
                assert set(children[0].content) <= set("▁▂▃▄▅▆▇█·"), "a curve holds nothing else"
            else:
                assert {child.type for child in children} <= {"text", "text_special"}, "text became markup"
            found[-1][-1].append("".join(child.content for child in children))
    return found


@pytest.mark.parametrize(
    "name", [HOSTILE, "x |", "\\", "`", "**bold**", "<script>alert(1)</script>", "http://a.b/c_d_e"]
)
def test_a_metrics_name_is_text_in_a_table_whatever_it_holds(synthetic_run: SyntheticRun, name: str) -> None:
    text = render_markdown(synthetic_run.attempt(0).evaluated(200, **{name: 0.5}).report())
    facts, curves, workers = parsed_tables(text)
    assert {len(row) for row in curves} == {6}
    shown = name.replace("\x1b", "\\x1b").replace("\n", " ")
    assert [f"eval {shown}".rstrip(), "0.5"] in [[cell.rstrip() for cell in row] for row in facts]
    assert {len(row) for row in facts} == {2}
    assert {len(row) for row in workers} == {9}
    assert "\x1b" not in text


@pytest.mark.parametrize("where", [HOSTILE, "x |", "\\", "`", "**bold**", "<script>alert(1)</script>", "\n# x\n- y"])
def test_a_cause_is_text_in_a_table_whatever_it_holds(synthetic_run: SyntheticRun, where: str) -> None:
    run = synthetic_run.attempt(0, stop=96).hung(1, where=where).event("checkpoint_failed", 96, reason=where)
    text = render_markdown(run.attempt(1, start=64).report())
    attempts = parsed_tables(text)[3]
    shown = " ".join(where.split()).replace("\x1b", "\\x1b")
    assert [row[7].rstrip() for row in attempts] == ["why", f"rank 1 hung for 600 s: computing, {shown}", ""]
    assert {len(row) for row in attempts} == {10}
    assert "\x1b" not in text
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(text)
    assert [token.tag for token in tokens if token.type == "heading_open"] == ["h1"]
    assert sum(token.type == "list_item_open" for token in tokens) == 2, "a verdict each"


@pytest.mark.parametrize(
    "failure",
    [
        "rank 0 failed: ValueError: **not bold** <b>not html</b>\n  Traceback:\n    x = `y`",
        "four ```` fences\n```\nand more",
        "~~~\n\n# no heading",
    ],
)
def test_an_error_is_shown_as_it_is(synthetic_run: SyntheticRun, failure: str) -> None:
    report = replace(synthetic_run.attempt(0, stop=48), state="failed", failure=failure).report()
    assert report.verdicts, "the error stands below a list"
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(render_markdown(report))
    (code,) = (token for token in tokens if token.type in ("fence", "code_block"))
    assert code.content.rstrip("\n") == failure
    assert code.level == 0
