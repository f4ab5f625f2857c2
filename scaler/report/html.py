"""The report as one HTML file that needs nothing else: styles, script, chart library and data are inside.

No number is computed here. Charts are told twice: as curves, and as sentences with their first, last, least and
greatest values, so that the page says the same without its script.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scaler.report.model import AttemptRow, Decision, Report, Series
from scaler.report.page import render_page
from scaler.report.words import (
    batch_words,
    decision_words,
    ended_words,
    group_words,
    interval_words,
    number,
    phase_words,
    plural,
    preconditioned_words,
    samples_words,
    seconds,
)

HEADLINE_EVALS = 2  # more would not be one sentence; all of them are listed below it
PLAN_NUMBERS = (
    "global_batch_size",
    "batch_ratio",
    "lr_ratio",
    "peak_lr",
    "warmup_samples",
    "schedule",
    "total_samples",
    "steps_per_epoch",
    "optimizer",
)
STYLES = ("uPlot.min.css", "report.css")
SCRIPTS = ("uPlot.iife.min.js", "report.js")


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One curve of a chart, or one edge of a band."""

    label: str
    clock: Literal["steps", "evals", "noise"]  # which samples_seen its values stand at
    style: Literal["solid", "wide", "dashed", "dotted", "low", "high"]
    values: tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """Curves over samples_seen that share one axis, and what they say in words."""

    id: str
    title: str
    unit: str
    lines: tuple[Line, ...]
    sentences: tuple[str, ...]
    logarithmic: bool  # whether a log scale may be asked for: every value is above 0


def render_html(report: Report) -> str:
    """Return the report as one HTML document, readable offline, on paper and without its script.

    Text that a user chose (names, metrics, errors) is escaped wherever it stands. A content security policy in the
    page lets nothing be loaded, and only the page's own scripts run.

    Args:
        report: the report of one run.

    Returns:
        A whole document. A run of a few workers takes 100 to 160 KB, of which 50 KB is the chart library.
    """
    noise_of = preconditioned_words(report.noise) if report.noise is not None else ""
    charts = _charts(report.series, noise_of=noise_of)
    return render_page(
        "report.html.j2",
        styles=STYLES,
        scripts=SCRIPTS,
        report=report,
        headline=_headline(report),
        plan_rows=_plan_rows(report.plan),
        charts=charts,
        data=_chart_data(report, charts),
        seconds=seconds,
        column=_column,
        batch_words=batch_words,
        decision_words=decision_words,
        ended_words=ended_words,
        interval_words=interval_words,
        preconditioned_words=preconditioned_words,
        samples_words=samples_words,
    )


# Words


def _headline(report: Report) -> str:
    """The results as one sentence."""
    totals, evals = report.totals, report.final.eval
    parts = [_world_sizes(report), f"{plural(totals.samples_seen, 'sample')} in {plural(totals.steps, 'step')}"]
    if totals.samples_per_s is not None:
        parts.append(f"{number(totals.samples_per_s)} samples/s")
    scores = [name for name in evals if name != "loss"][:HEADLINE_EVALS]
    if scores:
        parts += [f"{name} {number(evals[name])}" for name in scores]
    elif "loss" in evals:
        parts.append(f"evaluation loss {number(evals['loss'])}")
    elif report.final.train_loss_mean is not None:
        parts.append(f"training loss {number(report.final.train_loss_mean)}")
    return " · ".join(parts)


def _world_sizes(report: Report) -> str:
    """How many workers trained, one number for each change of it."""
    sizes: list[int] = []
    for attempt in report.attempts:
        if sizes[-1:] != [attempt.world_size]:
            sizes.append(attempt.world_size)
    sizes = sizes or [report.plan["world_size"]]
    earlier = "".join(f"{size:,}, then " for size in sizes[:-1])
    return earlier + plural(sizes[-1], "worker")


def _plan_rows(plan: Mapping[str, Any]) -> list[tuple[str, str, str | None]]:
    """The plan's numbers, each with its reason; a batch that grows and groups of parameters where there are any."""
    rows = [(name, _plan_value(name, plan), plan["reasons"].get(name)) for name in PLAN_NUMBERS]
    if len(plan["phases"]) > 1:
        rows.insert(1, ("phases", phase_words(plan["phases"]), "scale.batch_schedule"))
    if plan["groups"]:
        rows.insert(-1, ("groups", group_words(plan["groups"]), "peak rates at the start's batch"))
    return rows


def _plan_value(name: str, plan: Mapping[str, Any]) -> str:
    """One of the plan's numbers with its unit."""
    value = plan[name]
    if name in ("batch_ratio", "lr_ratio"):
        return f"{number(value)}x"
    if name == "warmup_samples":
        return f"{plural(value, 'sample')} ({plural(plan['warmup_steps'], 'step')})"
    if name == "total_samples":
        return f"{plural(value, 'sample')} ({plural(plan['total_steps'], 'step')})"
    if name == "global_batch_size":
        return plural(value, "sample")
    if name == "steps_per_epoch":
        return plural(value, "step")
    if name == "schedule":
        return str(value["name"])
    if name == "optimizer":
        options = (f"{key} {_option(option)}" for key, option in value.items() if key != "name")
        return ", ".join((str(value["name"]), *options))
    return _option(value)


