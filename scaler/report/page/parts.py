"""The parts of a page beside its charts: result tiles and tables. ``kit.html.j2`` draws them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["", "explained", "listed", "scrolled"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """One result in large type.

    Attributes:
        name: above the value.
        value: empty: not known.
        note: below the value.
        unknown: why the value is not known.
    """

    name: str
    value: str
    note: str = ""
    unknown: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        title: in the table's head.
        is_text: whether the cells are text, on the left; numbers are on the right.
        sort: how a reader can sort by the column; None: not at all.
        is_named: whether a narrow page repeats the title before each cell.
    """

    title: str
    is_text: bool = False
    sort: Literal["number", "text"] | None = None
    is_named: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A cell of a table. A plain string is a cell too.

    Attributes:
        text: its content.
        note: below the text, in small type.
        value: what the column is sorted by; None: the text.
        style: ``strong``, ``quiet``, ``bad`` or ``code``.
        unknown: why the content is not known; empty: it is known.
        span: how many columns the cell takes.
        is_text: whether the cell is text in a column of numbers.
        sign: style of the mark whose sign is before the text.
    """

    text: str
    note: str = ""
    value: float | str | None = None
    style: str = ""
    unknown: str = ""
    span: int = 1
    is_text: bool = False
    sign: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Heading:
    """A row that is the heading of the rows below it."""

    title: str


Row = Sequence[Cell | str] | Heading


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table with a caption. The first cell of a row is its heading.

    Attributes:
        id: unique on the page.
        caption: above the table.
        columns: at least one.
        rows: cells, or a heading of the rows below it.
        kind: ``explained``: name, value and reason, as wide as the page; ``listed``: a narrow page puts the last cell
            below the others; ``scrolled``: a tall table that scrolls; empty: as wide as its content.
    """

    id: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    kind: Kind = ""

    @property
    def is_sortable(self) -> bool:
        """Whether a reader can sort the table by a column."""
        return any(column.sort is not None for column in self.columns)


def explained(id: str, caption: str, rows: Sequence[tuple[str, str, Cell | str]]) -> Table:
    """Return a table of names, values and reasons.

    Args:
        id: unique on the page.
        caption: above the table.
        rows: name, value and reason.
    """
    return Table(
        id=id,
        caption=caption,
        columns=(
            Column(title="number", is_text=True),
            Column(title="value", is_text=True),
            Column(title="reason", is_text=True),
        ),
        rows=tuple((Cell(text=name, style="code"), value, reason) for name, value, reason in rows),
        kind="explained",
    )


def as_cell(cell: Cell | str) -> Cell:
    """Return a cell; a string becomes a cell with that text."""
    return Cell(text=cell) if isinstance(cell, str) else cell
