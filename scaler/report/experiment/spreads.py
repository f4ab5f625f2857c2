"""Lines of charts whose values have repeats and intervals, and the axes that they are drawn over."""

from collections.abc import Callable, Mapping, Sequence

from scaler.core.intervals import Estimate
from scaler.report.experiment.format import estimate_text
from scaler.report.experiment.model import GroupResult
from scaler.report.page.chart import Axis, Line
from scaler.report.text.format import number

CURVE = "curve"  # name of the places of a fitted curve, which have no ticks
MOST_TICKS = 7
Series = Mapping[str, Sequence[GroupResult]]
Place = Callable[[GroupResult], float | None]


class ChartAxis:
    """An axis while charts are added to it."""

    def __init__(self, name: str, title: str, before: str, *, logarithmic: bool) -> None:
        self.name, self._title, self._before, self._logarithmic = name, title, before, logarithmic
        self.places: dict[str, list[float]] = {}

    def clock(self, name: str, places: Sequence[float]) -> str:
        """Return the name of a sequence of places on this axis."""
        name = f"{self.name} {name}"
        self.places[name] = list(places)
        return name

    def _ticks(self) -> tuple[float, ...]:
        """Return the measured places, if there are few."""
        places = {place for name, each in self.places.items() if name != f"{self.name} {CURVE}" for place in each}
        return tuple(sorted(places)) if len(places) <= MOST_TICKS else ()

    def made(self) -> Axis:
        """Return the axis."""
        return Axis(
            name=self.name,
            label=self._title,
            before=self._before,
            quantity="number",
            places=self.places,
            logarithmic=self._logarithmic,
            is_padded=True,
            ticks=self._ticks(),
        )


def lines_of(
    series: Series,
    axis: ChartAxis,
    place: Place,
    value: Callable[[GroupResult], Estimate | None],
    repeats: Callable[[GroupResult], Sequence[float]],
) -> list[Line]:
    """Return a line for each series.

    Args:
        series: groups by the name of the line.
        axis: gets the places.
        place: of a group on the axis.
        value: of a group, with its interval.
        repeats: the measurements behind the value.
    """
    return [
        line_of(
            name,
            axis.clock(name, [float(place(group) or 0.0) for group in groups]),
            f"series-{number}",
            [value(group) for group in groups],
            [repeats(group) for group in groups],
        )
        for number, (name, groups) in enumerate(series.items())
    ]


def line_of(
    name: str,
    clock: str,
    style: str,
    estimates: Sequence[Estimate | None],
    repeats: Sequence[Sequence[float]],
) -> Line:
    """Return one line: values with their intervals and repeats; an estimate without a value is not drawn."""
    known = [each if each is not None and each.value is not None else Estimate(value=None) for each in estimates]
    return Line(
        label=name,
        clock=clock,
        style=style,
        values=tuple(_short(each.value) for each in known),
        low=tuple(_short(each.low) for each in known),
        high=tuple(_short(each.high) for each in known),
        repeats=tuple(tuple(float(f"{one:.5g}") for one in each) for each in repeats),
    )


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def has_values(lines: Sequence[Line]) -> bool:
    """Return whether any line has a value."""
    return any(value is not None for line in lines for value in line.values)


def measured(lines: Sequence[Line]) -> list[float]:
    """Return all values, ends of intervals and repeats of lines."""
    found = [
        v for line in lines for v in (*line.values, *line.low, *line.high, *(v for each in line.repeats for v in each))
    ]
    return [value for value in found if value is not None]


def sentences_of(series: Series, place: Place, value: Callable[[GroupResult], Estimate | None]) -> tuple[str, ...]:
    """Return each series as a sentence: its values with their intervals and places."""
    found = []
    for name, groups in series.items():
        pairs = [(value(group), place(group)) for group in groups]
        points = [
            f"{estimate_text(one)} at {number(at)}" for one, at in pairs if one is not None and one.value is not None
        ]
        found.append(f"{name}: {', '.join(points) if points else 'no value'}.")
    return tuple(found)
