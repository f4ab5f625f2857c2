"""Parts of Markdown: tables, code fences, and escaped text."""

import re
from collections.abc import Sequence

from scaler.report.text.format import printable


def as_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; the cells are Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def as_code(text: str) -> str:
    """Return text in a code fence longer than any fence in the text.

    An indented block would become a part of a list above it.
    """
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}"


def as_text(value: object) -> str:
    """Return text with its markup escaped, also for a cell of a table."""
    shown = printable(str(value)).replace("\n", " ").replace("\t", " ").replace("\\", "\\\\")
    shown = shown.replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{char}" if char in "|*_`[]#~" else char for char in shown)
