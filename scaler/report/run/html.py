"""The report as one HTML file that needs nothing else: styles, script, chart library and data are inside.

No number is computed here; what the charts show is in ``charts``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from scaler.report.page.shell import CURVE_SCRIPTS, PAGE_STYLES, render_page
from scaler.report.run.charts import chart_data, make_charts
from scaler.report.run.cost_text import budget_parts, money, percent, slowest_first, step_parts
from scaler.report.run.definitions import NUMBERS, SPEED, TRAIN_LOSS, evaluation
from scaler.report.run.model import Report, WorkerRow
from scaler.report.text.format import (
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
    trend_words,
)

HEADLINE_EVALS = 2  # more would not be one sentence; all of them are listed below it
PRINTED_WORKERS = 64  # paper holds the slowest; the page holds all of them
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
STYLES = (*PAGE_STYLES, "report.css")
SCRIPTS = (*CURVE_SCRIPTS, "sorting.js")


def render_html(report: Report) -> str:
    """Return the report as one HTML document, readable offline, on paper and without its script.

    Text that a user chose (names, metrics, errors) is escaped wherever it stands. A content security policy in the
    page lets nothing be loaded, and only the page's own scripts run.

    Args:
        report: the report of one run.

    Returns:
        A whole document: 70 KB, of which 50 KB is the chart library, 0.3 KB for each place of the curves (at most
        500 of them), and 2 KB for each worker.
    """
    charts = make_charts(report)
    data = chart_data(report, charts)
    return render_page(
        "report.html.j2",
        styles=STYLES,
        scripts=SCRIPTS,
        report=report,
        headline=_headline(report),
        numbers=NUMBERS,
        plan_rows=_plan_rows(report.plan),
        budget=budget_parts(report.budget) if report.budget is not None and (report.totals.wall_s or 0) > 0 else (),
        charts=charts,
        data=data,
        has_times="times" in data,
        marked=_marked(report),
        printed={worker.rank for worker in slowest_first(report.workers)[:PRINTED_WORKERS]},
        node_words=_node_words,
        seconds=seconds,
        column=_column,
        batch_words=batch_words,
        decision_words=decision_words,
        ended_words=ended_words,
        interval_words=interval_words,
        money=money,
        percent=percent,
        preconditioned_words=preconditioned_words,
        samples_words=samples_words,
        trend_words=trend_words,
        step_parts=step_parts,
    )


# Words


def _marked(report: Report) -> dict[int, str]:
    """The ranks that verdicts are about, with the verdicts' codes."""
    marks: dict[int, list[str]] = {}
    for verdict in report.verdicts:
        if verdict.rank is not None:
            marks.setdefault(verdict.rank, []).append(verdict.code)
    return {rank: ", ".join(codes) for rank, codes in marks.items()}


def _node_words(worker: WorkerRow) -> str:
    """What stands below a worker's node: its process and its device, as far as they are known."""
    known = [f"pid {worker.pid}" if worker.pid is not None else None, worker.device]
    return ", ".join(part for part in known if part)


def _headline(report: Report) -> str:
    """The results as one sentence."""
    totals, evals = report.totals, report.final.eval
    parts = [_world_sizes(report), f"{plural(totals.samples_seen, 'sample')} in {plural(totals.steps, 'step')}"]
    if totals.samples_per_s is not None:
        parts.append(f"{number(totals.samples_per_s)} {SPEED.unit}")
    scores = [name for name in evals if name != "loss"][:HEADLINE_EVALS]
    if scores:
        parts += [f"{name} {number(evals[name])}" for name in scores]
    elif "loss" in evals:
        parts.append(f"{evaluation('loss').name} {number(evals['loss'])}")
    elif report.final.train_loss_mean is not None:
        parts.append(f"{TRAIN_LOSS.name} {number(report.final.train_loss_mean)}")
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
