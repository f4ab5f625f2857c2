"""Curves for a terminal: braille dots, round numbers on both axes, a pattern and a colour for each curve."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import floor, log10

from plotille import Canvas  # type: ignore[import-untyped]
from rich.console import Console, ConsoleOptions
from rich.text import Text

MOST_CURVES = 4
MOST_COLUMNS, FEWEST_COLUMNS = 100, 40
KEY_WIDTH = 5  # cells of a line's sign in the legend
BLANK = 0x2800  # braille character without dots; each bit added to it is a dot

# Colours for white and black backgrounds. Without colour the patterns differ, without Unicode the letters.
COLOURS = ("color(33)", "color(166)", "color(29)", "color(134)")
PATTERNS = ("#", "#####...", "#.", "########...#...")
LETTERS = "*o+x"

BELOW = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 10.0, 20.0, 30.0, 40.0, 50.0, 100.0, 200.0)
UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
STEPS = (1.0, 2.0, 2.5, 4.0, 5.0, 8.0, 10.0, 20.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """A line of at least two points, from left to right, with its label."""

    label: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """Round numbers from ``low`` to at least the greatest value."""

    low: float
    step: float
    intervals: int

    @property
    def high(self) -> float:
        """The last round number."""
        return self.low + self.step * self.intervals

    def texts(self) -> list[str]:
        """Return all round numbers as text, the least first, with the same number of decimals.

        Example:
            >>> Axis(low=0.0, step=0.04, intervals=4).texts(), Axis(low=0.0, step=5e-7, intervals=3).texts()
            (['0', '0.04', '0.08', '0.12', '0.16'], ['0', '0.5e-06', '1.0e-06', '1.5e-06'])
        """
        values = [self.low + self.step * index for index in range(self.intervals + 1)]
        exponent = floor(log10(self.high) + 1e-9)
        unit, suffix = (1.0, "") if -3 <= exponent < 5 else (10.0**exponent, f"e{exponent:+03d}")
        step = self.step / unit
        digits = next(digits for digits in range(20) if abs(round(step, digits) / step - 1) < 1e-6)
        return ["0" if value == 0 else f"{value / unit:.{digits}f}{suffix}" for value in values]


def axis(low: float, high: float, intervals: Sequence[int]) -> Axis:
    """Return the round numbers that enclose two values most tightly; of equal ones, those with the fewest digits.

    Args:
        low: the least value, 0 or above.
        high: the greatest, above ``low``.
        intervals: how many steps there may be.

    Example:
        >>> axis(0.0, 0.16, (3, 4, 5))
        Axis(low=0.0, step=0.04, intervals=4)
    """
    found = []
    for count in intervals:
        size = 10.0 ** floor(log10((high - low) / count))
        for step in (size * step for step in STEPS):
            start = floor(low / step + 1e-9) * step
            if start + count * step >= high * (1.0 - 1e-9):
                digits = len(f"{step:.2e}".partition("e")[0].rstrip("0"))
                found.append((round(count * step / high, 9), digits, count, step, start))
                break
    _, _, count, step, start = min(found)
    return Axis(low=start, step=step, intervals=count)


@dataclass(frozen=True, kw_only=True, slots=True)
class CurveChart:
    """Curves with common axes, for rich; as wide as the console, at most 100 columns.

    Args:
        title: above the curves.
        curves: one to ``MOST_CURVES``; several curves have a legend.
        rows: about how many lines the curves take.
        low: least number on the y axis; None: from the curves.
        below: places on the x axis with their labels, from left to right; None: round numbers from 0.
    """

    title: str
    curves: Sequence[Curve]
    rows: int = 12
    low: float | None = None
    below: Sequence[tuple[float, str]] | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """Yield the lines of the chart; none if the console is too narrow or all values are equal."""
        values = [value for curve in self.curves for _, value in curve.points]
        low = min(values) if self.low is None else self.low
        if options.max_width < FEWEST_COLUMNS or not max(values) > max(low, 1e-300):
            return
        ascii_only = options.ascii_only
        upright = axis(low, max(values), (3, 4, 5) if self.rows > 8 else (2, 3))
        texts = upright.texts()
        margin = max(map(len, texts))
        per_interval = self.rows // upright.intervals
        width = min(options.max_width, MOST_COLUMNS) - margin - 2
        end = max(at for curve in self.curves for at, _ in curve.points)
        yield Text(self.title, style="bold")
        if len(self.curves) > 1:
            yield from _legend(self.curves, width=options.max_width, ascii_only=ascii_only)
        drawn = [
            _drawn(curve, pattern, upright, end=end, width=width, height=upright.intervals * per_interval + 1)
            for curve, pattern in zip(self.curves, "####" if ascii_only else PATTERNS, strict=False)
        ]
        last = len(drawn[0]) - 1
        for index, rows in enumerate(zip(*drawn, strict=True)):
            above, rest = divmod(last - index, per_interval)
            text = texts[above] if rest == 0 else ""
            tick = ("+" if ascii_only else "┤") if rest == 0 else ("|" if ascii_only else "│")
            yield Text.assemble((f"{text:>{margin}} {tick}", "dim"), _overlaid(rows, ascii_only=ascii_only))
        below = _below(end, most=min(12, width // 8)) if self.below is None else self.below
        yield from _bottom(below, end, width, indent=margin + 1, ascii_only=ascii_only)


def _legend(curves: Sequence[Curve], *, width: int, ascii_only: bool) -> Iterator[Text]:
    """The dots and the label of every curve, as many on a line as fit."""
    line = Text()
    for index, curve in enumerate(curves):
        canvas = Canvas(KEY_WIDTH, 1, 0, 0, 2 * KEY_WIDTH, 4)
        for dot in range(2 * KEY_WIDTH):
            if PATTERNS[index][dot % len(PATTERNS[index])] == "#":
                canvas.point(dot, 2)
        key = LETTERS[index] if ascii_only else str(canvas.plot()).replace(chr(BLANK), " ")
        entry = Text.assemble((key, COLOURS[index]), f" {curve.label}")
        if line and line.cell_len + 3 + entry.cell_len > width:
            yield line
            line = Text()
        line = Text("   ").join([line, entry]) if line else entry
    yield line


def _drawn(curve: Curve, pattern: str, upright: Axis, *, end: float, width: int, height: int) -> list[list[int]]:
    """A curve as rows of braille cells, from the top; each cell is the bits of its dots.

    Every round number is on the same dot of its row.
    """
    dot = upright.step * upright.intervals / (4 * (height - 1))
    across = end / (2 * width - 1)
    canvas = Canvas(width, height, 0.0, upright.low - dot, 2 * width * across, upright.low - dot + 4 * height * dot)
    length = 0
    for (x0, y0), (x1, y1) in pairwise(curve.points):
        steps = max(map(abs, canvas.dots_between(x0, y0, x1, y1)))
        for step in range(steps):
            if pattern[length % len(pattern)] == "#":
                share = step / steps
                canvas.point(x0 + (x1 - x0) * share, y0 + (y1 - y0) * share)
            length += 1
    canvas.point(*curve.points[-1])
    return [[ord(cell) - BLANK for cell in row] for row in str(canvas.plot(linesep="\n")).split("\n")]


def _overlaid(rows: Sequence[Sequence[int]], *, ascii_only: bool) -> Text:
    """One row of several curves: the dots of all, in the colour of the first curve with a dot."""
    text = Text()
    for cells in zip(*rows, strict=True):
        first = next((index for index, dots in enumerate(cells) if dots), None)
        if first is None:
            text.append(" ")
            continue
        together = 0
        for dots in cells:
            together |= dots
        text.append(LETTERS[first] if ascii_only else chr(BLANK + together), COLOURS[first])
    return text


def _bottom(
    below: Sequence[tuple[float, str]], end: float, width: int, *, indent: int, ascii_only: bool
) -> Iterator[Text]:
    """The x axis with its numbers; a number that would touch the one before it is left out."""
    corner, line, tick = ("+", "-", "+") if ascii_only else ("└", "─", "┬")
    row, labels = [line] * width, [" "] * (indent + 1 + width)
    free = 0
    for value, text in below:
        column = round(value / end * (2 * width - 1)) // 2
        row[column] = tick
        start = max(0, min(indent + 1 + column - len(text) // 2, len(labels) - len(text)))
        if start >= free:
            labels[start : start + len(text)] = text
            free = start + len(text) + 1
    yield Text(" " * indent + corner + "".join(row), style="dim")
    yield Text("".join(labels).rstrip(), style="dim")


def _below(end: float, *, most: int) -> list[tuple[float, str]]:
    """Round whole numbers from 0 to ``end`` with their texts, in at most ``most`` steps.

    Example:
        >>> [text for _, text in _below(15, most=9)], [text for _, text in _below(21555, most=9)]
        (['0', '3', '6', '9', '12', '15'], ['0', '3k', '6k', '9k', '12k', '15k', '18k', '21k'])
    """
    size = 10.0 ** floor(log10(max(end, 1.0) / 10.0))
    steps = [step for step in (size * step for step in BELOW) if step >= 1.0 and step * most >= end * (1 - 1e-9)]
    whole = [step for step in steps if abs(end / step - round(end / step)) < 1e-9]
    step = min(whole if whole and end / min(whole) >= 4 else steps[:1], key=lambda step: abs(end / step - 6))
    unit, suffix = next((unit, suffix) for unit, suffix in UNITS if step >= unit)
    values = [step * index for index in range(floor(end / step * (1 + 1e-9)) + 1)]
    return [(value, "0" if value == 0 else f"{value / unit:,.0f}{suffix}") for value in values]
