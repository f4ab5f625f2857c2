"""A table of numbers in sections: names on the left are wrapped, numbers are not."""

from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

GAP = "  "
INDENT = 2  # of a name below its title; its further lines have twice this indent
LEAST_NAME = 16  # columns of the names at least


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A name and the numbers beside it."""

    cells: tuple[str, ...]
    last_style: str = ""  # of the last cell


@dataclass(frozen=True, kw_only=True, slots=True)
class NumberTable:
    """Rows in sections with titles; the numbers of all sections share their columns.

    The title of a single section stands above the names of the columns, those of several sections below them.

    If the terminal is too narrow for the numbers, lines are cut off.
    """

    head: tuple[str, ...]
    sections: tuple[tuple[str, tuple[Row, ...]], ...]
    is_last_left: bool = False  # whether the last column is text, on the left

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lay out the table in the width of the terminal."""
        rows = [row.cells for _, mine in self.sections for row in mine]
        names = [self.head[0], *(" " * INDENT + row[0] for row in rows)]
        widths = self._widths()
        available = options.max_width - sum(widths) - len(GAP) * len(widths)
        name_width = max(LEAST_NAME, min(available, max(map(cell_len, names))))
        head = self._line(
            set_cell_size(self.head[0], name_width), self.head[1:], widths, style="bold", last_style="bold"
        )
        is_single = len(self.sections) == 1
        if not is_single:
            yield head
        for title, mine in self.sections:
            yield Text(title, style="bold")
            if is_single:
                yield head
            for row in mine:
                first, *rest = _wrapped(row.cells[0], name_width, console)
                yield self._line(set_cell_size(first, name_width), row.cells[1:], widths, last_style=row.last_style)
                yield from map(Text, rest)

    @property
    def least_width(self) -> int:
        """The columns of a terminal that the table needs at least."""
        widths = self._widths()
        return LEAST_NAME + sum(widths) + len(GAP) * len(widths)

    def _widths(self) -> list[int]:
        """Return the widths of the columns after the first."""
        rows = (row.cells[1:] for _, mine in self.sections for row in mine)
        return [max(map(cell_len, column)) for column in zip(self.head[1:], *rows, strict=True)]

    def _line(
        self, name: str, cells: tuple[str, ...], widths: list[int], *, style: str = "", last_style: str = ""
    ) -> Text:
        aligned = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
        if self.is_last_left:
            aligned[-1] = cells[-1].ljust(widths[-1])
        *first, last = (f"{GAP}{cell}" for cell in aligned)
        parts = [(name, style), *((cell, style) for cell in first), (last, last_style)]
        return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


def _wrapped(name: str, width: int, console: Console) -> list[str]:
    if INDENT + cell_len(name) <= width:
        return [" " * INDENT + name]
    first, *rest = Text(name).wrap(console, width - 2 * INDENT)
    return [" " * INDENT + first.plain, *(" " * 2 * INDENT + line.plain for line in rest)]
