"""A comparison as one HTML file that needs nothing else: what moved, the numbers, and the curves over each other.

No number is computed here. Each curve is told twice: as a curve, and as a sentence.
"""

from dataclasses import dataclass
from typing import Any

from scaler.report.charts import untimed_words
from scaler.report.compare.model import Comparison, Curve
from scaler.report.compare.words import (
    arm_words,
    by_kind,
    change_words,
    curve_words,
    headline,
    judged_words,
    mean_words,
    measure_words,
    speedup_words,
    spread_words,
    value_words,
)
from scaler.report.page import CURVE_SCRIPTS, PAGE_STYLES, render_page
from scaler.report.words import number, plural

STYLES = (*PAGE_STYLES, "plan.css", "compare.css")
SCRIPTS = CURVE_SCRIPTS
COLOURS = 6  # of plan.css; further arms begin again


def render_comparison_html(comparison: Comparison) -> str:
    """Return the comparison as one HTML document, readable offline, on paper and without its script.

    Text that a user chose (names, values of jobs) is escaped wherever it stands, and a content security policy in the
    page lets nothing be loaded.
    """
    charts = _charts(comparison)
    times = {clock: curve.elapsed_s for clock, curve in _clocks(comparison).items()}
    has_times = any(at is not None for places in times.values() for at in places)
    return render_page(
        "compare.html.j2",
        styles=STYLES,
        scripts=SCRIPTS,
        comparison=comparison,
        base=comparison.arms[0].label,
        title=f"{plural(len(comparison.runs), 'run')}, {plural(len(comparison.arms), 'arm')}",
        headlines=[(arm, headline(comparison, arm)) for arm in comparison.arms[1:]],
        kinds=by_kind(comparison.measures),
        charts=charts,
        has_times=has_times,
        data={
            "clocks": {clock: curve.samples_seen for clock, curve in _clocks(comparison).items()},
            **({"times": times} if has_times else {}),
            "markers": [],
            "charts": [
                {
                    "id": chart.id,
                    "stacked": False,
                    "quantity": "number",
                    "lines": [_drawn(line) for line in chart.lines],
                }
                for chart in charts
            ],
        },
        arm_words=arm_words,
        change_words=change_words,
        judged_words=judged_words,
        mean_words=mean_words,
        measure_words=measure_words,
        speedup_words=speedup_words,
        spread_words=spread_words,
        value_words=value_words,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class RunCurve:
    """One run's line in a chart."""

    label: str
    clock: str  # where its values stand: each curve has places of its own
    style: str  # plan-0 to plan-5: what chart.js and plan.css draw it with
    values: tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedChart:
    """One curve of all runs, and what each of them says in words."""

    id: str
    title: str
    note: str
    lines: tuple[RunCurve, ...]
    sentences: tuple[str, ...]
    is_logarithmic: bool  # whether a log scale may be asked for: every value is above 0
    untimed: str  # what is not drawn over time; empty: nothing


def _clocks(comparison: Comparison) -> dict[str, Curve]:
    return {str(place): curve for place, curve in enumerate(comparison.curves)}


def _charts(comparison: Comparison) -> list[ComparedChart]:
    """What is drawn: a chart for each curve that has a value, a line for each run, a colour for each arm."""
    names = dict.fromkeys(curve.name for curve in comparison.curves if any(v is not None for v in curve.values))
    colours = {arm.label: f"plan-{place % COLOURS}" for place, arm in enumerate(comparison.arms)}
    charts = []
    for place, name in enumerate(names):
        curves = {clock: curve for clock, curve in _clocks(comparison).items() if curve.name == name}
        values = [value for curve in curves.values() for value in curve.values if value is not None]
        window = plural(comparison.window_samples, "sample")
        lines = [
            RunCurve(label=f"{curve.arm}: {curve.run_id}", clock=clock, style=colours[curve.arm], values=curve.values)
            for clock, curve in curves.items()
        ]
        charts.append(
            ComparedChart(
                id=str(place),
                title=curve_words(name),
                note=f"mean over the last {window}" if name == "train_loss" else "",
                lines=tuple(lines),
                sentences=tuple(_sentence(curve) for curve in curves.values()),
                is_logarithmic=min(values) > 0,
                untimed=untimed_words([at for curve in curves.values() for at in curve.elapsed_s]),
            )
        )
    return charts


def _drawn(line: RunCurve) -> dict[str, Any]:
    return {"label": line.label, "clock": line.clock, "style": line.style, "values": line.values}


def _sentence(curve: Curve) -> str:
    """A curve in words."""
    points = [(value, at) for at, value in zip(curve.samples_seen, curve.values, strict=True) if value is not None]
    label = f"Arm {curve.arm}, {curve.run_id}"
    if not points:
        return f"{label}: no value."
    (first, _), (last, end) = points[0], points[-1]
    least, place = min(points)
    return (
        f"{label}: from {number(first)} to {number(last)} after {plural(end, 'sample')}; least {number(least)} at "
        f"{plural(place, 'sample')}."
    )
