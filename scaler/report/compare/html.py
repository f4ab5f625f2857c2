"""A comparison as one HTML file that needs nothing else: what moved, the numbers, and the curves over each other.

No number is computed here. Each curve is told twice: as a curve, and as a sentence.
"""

from typing import Any

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
from scaler.report.page import render_page
from scaler.report.words import number, plural

STYLES = ("uPlot.min.css", "report.css", "plan.css", "compare.css")
SCRIPTS = ("uPlot.iife.min.js", "compare.js")
COLOURS = 6  # of plan.css; further arms begin again


def render_comparison_html(comparison: Comparison) -> str:
    """Return the comparison as one HTML document, readable offline, on paper and without its script.

    Text that a user chose (names, values of jobs) is escaped wherever it stands, and a content security policy in the
    page lets nothing be loaded.
    """
    charts = _charts(comparison)
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
        has_times=comparison.common_elapsed_s is not None,
        data={"charts": charts},
        arm_words=arm_words,
        change_words=change_words,
        judged_words=judged_words,
        mean_words=mean_words,
        measure_words=measure_words,
        speedup_words=speedup_words,
        spread_words=spread_words,
        value_words=value_words,
    )


def _charts(comparison: Comparison) -> list[dict[str, Any]]:
    """What is drawn: a chart for each curve that has a value, a line for each run, a colour for each arm."""
    names = dict.fromkeys(curve.name for curve in comparison.curves if any(v is not None for v in curve.values))
    index = {arm.label: place for place, arm in enumerate(comparison.arms)}
    return [
        {
            "id": place,
            "title": curve_words(name),
            "note": f"mean over the last {plural(comparison.window_samples, 'sample')}" if name == "train_loss" else "",
            "lines": [
                {
                    "label": f"{curve.arm}: {curve.run_id}",
                    "style": f"plan-{index[curve.arm] % COLOURS}",
                    "samples": curve.samples_seen,
                    "seconds": curve.elapsed_s,
                    "values": curve.values,
                    "sentence": _sentence(curve),
                }
                for curve in comparison.curves
                if curve.name == name
            ],
        }
        for place, name in enumerate(names)
    ]


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
