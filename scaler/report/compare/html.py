"""Render a comparison as one HTML file: differences, arms, curves and numbers. It computes no number."""

from collections.abc import Iterator
from functools import partial

from scaler.report.compare.format import (
    arm_text,
    by_kind,
    compared,
    curve_text,
    headline,
    mean_text,
    measure_text,
    run_text,
    speedup_text,
    spread_text,
)
from scaler.report.compare.model import ArmValues, Comparison, Curve, Measure
from scaler.report.page.chart import (
    SERIES,
    Chart,
    ChartSet,
    Line,
    are_positive,
    samples_axis,
    sentence,
    time_axis,
    untimed_text,
)
from scaler.report.page.parts import Cell, Column, Heading, Table
from scaler.report.page.shell import render_page
from scaler.report.text.format import amount, percent, plural


def render_comparison_html(comparison: Comparison) -> str:
    """Return a comparison as one HTML document, readable offline, on paper and without its scripts.

    Names and values of jobs are escaped, and a content security policy in the page allows it to load nothing.
    """
    base, *others = comparison.arms
    styles = _styles(comparison)
    return render_page(
        "compare.html.j2",
        kind="comparison",
        subject="Comparison of runs",
        title=f"{plural(len(comparison.runs), 'run')}, {plural(len(comparison.arms), 'arm')}",
        charts=_charts(comparison),
        comparison=comparison,
        base=base.label,
        arms=[(arm, styles[arm.label]) for arm in comparison.arms],
        headlines=[(arm, headline(comparison, arm)) for arm in others],
        speedups=[
            f"Arm {speedup.arm}, {speedup_text(speedup, base.label, comparison.unit)}"
            for speedup in comparison.speedups
        ],
        numbers=_table(comparison),
        arm_text=arm_text,
        run_text=partial(run_text, unit=comparison.unit),
    )


def _styles(comparison: Comparison) -> dict[str, str]:
    """A style for each arm; more arms than styles begin again."""
    return {arm.label: f"series-{place % SERIES}" for place, arm in enumerate(comparison.arms)}


def _table(comparison: Comparison) -> Table:
    """All numbers: a row for each, a column for each arm, and the change of each arm from the base."""
    base, *others = comparison.arms
    columns = [Column(title="number", is_text=True), Column(title=base.label)]
    for arm in others:
        columns += [Column(title=arm.label), Column(title="change"), Column(title="noise", is_text=True)]
    rows: list[Heading | tuple[Cell | str, ...]] = []
    for title, measures in by_kind(comparison.measures):
        rows += [Heading(title=title), *(tuple(_cells(measure)) for measure in measures)]
    return Table(
        id="numbers",
        caption=f"Means over repeats. A change is against arm {base.label}; the true change is within ± with a "
        f"probability of {percent(comparison.level)}.",
        columns=tuple(columns),
        rows=tuple(rows),
    )


def _cells(measure: Measure) -> Iterator[Cell | str]:
    """The row of one number."""
    base, *others = measure.arms
    yield measure_text(measure)
    yield _mean_cell(base, measure.unit)
    for values in others:
        _, change, noise = compared(measure, values.arm)
        yield _mean_cell(values, measure.unit)
        yield change
        yield Cell(text=noise, style="strong" if measure.difference(values.arm).is_beyond_noise else "quiet")


def _mean_cell(values: ArmValues, unit: str) -> Cell:
    note = f"{values.repeats} repeats, spread {spread_text(values, unit)}" if values.repeats > 1 else ""
    return Cell(text=mean_text(values, unit), note=note)


def _charts(comparison: Comparison) -> ChartSet:
    """A chart for each curve that has a value, with a line for each run in the style of its arm."""
    curves = {str(place): curve for place, curve in enumerate(comparison.curves)}
    names = dict.fromkeys(curve.name for curve in comparison.curves if any(v is not None for v in curve.values))
    samples = samples_axis({clock: curve.samples_seen for clock, curve in curves.items()}, unit=comparison.unit)
    time = time_axis({clock: curve.elapsed_s for clock, curve in curves.items()}, since="the first step")
    return ChartSet(
        charts=tuple(
            _chart(str(place), {clock: curve for clock, curve in curves.items() if curve.name == name}, comparison)
            for place, name in enumerate(names)
        ),
        axes=(samples, time) if time.is_known else (samples,),
    )


def _chart(id: str, curves: dict[str, Curve], comparison: Comparison) -> Chart:
    """One curve of all runs."""
    styles = _styles(comparison)
    name = next(iter(curves.values())).name
    lines = tuple(
        Line(label=f"{curve.arm}: {curve.run_id}", clock=clock, style=styles[curve.arm], values=curve.values)
        for clock, curve in curves.items()
    )
    window, unit = f"mean over the last {amount(comparison.window_samples, comparison.unit)}", comparison.unit
    return Chart(
        id=id,
        title=curve_text(name),
        note=window if name == "train_loss" else "",
        lines=lines,
        sentences=tuple(
            sentence(f"Arm {curve.arm}, {curve.run_id}", curve.samples_seen, curve.values, unit=unit)
            for curve in curves.values()
        ),
        is_wide=True,
        is_logarithmic=are_positive(lines),
        untimed=untimed_text([at for curve in curves.values() for at in curve.elapsed_s]),
    )