def _option(value: object) -> str:
    """A value as a job file has it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, int | float):
        return number(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(_option(part) for part in value) + "]"
    return str(value)


def _column(value: float) -> str:
    """A measurement in a column: as ``number`` says it, with the trailing zeros that make digits line up.

    Example:
        >>> [_column(value) for value in (0.62, 9.99996, 12.3, 34911.7, 0.0, 0.00002)]
        ['0.6200', '10.00', '12.30', '34,912', '0', '2.000e-05']
    """
    return number(value) if value == 0 or abs(value) >= 1e4 else f"{value:#.4g}".rstrip(".")


# Charts


def _charts(series: Series, *, noise_of: str) -> tuple[Chart, ...]:
    """The charts that have something to show: the loss, each other evaluation value by name, the learning rate."""
    evals = {
        name: Line(label=name, clock="evals", style="dotted", values=values) for name, values in series.evals.items()
    }
    loss = [
        Line(label="training, mean over ranks", clock="steps", style="solid", values=series.loss_mean),
        Line(label="training, least of ranks and steps", clock="steps", style="low", values=series.loss_min),
        Line(label="training, greatest of ranks and steps", clock="steps", style="high", values=series.loss_max),
    ]
    if "loss" in evals:
        loss.append(Line(label="evaluation", clock="evals", style="dotted", values=series.evals["loss"]))
    rates = (
        Line(label="used", clock="steps", style="wide", values=series.lr),
        Line(label="planned", clock="steps", style="dashed", values=series.lr_planned),
    )
    charts = [
        _chart("loss", "Loss", "", tuple(loss), series),
        *(
            _chart(f"eval-{index}", name, " on the evaluation data", (line,), series)
            for index, (name, line) in enumerate(evals.items())
            if name != "loss"
        ),
        _chart("lr", "Learning rate", "", rates, series),
        _chart("noise", "Gradient noise scale", f" samples{noise_of}, an estimate", _noise_lines(series), series),
    ]
    return tuple(chart for chart in charts if any(value is not None for line in chart.lines for value in line.values))


def _noise_lines(series: Series) -> tuple[Line, ...]:
    """The noise scale, and the batch to read it against; nothing when it was not measured."""
    if not series.noise_samples_seen:
        return ()
    return (
        Line(label="noise scale, running average", clock="noise", style="solid", values=series.noise_scale),
        Line(label="global batch", clock="steps", style="dashed", values=series.global_batch_size),
    )


def _chart(id: str, title: str, unit: str, lines: tuple[Line, ...], series: Series) -> Chart:
    values = [value for line in lines for value in line.values if value is not None]
    return Chart(
        id=id,
        title=title,
        unit=unit,
        lines=lines,
        sentences=tuple(_sentence(line, _clock(line, series)) for line in lines if line.style not in ("low", "high")),
        logarithmic=id in ("loss", "noise") and bool(values) and min(values) > 0,
    )


def _clock(line: Line, series: Series) -> tuple[int, ...]:
    clocks = {"steps": series.samples_seen, "evals": series.eval_samples_seen, "noise": series.noise_samples_seen}
    return clocks[line.clock]


def _sentence(line: Line, samples_seen: Sequence[int]) -> str:
    """A curve in words."""
    points = [(value, at) for at, value in zip(samples_seen, line.values, strict=True) if value is not None]
    if not points:
        return f"{line.label}: no value."
    (first, _), (last, _) = points[0], points[-1]
    least, greatest = min(points), max(points)
    return (
        f"{line.label}: from {number(first)} to {number(last)}; least {number(least[0])} at "
        f"{plural(least[1], 'sample')}, greatest {number(greatest[0])} at {plural(greatest[1], 'sample')}."
    )


def _chart_data(report: Report, charts: Sequence[Chart]) -> dict[str, Any]:
    """What the script draws."""
    return {
        "clocks": {
            "steps": report.series.samples_seen,
            "evals": report.series.eval_samples_seen,
            "noise": report.series.noise_samples_seen,
        },
        "markers": _markers(report),
        "charts": [
            {
                "id": chart.id,
                "lines": [
                    {"label": line.label, "clock": line.clock, "style": line.style, "values": line.values}
                    for line in chart.lines
                ],
            }
            for chart in charts
        ],
    }


def _markers(report: Report) -> list[dict[str, Any]]:
    """Where attempts took over and where something was decided, from left to right."""
    marks = [_attempt_mark(attempt) for attempt in report.attempts[1:]]
    marks += [_decision_mark(decision) for decision in report.decisions if not decision.undone]
    return sorted(marks, key=lambda mark: mark["samples_seen"])


def _attempt_mark(attempt: AttemptRow) -> dict[str, Any]:
    label = f"attempt {attempt.attempt}: {plural(attempt.world_size, 'worker')}"
    return {"samples_seen": attempt.start_samples, "label": label, "kind": "attempt"}


def _decision_mark(decision: Decision) -> dict[str, Any]:
    return {"samples_seen": decision.samples_seen, "label": decision.kind.replace("_", " "), "kind": "decision"}
