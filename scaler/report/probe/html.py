"""Render a probe as one HTML file: the largest batch over the training, and the losses of the batches.

This module computes no number.
"""

from scaler.report.page.chart import SERIES, Axis, Chart, ChartSet, Line, samples_axis
from scaler.report.page.parts import Cell, Column, Table, Tile
from scaler.report.page.shell import render_page
from scaler.report.probe.model import CAUTION, ProbeReport, answer, cost_text, headline, largest_text, paste
from scaler.report.probe.text import HEAD, TRIED, place_row, tried_rows
from scaler.report.text.format import number, percent


def render_probe_html(report: ProbeReport) -> str:
    """Return a probe as one HTML document, readable offline, on paper and without its scripts."""
    return render_page(
        "probe.html.j2",
        kind="probe",
        subject="How far the batch of a training can grow",
        title=report.name,
        headline=headline(report),
        charts=_charts(report),
        report=report,
        answer=answer(report),
        tiles=_tiles(report),
        places=_places(report),
        tried=_tried(report),
        lines=paste(report),
        caution=CAUTION,
        cost=cost_text(report.cost),
    )


def _tiles(report: ProbeReport) -> list[Tile]:
    least, cost = report.constant, report.cost
    late = report.places[-1]
    at_least = "at least " if least.fails is None else ""
    return [
        Tile(
            name="largest constant batch",
            value=f"{at_least}{number(least.global_batch_size)}",
            note=f"{least.holds} x {number(report.global_batch_size)}",
        ),
        Tile(name=f"largest batch at {percent(late.share)}", value=largest_text(late), note=f"{late.holds} x"),
        Tile(
            name="cost of the probe",
            value=f"{number(cost.samples_share, 3)} runs",
            note="in samples",
        ),
    ]


def _places(report: ProbeReport) -> Table:
    return Table(
        id="places",
        caption=f"By the {report.loss} after the same samples.",
        columns=tuple(Column(title=title, is_named=place > 0) for place, title in enumerate(HEAD)),
        rows=tuple(place_row(place) for place in report.places),
        kind="listed",
    )


def _tried(report: ProbeReport) -> list[Table]:
    return [
        Table(
            id=f"tried-{index}",
            caption=f"At {percent(place.share)} of the training; * the largest that holds. Tolerance "
            f"{number(place.tolerance, 3)}.",
            columns=tuple(Column(title=title, is_named=column > 0) for column, title in enumerate(TRIED)),
            rows=tuple(
                tuple(Cell(text=text, style="strong" if cells[0].endswith("*") else "") for text in cells)
                for cells in tried_rows(place)
            ),
            kind="listed",
        )
        for index, place in enumerate(report.places)
    ]


def _charts(report: ProbeReport) -> ChartSet:
    """The largest batch, the first that fails and the noise scale, over the training."""
    places = report.places
    lines = [
        Line(
            label="largest that holds",
            clock="places",
            style="series-0",
            values=tuple(float(place.global_batch_size) for place in places),
        ),
        Line(
            label="first that fails",
            clock="places",
            style="series-1",
            values=tuple(None if place.fails_batch is None else float(place.fails_batch) for place in places),
        ),
        Line(label="noise scale", clock="places", style="dashed", values=tuple(place.noise_scale for place in places)),
    ]
    kept = tuple(line for line in lines if any(value is not None for value in line.values))[:SERIES]
    chart = Chart(
        id="largest",
        title="Largest batch",
        note="samples",
        lines=kept,
        sentences=tuple(
            f"{line.label}: "
            + ", ".join(
                f"{number(value, 3)} at {percent(place.share)}"
                for value, place in zip(line.values, places, strict=True)
                if value is not None
            )
            + "."
            for line in kept
        ),
        is_wide=True,
        is_logarithmic=all(value is None or value > 0 for line in kept for value in line.values),
    )
    axis: Axis = samples_axis({"places": tuple(float(place.samples_seen) for place in places)})
    return ChartSet(charts=(chart,) if len(places) > 1 else (), axes=(axis,))
