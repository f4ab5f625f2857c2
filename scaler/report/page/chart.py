"""A chart of a page: what it draws, and what it says in words. ``chart.js`` draws it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scaler.report.text.format import number, plural

Values = Sequence[float | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One curve of a chart, one edge of a band, or one layer of a stack."""

    label: str
    clock: str  # the name of the places that its values stand at
    style: str  # one of those that drawing.js knows
    values: Values


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """Curves over the run that share one axis, and what they say in words."""

    id: str
    title: str
    unit: str
    lines: tuple[Line, ...]
    sentences: tuple[str, ...]
    band: str = ""  # what lies between its edges
    is_wide: bool = False
    is_stacked: bool = False  # each line stands on the one before it
    untimed: str = ""  # what is not drawn over time
    is_logarithmic: bool = False  # whether a log scale may be asked for: every value is above 0
    quantity: Literal["number", "seconds"] = "number"


def are_positive(lines: Sequence[Line]) -> bool:
    """Return whether lines have values, and all are above 0: then a log scale may be asked for."""
    values = [value for line in lines for value in line.values if value is not None]
    return bool(values) and min(values) > 0


def drawn(
    charts: Sequence[Chart],
    *,
    clocks: Mapping[str, Sequence[int]],
    times: Mapping[str, Values],
    markers: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return what the script draws. ``times`` is left out where no place has one.

    Args:
        charts: of the page.
        clocks: the places that values stand at, in samples, by the names that lines give.
        times: when each of them was, in seconds.
        markers: what is marked on every chart.
    """
    data = {
        "clocks": clocks,
        "markers": markers,
        "charts": [
            {
                "id": chart.id,
                "stacked": chart.is_stacked,
                "quantity": chart.quantity,
                "lines": [
                    {"label": line.label, "clock": line.clock, "style": line.style, "values": line.values}
                    for line in chart.lines
                ],
            }
            for chart in charts
        ],
    }
    if any(at is not None for places in times.values() for at in places):
        data["times"] = times
    return data


def untimed_words(times: Sequence[float | None]) -> str:
    """Return what a chart over time says of places whose times are not known; nothing where all of them are.

    Args:
        times: those of the places of the chart's lines.

    Example:
        >>> [untimed_words(times) for times in ((1.0, 2.0), (None, 2.0), (None, None))]
        ['', 'Over time 1 of 2 places is left out: when it was is not known.', 'Over samples: no time is known.']
    """
    unknown = sum(at is None for at in times)
    if not unknown:
        return ""
    if unknown == len(times):
        return "Over samples: no time is known."
    left_out = "is left out: when it was is not known" if unknown == 1 else "are left out: when they were is not known"
    return f"Over time {number(unknown)} of {plural(len(times), 'place')} {left_out}."
