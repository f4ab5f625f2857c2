"""Render a run's report as one HTML file with styles, scripts and data inside.

This module computes no number. The charts are in ``charts``.
"""

from collections.abc import Mapping
from typing import Any

from scaler.core.mesh import sizes_text
from scaler.report.page.parts import Cell, Column, Table, Tile, explained
from scaler.report.page.shell import render_page
from scaler.report.run.charts import make_charts
from scaler.report.run.cost_text import budget_parts, slowest_first, step_parts
from scaler.report.run.definitions import COST, EFFICIENCY, MFU, SPEED, TRAIN_LOSS, TRAIN_S, WALL_S, evaluation
from scaler.report.run.format import (
    ATTEMPT_COSTS,
    ATTEMPT_NUMBERS,
    ATTEMPT_TEXTS,
    attempt_row,
    audit_text,
    decision_text,
    group_text,
    heads,
    interval_text,
    length_text,
    phase_text,
    preconditioned_text,
    real_tokens,
    samples_text,
    speed_text,
    trained_text,
    trend_text,
)
from scaler.report.run.model import Flops, Noise, Report, Scaling, WorkerRow
from scaler.report.run.tokens import in_unit
from scaler.report.text.format import (
    amount,
    count,
    money,
    number,
    optimizer_options,
    option,
    percent,
    plural,
    ratio,
    seconds,
)

HEADLINE_EVALS = 2  # the list below the headline has all of them
ROWS_IN_VIEW = 12  # of the workers' table; more workers are sorted by their own time, the slowest first
PRINTED_WORKERS = 64  # on paper, the slowest; the page has all of them
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


def render_html(report: Report) -> str:
    """Return a report as one HTML document, readable offline, on paper and without its scripts.

    Names, metrics and errors are escaped. A content security policy in the page allows only the page's own scripts.

    Returns:
        A document of about 110 KB, of which 51 KB is the chart library; each place of the curves (at most 500) adds
        0.3 KB, and each worker 2 KB.
    """
    report = in_unit(report)
    slowest = slowest_first(report.workers)
    return render_page(
        "report.html.j2",
        kind="report",
        subject="Report of a run",
        title=report.run_id,
        headline=_headline(report),
        charts=make_charts(report),
        report=report,
        tiles=_tiles(report),
        budget=budget_parts(report.budget) if report.budget is not None and (report.totals.wall_s or 0) > 0 else (),
        audit=audit_text(report.lr_audit),
        attempts=_attempt_table(report),
        decisions=_decision_table(report),
        plan_numbers=_plan_table(report.plan),
        marked=_marked(report),
        workers=slowest if len(slowest) > ROWS_IN_VIEW else report.workers,
        printed={worker.rank for worker in slowest[:PRINTED_WORKERS]},
        node_text=_node_text,
        column=_column,
        percent=percent,
        step_parts=step_parts,
    )


def _headline(report: Report) -> str:
    """The results as one sentence."""
    totals, evals = report.totals, report.final.eval
    parts = [_world_sizes(report), trained_text(report)]
    if totals.samples_per_s is not None:
        parts.append(speed_text(report))
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


# Results


