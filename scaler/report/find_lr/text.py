"""Render a range test for a terminal of 80 columns: the curve, the suggestions and lines for the job file."""

from collections.abc import Sequence
from itertools import pairwise
from math import ceil, floor, log10

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from scaler.report.find_lr.summary import CAUTION, NAMES, FoundLrs, carried, headline, lr_text, meaning, paste
from scaler.report.text.curves import Curve, CurveChart
from scaler.report.text.format import option, printable

FEWEST_DECADES = 2.5  # a longer axis has one number in each decade, a shorter axis three
WIDTH = 80


def range_text(found: FoundLrs) -> RenderableType:
    """Return a range test for a terminal."""
    title = Text.assemble("Range test of ", (printable(found.name), "bold"), f": {headline(found)}")
    parts: list[RenderableType] = [title]
    if len(found.smoothed) > 1:
        parts.append(_chart(found))
    parts += [_table(found), _narrow(Text(carried(found), style="dim"))]
    parts += [_narrow(Text(hint, style="yellow")) for hint in found.hints]
    lines = paste(found)
    if lines is not None:
        parts += [Text(lines, style="bold"), _narrow(Text(CAUTION, style="dim"))]
    return Group(*(Padding(part, (0, 0, 1, 0)) for part in parts))


def _narrow(text: Text) -> RenderableType:
    """Prose in lines of at most ``WIDTH`` columns."""
    table = Table.grid()
    table.add_column(max_width=WIDTH)
    table.add_row(text)
    return table


def _table(found: FoundLrs) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("suggestion", no_wrap=True)
    table.add_column(f"at batch {found.global_batch_size:,}", justify="right", no_wrap=True)
    table.add_column("reference.lr", justify="right", no_wrap=True)
    table.add_column()
    for key, name in NAMES.items():
        here, there = found.suggestions[key], found.reference_suggestions[key]
        style = "bold" if key == found.chosen else None
        cells = [Text(text, style=style or "") for text in (name, lr_text(here), lr_text(there))]
        table.add_row(*cells, Text(meaning(found, key), style="dim"))
    return table


def _chart(found: FoundLrs) -> CurveChart:
    """The smoothed loss over the logarithm of the learning rate, and an upright line for each suggestion."""
    lowest = found.lrs[0]
    curve = [(log10(lr / lowest), loss) for lr, loss in zip(found.lrs, found.smoothed, strict=False)]
    points = cut(curve, ceiling=found.ceiling)
    least, end = min(loss for _, loss in points), points[-1][0]
    curves = [Curve(label="smoothed loss", points=points)]
    for key, name in NAMES.items():
        here = found.suggestions[key]
        at = log10(here / lowest) if here is not None else -1.0
        if 0.0 <= at <= end:
            curves.append(Curve(label=name, points=[(at, least), (at, found.ceiling)]))
    return CurveChart(title="Loss, over the learning rate", curves=curves, below=_decades(lowest, end))


def cut(points: Sequence[tuple[float, float]], *, ceiling: float) -> list[tuple[float, float]]:
    """Return the part of a curve before it first reaches ``ceiling``; the last point is on the ceiling.

    Example:
        >>> cut([(0.0, 2.0), (1.0, 1.0), (2.0, 5.0), (3.0, 1.0)], ceiling=3.0)
        [(0.0, 2.0), (1.0, 1.0), (1.5, 3.0)]
    """
    for index, ((x0, y0), (x1, y1)) in enumerate(pairwise(points), start=1):
        if y1 > ceiling:
            return [*points[:index], (x0 + (x1 - x0) * (ceiling - y0) / (y1 - y0), ceiling)]
    return list(points)


def _decades(lowest: float, length: float) -> list[tuple[float, str]]:
    """Round learning rates, and their places in decades above ``lowest``."""
    heads = (1.0,) if length >= FEWEST_DECADES else (1.0, 2.0, 5.0)
    powers = range(floor(log10(lowest)), ceil(log10(lowest) + length) + 1)
    lrs = [head * 10.0**power for power in powers for head in heads]
    places = ((log10(lr / lowest), option(lr)) for lr in lrs)
    return [(max(at, 0.0), text) for at, text in places if -1e-9 <= at <= length]
