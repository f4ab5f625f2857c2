"""The report as one HTML file that needs nothing else: styles, script, chart library and data are inside.

No number is computed here. Charts are told twice: as curves, and as sentences with their first, last, least and
greatest values, so that the page says the same without its script.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from scaler.report.model import AttemptRow, Report, Series
from scaler.report.words import number, plural, printable, seconds

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
    clock: Literal["steps", "evals"]  # which samples_seen its values stand at
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
    charts = _charts(report.series)
    return _template().render(
        report=report,
        headline=_headline(report),
        plan_rows=[(name, _plan_value(name, report.plan), report.plan["reasons"].get(name)) for name in PLAN_NUMBERS],
        charts=charts,
        data=_chart_data(report, charts),
        styles=Markup("\n".join(_static(name) for name in STYLES)),
        scripts=[Markup(_static(name)) for name in SCRIPTS],
        script_hashes=[_hash(_static(name)) for name in SCRIPTS],
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


def _charts(series: Series) -> tuple[Chart, ...]:
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
    ]
    return tuple(chart for chart in charts if any(value is not None for line in chart.lines for value in line.values))


def _chart(id: str, title: str, unit: str, lines: tuple[Line, ...], series: Series) -> Chart:
    values = [value for line in lines for value in line.values if value is not None]
    return Chart(
        id=id,
        title=title,
        unit=unit,
        lines=lines,
        sentences=tuple(_sentence(line, _clock(line, series)) for line in lines if line.style not in ("low", "high")),
        logarithmic=id == "loss" and bool(values) and min(values) > 0,
    )


def _clock(line: Line, series: Series) -> tuple[int, ...]:
    return series.samples_seen if line.clock == "steps" else series.eval_samples_seen


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
        "clocks": {"steps": report.series.samples_seen, "evals": report.series.eval_samples_seen},
        "markers": [_marker(attempt) for attempt in report.attempts[1:]],
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


def _marker(attempt: AttemptRow) -> dict[str, Any]:
    label = f"attempt {attempt.attempt}: {plural(attempt.world_size, 'worker')}"
    return {"samples_seen": attempt.start_samples, "label": label}


# The page


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.filters |= {
        "number": number,
        "column": _column,
        "seconds": seconds,
        "plural": plural,
        "printable": printable,
    }
    return environment.from_string(_static("report.html.j2"))


@cache
def _static(name: str) -> str:
    return files("scaler.report").joinpath("static", name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """How a content security policy names a script that may run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
