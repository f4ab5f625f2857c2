"""The charts of an experiment: the picture that opens its page, and the others.

Each chart is over one axis: the global batch size, the number of workers or the learning rate. Every repeat is a point,
every value has its interval, and a line joins only neighbouring values of one series.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from scaler.core.intervals import Estimate
from scaler.report.experiment.batches import LR
from scaler.report.experiment.format import estimate_text, level_text
from scaler.report.experiment.labels import label
from scaler.report.experiment.model import ExperimentReport, GroupResult, SpeedRow
from scaler.report.experiment.speed import WORKERS
from scaler.report.experiment.spreads import (
    CURVE,
    ChartAxis,
    Place,
    Series,
    has_values,
    line_of,
    lines_of,
    measured,
    sentences_of,
)
from scaler.report.page.chart import SERIES, Chart, ChartSet, Line, Mark, are_positive
from scaler.report.text.format import count, number, plural

BATCHES = ("scale.global_batch_size", "scale.per_worker_batch_size")
CLOSE = 8.0  # margins: differences beyond are outside the picture until the reader asks for all values
ABOVE = 1.1  # times the largest measured value: where a chart ends, and its ideal line does not end there


def experiment_charts(report: ExperimentReport) -> tuple[ChartSet, Mapping[str, Sequence[Chart]]]:
    """Return all charts, and the same by the section of the page: picture, far, scaling, lr and throughput."""
    batch = ChartAxis("batch", f"global batch size, {report.unit}", "at batch", logarithmic=True)
    workers = ChartAxis("workers", "workers", "at workers", logarithmic=False)
    lr = ChartAxis("lr", "peak learning rate", "at", logarithmic=True)
    by_batch = _series(report, BATCHES, lambda group: group.global_batch_size)
    by_workers = _series(report, (WORKERS,), lambda group: group.world_size)
    by_lr = _series(report, (LR,), lambda group: group.peak_lr)
    picture: list[Chart] = []
    for axis, series, place in (
        (batch, by_batch, lambda group: group.global_batch_size),
        (workers, by_workers, lambda group: group.world_size),
        (lr, by_lr, lambda group: group.peak_lr),
    ):
        if series and report.metric is not None:
            picture = _picture(report, axis, series, place)
            break
    scaling = [chart for kind in ("strong", "weak") for chart in _scaling(report, workers, kind)]
    sections = {
        "picture": picture if report.metric is not None else scaling,  # of speed alone, it is the speed-up
        "far": _far(report, batch, by_batch),
        "scaling": [replace(each, is_wide=len(scaling) == 1) for each in scaling] if report.metric is not None else [],
        "lr": _sweeps(report, lr),
        "throughput": _throughput(report, batch, by_batch),
    }
    charts = tuple(chart for each in sections.values() for chart in each)
    axes = tuple(axis.made() for axis in (batch, workers, lr) if axis.places)
    return ChartSet(charts=charts, axes=axes, marks=_marks(report) if charts else ()), sections


def _series(report: ExperimentReport, keys: Sequence[str], place: Place) -> Series:
    """Return the groups that differ in ``keys`` alone, by their other values; those at one place are left out.

    At the batch size of the baseline, all rules are the same, so the baseline begins each series that lacks that batch.
    """
    found: dict[str, list[GroupResult]] = {}
    base = next((group for group in report.groups if group.is_baseline), None)
    for group in report.groups:
        if place(group) is not None and group.seeds:
            rest = label({key: value for key, value in group.overrides.items() if key not in keys})
            found.setdefault(rest, []).append(group)
    series = {}
    for name, groups in found.items():
        if len({place(group) for group in groups}) < 2:
            continue
        if keys == BATCHES and base is not None and _begins(base, groups):
            groups = [base, *groups]
        series[name] = sorted(groups, key=lambda group: place(group) or 0.0)
    return dict(list(series.items())[:SERIES])


def _begins(base: GroupResult, groups: Sequence[GroupResult]) -> bool:
    return all(
        group.world_size == base.world_size and group.global_batch_size != base.global_batch_size for group in groups
    )


def _picture(report: ExperimentReport, axis: ChartAxis, series: Series, place: Place) -> list[Chart]:
    """Speed-up over the baseline with the ideal line, and difference to the baseline with the margin."""
    target = f" to {report.metric} {number(report.target)}" if report.target is not None else ""
    level = level_text(report.level)
    speed = lines_of(series, axis, place, lambda group: group.speed_up, lambda group: group.speed_ups)
    everywhere = sorted({float(place(group) or 0.0) for groups in series.values() for group in groups})
    base = next((group for group in report.groups if group.is_baseline), None)
    charts = []
    if has_values(speed):
        ideal: tuple[Line, ...] = ()
        start = place(base) if base is not None else None
        if axis.name != "lr" and base is not None and start:
            values = tuple(each / start for each in everywhere)
            name = "ideal" if axis.name == "workers" else f"ideal on {plural(base.world_size or 1, 'worker')}"
            ideal = (Line(label=name, clock=axis.clock("ideal", everywhere), style="dashed", values=values),)
        charts.append(
            Chart(
                id="worth",
                title="Is it worth it?",
                note=f"times as fast as the baseline{target}; median, {level} interval",
                lines=(*speed, *ideal),
                sentences=sentences_of(series, place, lambda group: group.speed_up),
                ceiling=_ceiling(speed) if ideal else None,
                is_always_logarithmic=True,
                axis=axis.name,
            )
        )
    differences = lines_of(
        series,
        axis,
        place,
        _difference,
        lambda group: group.difference_to_baseline.each if group.difference_to_baseline is not None else (),
    )
    if has_values(differences):
        clock, margin = axis.clock("margin", everywhere), report.margin or 0.0
        band = (
            Line(label="margin, lower end", clock=clock, style="low", values=tuple(-margin for _ in everywhere)),
            Line(label="margin, upper end", clock=clock, style="high", values=tuple(margin for _ in everywhere)),
        )
        charts.append(
            Chart(
                id="good",
                title="Is it still as good?",
                note=f"{report.metric} minus the baseline's; mean, and intervals that together hold {level}",
                lines=(*differences, *band),
                sentences=sentences_of(series, place, _difference),
                band="margin",
                floor=-CLOSE * margin if min(measured(differences)) < -CLOSE * margin else None,
                ceiling=CLOSE * margin if max(measured(differences)) > CLOSE * margin else None,
                axis=axis.name,
            )
        )
    return charts


def _difference(group: GroupResult) -> Estimate | None:
    found = group.difference_to_baseline
    if found is None:
        return Estimate(value=0.0) if group.is_baseline else None
    return Estimate(value=found.mean, low=found.low, high=found.high)


def _far(report: ExperimentReport, axis: ChartAxis, series: Series) -> list[Chart]:
    """Samples to the target over the batch size, with the fitted curve."""
    lines = lines_of(
        series,
        axis,
        lambda group: group.global_batch_size,
        lambda group: group.samples_to_target,
        lambda group: group.samples_to_target_each,
    )
    if report.target is None or not has_values(lines):
        return []
    critical = report.critical_batch
    fitted: tuple[Line, ...] = ()
    if critical is not None and critical.curve:
        clock = axis.clock(CURVE, [float(f"{batch:.5g}") for batch, _ in critical.curve])
        values = tuple(float(f"{samples:.5g}") for _, samples in critical.curve)
        fitted = (Line(label="fewest x (1 + batch / critical batch size)", clock=clock, style="dashed", values=values),)
    return [
        Chart(
            id="samples",
            title=f"{report.unit.capitalize()} to {report.metric} {number(report.target)}",
            note=f"median, {level_text(report.level)} interval",
            lines=(*lines, *fitted),
            sentences=sentences_of(
                series, lambda group: group.global_batch_size, lambda group: group.samples_to_target
            ),
            is_logarithmic=are_positive(lines),
            is_wide=True,
            axis=axis.name,
        )
    ]


def _scaling(report: ExperimentReport, axis: ChartAxis, kind: str) -> list[Chart]:
    """Speed-up of strong scaling with its ideal line; efficiency of weak scaling, ideally 1."""
    found: dict[str, list[SpeedRow]] = {}
    for row in report.speed:
        if row.kind == kind:
            found.setdefault(row.series + (" (oversubscribed)" if _is_over(report, row) else ""), []).append(row)
    found = dict(list(found.items())[:SERIES])
    if not found:
        return []
    is_strong = kind == "strong"
    lines, sentences = [], []
    for place, (name, rows) in enumerate(found.items()):
        estimates = [row.speed_up if is_strong else row.efficiency for row in rows]
        per = [1.0 if is_strong else row.base_workers / row.num_workers for row in rows]
        each = [[factor * one for one in row.speed_ups] for row, factor in zip(rows, per, strict=True)]
        clock = axis.clock(f"{kind} {name}", [float(row.num_workers) for row in rows])
        lines.append(line_of(name, clock, f"series-{place}", estimates, each))
        points = [f"{estimate_text(one, 2)} at {row.num_workers}" for one, row in zip(estimates, rows, strict=True)]
        base = f"{count(rows[0].base_samples_per_s, report.unit)} {report.unit}/s on {rows[0].base_workers}"
        sentences.append(f"{name}: {', '.join(points)} workers; the base is {base}.")
    everywhere = sorted({float(row.num_workers) for rows in found.values() for row in rows})
    ideals = tuple(workers / everywhere[0] if is_strong else 1.0 for workers in everywhere)
    ideal = Line(label="ideal", clock=axis.clock(f"ideal {kind}", everywhere), style="dashed", values=ideals)
    return [
        Chart(
            id=kind,
            title="Strong scaling: speed-up for the same batch" if is_strong else "Weak scaling: efficiency of a step",
            note=f"over the fewest workers, {level_text(report.level)} interval",
            lines=(*lines, ideal),
            sentences=tuple(sentences),
            axis=axis.name,
        )
    ]


def _is_over(report: ExperimentReport, row: SpeedRow) -> bool:
    return any(each.is_oversubscribed for each in report.speed if (each.series, each.kind) == (row.series, row.kind))


def _sweeps(report: ExperimentReport, axis: ChartAxis) -> list[Chart]:
    """The metric over the learning rate, a line for each batch and rule."""
    lines, sentences = [], []
    for place, row in enumerate(report.sweeps[:SERIES]):
        lines.append(line_of(row.label, axis.clock(row.label, row.lrs), f"series-{place}", row.estimates, row.each))
        best = "no value" if row.best is None else f"best at {number(row.best)}"
        edge = "" if row.best is None else ", inside those tried" if row.is_inside else ", at the edge of those tried"
        sentences.append(f"{row.label}: {best}{edge}.")
    if not lines or not has_values(lines):
        return []
    return [
        Chart(
            id="lr",
            title=f"{report.metric} over the peak learning rate",
            note=f"mean, {level_text(report.level)} interval",
            lines=tuple(lines),
            sentences=tuple(sentences),
            is_wide=True,
            axis=axis.name,
        )
    ]


def _throughput(report: ExperimentReport, axis: ChartAxis, series: Series) -> list[Chart]:
    lines = lines_of(
        series,
        axis,
        lambda group: group.global_batch_size,
        lambda group: group.samples_per_s,
        lambda group: group.samples_per_s_each,
    )
    if not has_values(lines):
        return []
    return [
        Chart(
            id="speed",
            title="Throughput",
            note=f"{report.unit}/s, harmonic mean, {level_text(report.level)} interval",
            lines=tuple(lines),
            sentences=sentences_of(series, lambda group: group.global_batch_size, lambda group: group.samples_per_s),
            is_logarithmic=are_positive(lines),
            is_wide=True,
            axis=axis.name,
        )
    ]


def _ceiling(lines: Sequence[Line]) -> float:
    """Return where a chart with an ideal line ends: above all that was measured."""
    return ABOVE * max(measured(lines))


def _marks(report: ExperimentReport) -> tuple[Mark, ...]:
    """The recommended batch size, and the critical one with its interval."""
    critical, chosen = report.critical_batch, report.recommendation
    best = next((group for group in report.groups if chosen is not None and group.label == chosen.label), None)
    marks = []
    if best is not None:
        at = {"batch": best.global_batch_size, "workers": best.world_size}
        marks.append(Mark(at=at, label="recommended", style="dotted"))
    if critical is not None and critical.value is not None:
        marks.append(Mark(at={"batch": critical.value}, label="critical batch", style="dashed"))
        ends = (critical.low, critical.high)
        marks += [Mark(at={"batch": end}, label="", style="dotted") for end in ends if end is not None]
    return tuple(marks)
