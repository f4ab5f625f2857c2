"""The page of a search: its figures at a glance, and the curves of its best trials. This module computes no number."""

from collections.abc import Mapping, Sequence

from scaler.report.experiment.trial_model import SearchResult
from scaler.report.page.chart import SERIES, Axis, Chart, ChartSet, Line
from scaler.report.page.parts import Tile
from scaler.report.text.format import number, percent


def trial_tiles(search: SearchResult, metric: str) -> list[Tile]:
    """Return the figures that open the page of a search."""
    best = next((row for row in search.trials if row.trial == search.best), None)
    ended = sum(row.ended is not None for row in search.trials)
    tiles = [
        Tile(name="trials", value=f"{ended}", note=f"of {search.asked or len(search.trials):,}; {search.scheduler}"),
        Tile(name="samples", value=percent(search.share), note="of those to the ends of all trials"),
    ]
    if best is not None:
        tiles.insert(0, Tile(name=f"best {metric}", value=number(best.last), note=best.label))
    return tiles


def trial_charts(search: SearchResult, metric: str) -> tuple[ChartSet, Mapping[str, Sequence[Chart]]]:
    """Return all charts, and the same by the section of the page.

    The chart has the metric over the samples: of the best trial, and of those that trained longest.
    """
    rows = [row for row in search.trials if len(row.curve) > 1]
    rows.sort(key=lambda row: (row.trial != search.best, -row.samples_seen, row.trial))
    shown = rows[:SERIES]
    names = {row.trial: f"{row.label} ({row.trial})" for row in shown}
    places = {names[row.trial]: [float(place) for place, _ in row.curve] for row in shown}
    lines = tuple(
        Line(
            label=names[row.trial],
            clock=names[row.trial],
            style=f"series-{position}",
            values=tuple(float(f"{value:.6g}") for _, value in row.curve),
        )
        for position, row in enumerate(shown)
    )
    sentences = tuple(f"{names[row.trial]}: {number(row.last)} after {row.curve[-1][0]:,} samples." for row in shown)
    chart = Chart(
        id="metric",
        title=metric,
        note="the best trial, and those that trained longest",
        lines=lines,
        sentences=sentences,
        is_logarithmic=False,
        is_wide=True,
        axis="samples",
    )
    axis = Axis(
        name="samples",
        label="samples seen",
        before="after",
        quantity="number",
        places=places,
        logarithmic=False,
    )
    charts = (chart,) if lines else ()
    return ChartSet(charts=charts, axes=(axis,)), {"trials": charts}