def _tiles(report: Report) -> list[Tile]:
    totals, final = report.totals, report.final
    tiles = [
        _tile(name, value, note="last evaluation", unknown="it was not a finite number")
        for name, value in final.eval.items()
    ]
    tiles.append(_tile(TRAIN_LOSS.name, final.train_loss_mean, note=TRAIN_LOSS.of, unknown="no finite loss"))
    tiles += [
        _tile(f"train {name}", value, note=TRAIN_LOSS.of, unknown="no finite value")
        for name, value in final.train.items()
    ]
    no_speed = "the run recorded no step"
    speed = "" if totals.samples_per_s is None else count(totals.samples_per_s, report.unit)
    tiles.append(Tile(name=SPEED.name, value=speed, note=f"{report.unit}/s, {SPEED.of}", unknown=no_speed))
    tiles += [
        Tile(name=name, value=text.split(",")[0], note=text.partition(", ")[2]) for name, text in real_tokens(report)
    ]
    if report.scaling is not None:
        tiles.append(_efficiency_tile(report.scaling, report.unit))
    if report.flops is not None:
        tiles.append(_flops_tile(report.flops))
    if report.cost is not None:
        cost = report.cost
        note = f"{number(cost.worker_hours, 3)} worker-hours at {money(cost.price_per_worker_hour)} each"
        if cost.per_million_samples is not None:
            note += f"; {money(cost.per_million_samples)} a million {report.unit}"
        tiles.append(Tile(name=COST.name, value=money(cost.total), note=note))
    if report.noise is not None:
        tiles.append(_noise_tile(report.noise, report.unit))
    if report.gain is not None:
        saved = (
            f"steps of the reference that a step is worth, mean; {number(round(report.gain.steps_saved))} steps saved"
        )
        total = f"{report.unit} of the reference's training, of {count(report.plan['total_samples'], report.unit)}"
        tiles.append(_tile("AdaScale gain", report.gain.mean, note=saved))
        tiles.append(_tile("progress", round(totals.progress), note=total))
    tiles.append(Tile(name=TRAIN_S.name, value=seconds(totals.train_s), note=TRAIN_S.of))
    if totals.redone_samples:
        again = f"{report.unit}, {seconds(totals.redone_s)}, after restarts"
        tiles.append(_tile("trained again", totals.redone_samples, note=again))
    if totals.restart_s:
        tiles.append(Tile(name="restarting", value=seconds(totals.restart_s), note="between attempts"))
    wall = "" if totals.wall_s is None else seconds(totals.wall_s)
    tiles.append(Tile(name=WALL_S.name, value=wall, note=WALL_S.of, unknown="the run has not ended"))
    return tiles


def _tile(name: str, value: float | None, *, note: str, unknown: str = "") -> Tile:
    return Tile(name=name, value="" if value is None else number(value), note=note, unknown=unknown)


def _efficiency_tile(scaling: Scaling, unit: str) -> Tile:
    note = f"{count(scaling.worker_samples_per_s, unit)} {unit}/s a worker"
    if scaling.one_worker_samples_per_s is None:
        note += "; set reference.samples_per_s to compare with one alone"
    else:
        note += f", against {count(scaling.one_worker_samples_per_s, unit)} of one alone ({scaling.source})"
    value = "" if scaling.efficiency is None else percent(scaling.efficiency)
    return Tile(name=EFFICIENCY.name, value=value, note=note, unknown="one worker alone was not measured")


def _flops_tile(flops: Flops) -> Tile:
    if flops.mfu is None:
        return Tile(name="FLOPs", value=number(flops.worker_tflops, 3), note="TFLOPS a worker")
    note = f"{number(flops.worker_tflops, 3)} of {number(flops.peak_tflops, 3)} TFLOPS a worker"
    return Tile(name=MFU.name, value=percent(flops.mfu), note=note)


def _noise_tile(noise: Noise, unit: str) -> Tile:
    interval = interval_text(noise, unit)
    note = f"{unit}{preconditioned_text(noise)}, an estimate; {interval}"
    if noise.lower is None:
        return Tile(name="gradient noise scale", value="", note=note, unknown=interval)
    value = "" if noise.noise_scale is None else samples_text(noise.noise_scale, unit)
    note = f"{note}; {trend_text(noise)}"
    return Tile(name="gradient noise scale", value=value, note=note, unknown="the noise hides the gradient")


# Tables


def _attempt_table(report: Report) -> Table:
    numbers, texts, costs = (
        [Column(title=title, is_text=titles is ATTEMPT_TEXTS) for title in heads(titles, report.unit)]
        for titles in (ATTEMPT_NUMBERS, ATTEMPT_TEXTS, ATTEMPT_COSTS)
    )
    no_restart = Cell(text="", unknown="no attempt followed, or the times were not recorded")
    return Table(
        id="attempts",
        caption="Each start of the worker group. A crash, a resize or a return to a checkpoint starts the next "
        f"attempt, planned again from the reference. {report.unit.capitalize()} beyond the start of the next attempt "
        "are trained again, and are in no other number. A restart lasts from an attempt's end to the next attempt's "
        "start.",
        columns=(*numbers, *texts, *costs),
        rows=tuple(
            (*attempt_row(row, report.unit)[:-1], no_restart)
            if row.restart_s is None
            else attempt_row(row, report.unit)
            for row in report.attempts
        ),
    )


