"""The charts of a page: their lines, axes and marks, and sentences with the same content. ``chart.js`` draws them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from scaler.report.text.format import amount, number, plural

Values = Sequence[float | None]
Quantity = Literal["number", "samples", "tokens", "seconds"]
SERIES = 6
"""How many series styles, ``series-0`` to ``series-5``, the style sheet has; they differ in colour and dash."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line of a chart, one edge of a band, or one layer of a stack.

    Attributes:
        label: in the legend.
        clock: name of the sequence of places that the values belong to.
        style: ``series-N``, or one of the styles in ``drawing.js``.
        values: one for each place; None: not known.
        low: lower ends of the intervals of the values; empty: there are none.
        high: their upper ends.
        repeats: the single measurements behind each value, drawn as points; empty: there are none.
    """

    label: str
    clock: str
    style: str
    values: Values
    low: Values = ()
    high: Values = ()
    repeats: Sequence[Sequence[float]] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """An x axis that charts can be drawn over.

    Attributes:
        name: in the page's data, and in the switch between axes.
        label: below each chart.
        before: written before a place, such as ``at``.
        quantity: how a place is written.
        places: by the name of the clock; None: not known.
        logarithmic: whether the axis is logarithmic.
        is_padded: whether there is space beside the first and the last place, for points.
        ticks: places that have a tick; empty: round numbers.
    """

    name: str
    label: str
    before: str
    quantity: Quantity
    places: Mapping[str, Values]
    logarithmic: bool = False
    is_padded: bool = False
    ticks: tuple[float, ...] = ()

    @property
    def is_known(self) -> bool:
        """Whether any place on this axis is known."""
        return any(at is not None for places in self.places.values() for at in places)


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """An upright line in every chart.

    Attributes:
        at: its place, by the name of the axis; None: not known.
        label: above the line.
        style: ``series-N``, ``dashed`` or ``dotted``.
        value: written beside the label in the legend; empty: the mark is not in the legend.
        limit: whether the charts are shaded after the line.
    """

    at: Mapping[str, float | None]
    label: str
    style: str
    value: str = ""
    limit: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """Lines that share a y axis, and sentences with the same content.

    Attributes:
        id: unique on the page.
        title: above the chart.
        note: beside the title, such as a unit.
        lines: at least one.
        sentences: below the chart.
        band: legend of the area between the lines of the styles ``low`` and ``high``.
        is_wide: whether the chart takes the width of the page.
        is_stacked: whether each line is drawn on top of the lines before it.
        untimed: sentence on the points that are not drawn over time; empty: all are drawn.
        is_logarithmic: whether the y axis can be switched to a log scale; every value must be above 0.
        quantity: how values are written.
        ceiling: greatest value on the y axis until the reader asks for all values; None: no limit.
        floor: least value on the y axis until then; None: no limit.
        is_always_logarithmic: whether the y axis is always logarithmic; values that are not above 0 are not drawn.
        axis: name of the one axis that the chart is drawn over; empty: the axis that the reader chooses.
    """

    id: str
    title: str
    note: str = ""
    lines: tuple[Line, ...]
    sentences: tuple[str, ...]
    band: str = ""
    is_wide: bool = False
    is_stacked: bool = False
    untimed: str = ""
    is_logarithmic: bool = False
    quantity: Quantity = "number"
    ceiling: float | None = None
    floor: float | None = None
    is_always_logarithmic: bool = False
    axis: str = ""

    @property
    def has_repeats(self) -> bool:
        """Whether single measurements are drawn as points."""
        return any(line.repeats for line in self.lines)

    @property
    def button(self) -> str:
        """The text of the chart's button; empty: the chart has no button."""
        if self.ceiling is not None or self.floor is not None:
            return "Show all values"
        return "Log scale" if self.is_logarithmic else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChartSet:
    """All charts of a page. They share the axes and the marks.

    Attributes:
        charts: in the order of the page.
        axes: the first is shown when the page opens; a reader can switch to another axis.
        marks: in every chart.
    """

    charts: tuple[Chart, ...]
    axes: tuple[Axis, ...]
    marks: tuple[Mark, ...] = ()

    def to_data(self) -> dict[str, Any]:
        """Return what ``chart.js`` reads."""
        return {
            "axes": [asdict(axis) for axis in self.axes],
            "marks": [asdict(mark) for mark in self.marks],
            "charts": [
                {
                    "id": chart.id,
                    "stacked": chart.is_stacked,
                    "logarithmic": chart.is_logarithmic,
                    "quantity": chart.quantity,
                    "ceiling": chart.ceiling,
                    "floor": chart.floor,
                    "alwaysLogarithmic": chart.is_always_logarithmic,
                    "axis": chart.axis,
                    "lines": [asdict(line) for line in chart.lines],
                }
                for chart in self.charts
            ],
        }


def samples_axis(places: Mapping[str, Values], *, unit: str = "samples") -> Axis:
    """Return the axis of ``samples_seen``; with the unit ``tokens``, ``places`` are in tokens."""
    quantity: Quantity = "tokens" if unit == "tokens" else "samples"
    return Axis(name="samples", label=f"{unit} seen", before="at", quantity=quantity, places=places)


def time_axis(places: Mapping[str, Values], *, since: str) -> Axis:
    """Return an axis of seconds since an event, such as ``submission``."""
    return Axis(name="time", label=f"time since {since}", before="after", quantity="seconds", places=places)


def are_positive(lines: Sequence[Line]) -> bool:
    """Return whether the lines have values and all values are above 0, as a log scale needs."""
    values = [value for line in lines for value in line.values if value is not None]
    return bool(values) and min(values) > 0


def sentence(
    label: str,
    places: Sequence[int],
    values: Values,
    *,
    say: Callable[[float], str] = number,
    unit: str = "samples",
) -> str:
    """Return a line as a sentence: its first, last, least and greatest value.

    Args:
        label: of the line.
        places: of the values, in ``unit``.
        values: one for each place; None: not known.
        say: writes a value.
        unit: of the job, ``samples`` or ``tokens``.

    Example:
        >>> sentence("loss", [0, 16, 32], [2.5, None, 1.25])
        'loss: from 2.5 to 1.25; least 1.25 at 32 samples, greatest 2.5 at 0 samples.'
    """
    points = [(value, at) for at, value in zip(places, values, strict=True) if value is not None]
    if not points:
        return f"{label}: no value."
    least, greatest = min(points), max(points, key=lambda point: point[0])  # the first place of each
    return (
        f"{label}: from {say(points[0][0])} to {say(points[-1][0])}; least {say(least[0])} at "
        f"{amount(least[1], unit)}, greatest {say(greatest[0])} at {amount(greatest[1], unit)}."
    )


def untimed_text(times: Sequence[float | None]) -> str:
    """Return how many places of a chart have no known time; empty if all times are known.

    Args:
        times: of the places of the chart's lines.

    Example:
        >>> [untimed_text(times) for times in ((1.0, 2.0), (None, 2.0), (None, None))]
        ['', '1 of 2 points is not drawn over time: its time is not known.', 'Drawn over samples: no time is known.']
    """
    unknown = sum(at is None for at in times)
    if not unknown:
        return ""
    if unknown == len(times):
        return "Drawn over samples: no time is known."
    rest = "is not drawn over time: its time is" if unknown == 1 else "are not drawn over time: their times are"
    return f"{number(unknown)} of {plural(len(times), 'point')} {rest} not known."
