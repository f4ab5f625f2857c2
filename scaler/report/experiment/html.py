"""Render an experiment as one HTML file: the answer, a picture, and the tables.

This module computes no number.
"""

from collections.abc import Callable, Sequence

from scaler.core.intervals import Estimate
from scaler.report.experiment.labels import label
from scaler.report.experiment.model import ExperimentReport, GroupResult
from scaler.report.experiment.sheet import Sheet
from scaler.report.experiment.tables import sheets
from scaler.report.experiment.text import critical_text
from scaler.report.experiment.trial_page import trial_charts, trial_tiles
from scaler.report.page.chart import SERIES, Axis, Chart, ChartSet, Line, are_positive
from scaler.report.page.parts import Cell, Column, Table, Tile
from scaler.report.page.shell import render_page
from scaler.report.text.format import number, plural, seconds

BATCHES = ("scale.global_batch_size", "scale.per_worker_batch_size")


def render_experiment_html(report: ExperimentReport) -> str:
    """Return an experiment as one HTML document, readable offline, on paper and without its scripts."""
    return render_page(
        "experiment.html.j2",
        kind="experiment",
        subject="Experiment",
        title=report.experiment_id,
        headline=report.answer,
        charts=_charts(report) if report.search is None else trial_charts(report.search, report.metric or ""),
        report=report,
        tiles=_tiles(report),
        tables=[(sheet, _table(sheet)) for sheet in sheets(report)],
        critical=critical_text(report.critical_batch) if report.critical_batch is not None else "",
        environment=_environment(report),
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
        tiles.append(
            Tile(
                name="critical batch",
                value=number(critical.value, 3) if critical.value is not None else "",
                note="samples",
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


def _charts(report: ExperimentReport) -> ChartSet:
    """The metric, the samples to the target and the throughput over the batch size, a line for each other setting."""
    lines = _lines(report)
    places = {name: [float(group.global_batch_size or 0) for group in groups] for name, groups in lines.items()}
    charts = []
    if report.metric is not None:
        extra = _baseline_line(report, places)
        charts.append(_chart("metric", report.metric, "mean over seeds", lines, lambda group: group.final, extra=extra))
    if report.target is not None:
        title = f"Samples to {report.metric} {number(report.target)}"
        charts.append(_chart("samples", title, "median over seeds", lines, lambda group: group.samples_to_target))
    charts.append(_chart("speed", "Throughput", "samples/s", lines, lambda group: group.samples_per_s))
    axis = Axis(
        name="batch",
        label="global batch size, samples",
        before="at batch",
        quantity="number",
        places={**places, "baseline": _all_places(places)},
        logarithmic=True,
    )
    kept = tuple(chart for chart in charts if any(value is not None for line in chart.lines for value in line.values))
    has_curve = any(len(batches) > 1 for batches in places.values())
    return ChartSet(charts=kept if has_curve else (), axes=(axis,))


def _lines(report: ExperimentReport) -> dict[str, list[GroupResult]]:
    """Return the groups of each line, by the values that are not the batch; lines with one batch are left out."""
    found: dict[str, list[GroupResult]] = {}
    shared = next((group for group in report.groups if group.is_baseline), None)
    for group in report.groups:
        if group.global_batch_size is None:
            continue
        found.setdefault(label({k: v for k, v in group.overrides.items() if k not in BATCHES}), []).append(group)
    lines = {}
    for name, groups in found.items():
        if len({group.global_batch_size for group in groups}) < 2:
            continue
        rows = sorted(groups, key=lambda group: group.global_batch_size or 0)
        if shared is not None and _same_workers(rows, shared) and shared not in rows:
            rows = sorted([shared, *rows], key=lambda group: group.global_batch_size or 0)
        lines[name] = rows
    return dict(list(lines.items())[:SERIES])


def _same_workers(groups: Sequence[GroupResult], other: GroupResult) -> bool:
    batches = {group.global_batch_size for group in groups}
    return other.global_batch_size not in batches and all(group.world_size == other.world_size for group in groups)


def _all_places(places: dict[str, list[float]]) -> list[float]:
    return sorted({place for batches in places.values() for place in batches})


def _baseline_line(report: ExperimentReport, places: dict[str, list[float]]) -> tuple[Line, ...]:
    base = next((group for group in report.groups if group.is_baseline), None)
    if base is None or base.final is None or base.final.value is None:
        return ()
    values = [base.final.value] * len(_all_places(places))
    return (Line(label=f"baseline, {base.label}", clock="baseline", style="dashed", values=tuple(values)),)


def _chart(
    id: str,
    title: str,
    note: str,
    lines: dict[str, list[GroupResult]],
    value: Callable[[GroupResult], Estimate | None],
    *,
    extra: tuple[Line, ...] = (),
) -> Chart:
    drawn, sentences = [], []
    for place, (name, groups) in enumerate(lines.items()):
        estimates = [value(group) for group in groups]
        values = tuple(None if each is None or each.value is None else float(f"{each.value:.6g}") for each in estimates)
        drawn.append(Line(label=name, clock=name, style=f"series-{place}", values=values))
        points = [
            f"{number(one, 3)} at {number(group.global_batch_size)}"
            for one, group in zip(values, groups, strict=True)
            if one is not None
        ]
        sentences.append(f"{name}: {', '.join(points) if points else 'no value'}.")
    return Chart(
        id=id,
        title=title,
        note=note,
        lines=(*drawn, *extra),
        sentences=tuple(sentences),
        is_logarithmic=are_positive(drawn),
        is_wide=id == "metric",
    )


def _environment(report: ExperimentReport) -> str:
    about = report.environment
    versions = about.get("versions") or {}
    parts = [f"{about.get('host')}", f"{about.get('system')}"]
    if about.get("cpus"):
        parts.append(plural(int(about["cpus"]), "CPU"))
    parts += [f"{name} {version}" for name, version in versions.items() if version]
    return ", ".join(parts)
