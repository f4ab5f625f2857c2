"""A table of numbers below titles: names on the left are wrapped, and numbers never."""

from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

GAP = "  "
INDENT = 2  # of a name below its title; where it goes on in another line, twice that
LEAST_NAME = 16  # columns that a name gets, however wide the numbers are


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A name, and what stands beside it."""

    cells: tuple[str, ...]
    last_style: str = ""  # of the last cell


@dataclass(frozen=True, kw_only=True, slots=True)
class NumberTable:
    """Rows below titles, which are as long as they are; the numbers of all of them stand below each other.

    A terminal that is too narrow for the numbers cuts lines off.
    """

    head: tuple[str, ...]
    sections: tuple[tuple[str, tuple[Row, ...]], ...]
    is_last_left: bool = False  # whether the last column is of words

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lay the table out in the width that there is."""
        rows = [row.cells for _, mine in self.sections for row in mine]
        names = [self.head[0], *(" " * INDENT + row[0] for row in rows)]
        widths = [max(map(cell_len, column)) for column in zip(self.head[1:], *(row[1:] for row in rows), strict=True)]
        room = options.max_width - sum(widths) - len(GAP) * len(widths)
        name_width = max(LEAST_NAME, min(room, max(map(cell_len, names))))
        yield self._line(
            set_cell_size(self.head[0], name_width), self.head[1:], widths, style="bold", last_style="bold"
        )
        for title, mine in self.sections:
            yield Text(title, style="bold")
            for row in mine:
                first, *rest = _wrapped(row.cells[0], name_width, console)
                yield self._line(set_cell_size(first, name_width), row.cells[1:], widths, last_style=row.last_style)
                yield from map(Text, rest)

    def _line(
        self, name: str, cells: tuple[str, ...], widths: list[int], *, style: str = "", last_style: str = ""
    ) -> Text:
        told = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
        if self.is_last_left:
            told[-1] = cells[-1].ljust(widths[-1])
        parts = [(name, style), *((f"{GAP}{cell}", style) for cell in told[:-1]), (f"{GAP}{told[-1]}", last_style)]
        return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


def _wrapped(name: str, width: int, console: Console) -> list[str]:
    if INDENT + cell_len(name) <= width:
        return [" " * INDENT + name]
    first, *rest = Text(name).wrap(console, width - 2 * INDENT)
    return [" " * INDENT + first.plain, *(" " * 2 * INDENT + line.plain for line in rest)]