def _decision_table(report: Report) -> Table:
    return Table(
        id="decisions",
        caption="What changed the learning rate or the batch during the run, from measurements.",
        columns=(
            Column(title=f"at {report.unit[:-1]}", is_named=True),
            Column(title="attempt", is_named=True),
            Column(title="decision", is_text=True),
        ),
        rows=tuple(
            (count(decision.samples_seen, report.unit), str(decision.attempt), decision_text(decision))
            for decision in report.decisions
        ),
        kind="listed",
    )


def _plan_table(plan: Mapping[str, Any]) -> Table:
    """The plan's numbers with their reasons; also a batch that grows, and groups of parameters."""
    unit = plan.get("unit", "samples")
    rows = [
        (name.replace("samples", unit), _plan_value(name, plan), plan["reasons"].get(name)) for name in PLAN_NUMBERS
    ]
    if len({phase["global_batch_size"] for phase in plan["phases"]}) > 1:
        rows.insert(1, ("phases", phase_text(plan["phases"], unit), "scale.batch_schedule"))
    if "mesh" in plan["reasons"]:
        rows.insert(0, ("mesh", sizes_text(plan["mesh"]), plan["reasons"]["mesh"]))
    if len({phase.get("tokens_per_sample") for phase in plan["phases"]}) > 1:
        rows.insert(1, ("tokens_per_sample", length_text(plan["phases"]), "train.sequence_lengths"))
    if plan["groups"]:
        rows.insert(-1, ("groups", group_text(plan["groups"]), "peak lr at the first batch"))
    no_reason = Cell(text="", unknown="the plan gives no reason")
    return explained(
        "plan",
        f"The plan of the job on {plural(plan['world_size'], 'worker')}, each number with its reason.",
        [(name, value, no_reason if reason is None else str(reason)) for name, value, reason in rows],
    )


def _plan_value(name: str, plan: Mapping[str, Any]) -> str:
    """One of the plan's numbers with its unit."""
    value, unit = plan[name], plan.get("unit", "samples")
    match name:
        case "batch_ratio" | "lr_ratio":
            return ratio(value)
        case "warmup_samples":
            return f"{amount(value, unit)} ({plural(plan['warmup_steps'], 'step')})"
        case "total_samples":
            return f"{amount(value, unit)} ({plural(plan['total_steps'], 'step')})"
        case "global_batch_size":
            return amount(value, unit)
        case "steps_per_epoch":
            return plural(value, "step")
        case "schedule":
            return str(value["name"])
        case "optimizer":
            return ", ".join(filter(None, [str(value["name"]), optimizer_options(value)]))
        case _:
            return option(value)


# Workers


def _marked(report: Report) -> dict[int, str]:
    """The ranks that have verdicts, with the codes of the verdicts."""
    marks: dict[int, list[str]] = {}
    for verdict in report.verdicts:
        if verdict.rank is not None:
            marks.setdefault(verdict.rank, []).append(verdict.code)
    return {rank: ", ".join(codes) for rank, codes in marks.items()}


def _node_text(worker: WorkerRow) -> str:
    """The process and the device of a worker, if they are known."""
    known = [f"pid {worker.pid}" if worker.pid is not None else None, worker.device]
    return ", ".join(part for part in known if part)


def _column(value: float) -> str:
    """A measured number in a column: like ``number``, with trailing zeros, so that the digits are in line.

    Example:
        >>> [_column(value) for value in (0.62, 9.99996, 12.3, 34911.7, 0.0, 0.00002)]
        ['0.6200', '10.00', '12.30', '34,912', '0', '2.000e-05']
    """
    return number(value) if value == 0 or abs(value) >= 999.95 else f"{value:#.4g}".rstrip(".")
