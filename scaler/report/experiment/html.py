"""Render an experiment as one HTML file: the answer, a picture, and the tables.

This module computes no number.
"""

import math
from dataclasses import dataclass

from scaler.report.experiment.charts import experiment_charts
from scaler.report.experiment.format import level_text
from scaler.report.experiment.model import CriticalBatchResult, ExperimentReport
from scaler.report.experiment.sheet import Sheet
from scaler.report.experiment.tables import sheets
from scaler.report.experiment.text import STILL_OPEN, command_text, critical_text, environment_text, next_text
from scaler.report.experiment.trial_page import trial_charts, trial_tiles
from scaler.report.experiment.workloads import public_workloads
from scaler.report.page.parts import Cell, Column, Table, Tile
from scaler.report.page.shell import render_page
from scaler.report.text.format import number, seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class StripRow:
    """A critical batch size on a logarithmic strip; places are in percent of its width."""

    name: str
    note: str
    text: str
    left: float
    low: float
    high: float
    is_own: bool


def render_experiment_html(report: ExperimentReport) -> str:
    """Return an experiment as one HTML document, readable offline, on paper and without its scripts."""
    search = report.search
    charts, sections = experiment_charts(report) if search is None else trial_charts(search, report.metric or "")
    rows, ticks = _strip(report.critical_batch if report.unit == "samples" else None)
    return render_page(
        "experiment.html.j2",
        kind="experiment",
        subject="Experiment",
        title=report.experiment_id,
        headline=report.answer,
        charts=charts,
        sections=sections,
        axes={axis.name: axis for axis in charts.axes},
        report=report,
        tiles=_tiles(report),
        tables=[(sheet, _table(sheet)) for sheet in sheets(report)],
        critical=critical_text(report.critical_batch, report.unit) if report.critical_batch is not None else "",
        strip=rows,
        ticks=ticks,
        next=next_text(report.next) if report.next is not None else "",
        still_open=STILL_OPEN,
        command=command_text(report.recommendation) if report.recommendation is not None else "",
        environment=environment_text(report),
    )


def _tiles(report: ExperimentReport) -> list[Tile]:
    if report.search is not None:
        return trial_tiles(report.search, report.metric or "")
    done = sum(cell.state == "succeeded" for cell in report.cells)
    tiles = [Tile(name="cells", value=f"{done} of {len(report.cells)}", note="have run to their end")]
    chosen = report.recommendation
    best = next((group for group in report.groups if chosen is not None and group.label == chosen.label), None)
    if best is not None:
        tiles.insert(0, Tile(name="recommended batch", value=number(best.global_batch_size), note=best.label))
        if best.time_to_target_s is not None:
            target = f"{report.metric} {number(report.target)}"
            tiles.append(
                Tile(name=f"to {target}", value=seconds(best.time_to_target_s.value), note="median over seeds")
            )
    critical = report.critical_batch
    if critical is not None:
        interval = f", {level_text(report.level)} interval {number(critical.low, 3)} to {number(critical.high, 3)}"
        tiles.append(
            Tile(
                name="critical batch",
                value=number(critical.value, 3) if critical.value is not None else "",
                note=f"{report.unit}{interval if critical.value is not None else ''}",
                unknown=critical.refusal or "",
            )
        )
    return tiles


def _table(sheet: Sheet) -> Table:
    last = len(sheet.head) - 1
    columns = tuple(
        Column(title=name, is_text=place == 0 or (sheet.is_last_text and place == last), is_named=place > 0)
        for place, name in enumerate(sheet.head)
    )
    rows = tuple(tuple(Cell(text=text) for text in row) for row in sheet.rows)
    return Table(id=sheet.id, caption=sheet.note or sheet.title, columns=columns, rows=rows)


def _strip(critical: CriticalBatchResult | None) -> tuple[list[StripRow], list[tuple[str, float]]]:
    """Return the critical batch size among those of public workloads, and the ticks of the strip; none without it."""
    if critical is None or critical.value is None:
        return [], []
    own = ("this experiment", "", critical.value, critical.low or critical.value, critical.high or critical.value)
    found = [own, *((each.name, each.optimizer, each.value, each.low, each.high) for each in public_workloads())]
    first = math.floor(math.log10(min(row[3] for row in found)))
    last = math.ceil(math.log10(max(row[4] for row in found)))

    def percent(value: float) -> float:
        return round(100 * (math.log10(value) - first) / (last - first), 2)

    rows = [
        StripRow(
            name=name,
            note=note,
            text=f"{number(value, 3)} ({number(low, 3)} to {number(high, 3)})",
            left=percent(value),
            low=percent(low),
            high=percent(high),
            is_own=not note,
        )
        for name, note, value, low, high in sorted(found, key=lambda row: row[2])
    ]
    return rows, [(number(10**power), percent(10**power)) for power in range(first, last + 1)]
