"""A comparison as one HTML file that needs nothing else: what moved, the numbers, and the curves over each other.

No number is computed here. Each curve is told twice: as a curve, and as a sentence.
"""

from scaler.report.compare.format import (
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
from scaler.report.compare.model import Comparison, Curve
from scaler.report.page.chart import Chart, Line, are_positive, drawn, untimed_words
from scaler.report.page.shell import CURVE_SCRIPTS, PAGE_STYLES, render_page
from scaler.report.text.format import number, plural

STYLES = (*PAGE_STYLES, "plan.css", "compare.css")
SCRIPTS = CURVE_SCRIPTS
COLOURS = 6  # of plan.css; further arms begin again


def render_comparison_html(comparison: Comparison) -> str:
    """Return the comparison as one HTML document, readable offline, on paper and without its script.

    Text that a user chose (names, values of jobs) is escaped wherever it stands, and a content security policy in the
    page lets nothing be loaded.
    """
    charts = _charts(comparison)
    clocks = _clocks(comparison)
    data = drawn(
        charts,
        clocks={clock: curve.samples_seen for clock, curve in clocks.items()},
        times={clock: curve.elapsed_s for clock, curve in clocks.items()},
    )
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
        has_times="times" in data,
        data=data,
        arm_words=arm_words,
        change_words=change_words,
        judged_words=judged_words,
        mean_words=mean_words,
        measure_words=measure_words,
        speedup_words=speedup_words,
        spread_words=spread_words,
        value_words=value_words,
    )


def _clocks(comparison: Comparison) -> dict[str, Curve]:
    return {str(place): curve for place, curve in enumerate(comparison.curves)}


def _charts(comparison: Comparison) -> list[Chart]:
    """What is drawn: a chart for each curve that has a value, a line for each run, a colour for each arm."""
    names = dict.fromkeys(curve.name for curve in comparison.curves if any(v is not None for v in curve.values))
    colours = {arm.label: f"plan-{place % COLOURS}" for place, arm in enumerate(comparison.arms)}
    charts = []
    for place, name in enumerate(names):
        curves = {clock: curve for clock, curve in _clocks(comparison).items() if curve.name == name}
        window = plural(comparison.window_samples, "sample")
        lines = tuple(
            Line(label=f"{curve.arm}: {curve.run_id}", clock=clock, style=colours[curve.arm], values=curve.values)
            for clock, curve in curves.items()
        )
        charts.append(
            Chart(
                id=str(place),
                title=curve_words(name),
                unit=f"mean over the last {window}" if name == "train_loss" else "",
                lines=lines,
                sentences=tuple(_sentence(curve) for curve in curves.values()),
                is_logarithmic=are_positive(lines),
                untimed=untimed_words([at for curve in curves.values() for at in curve.elapsed_s]),
            )
        )
    return charts


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
