"""What Markdown is made of: tables, fences, and text from outside that stays as it is."""

import re
from collections.abc import Sequence

from scaler.report.text.format import printable


def as_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of cells that are Markdown already."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def as_code(text: str) -> str:
    """Return text in a fence that is longer than any in it; an indented block would belong to the list above it."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}"


def as_text(value: object) -> str:
    """Return text that Markdown leaves as it is, in a table too."""
    shown = printable(str(value)).replace("\n", " ").replace("\t", " ").replace("\\", "\\\\")
    shown = shown.replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{char}" if char in "|*_`[]#~" else char for char in shown)
