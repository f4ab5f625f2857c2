"""The tables of an experiment, as text. The terminal, Markdown and the page show the same ones."""

from collections.abc import Sequence

from scaler.core.intervals import Estimate
from scaler.report.experiment.format import estimate_text, level_text, speed_up_text
from scaler.report.experiment.groups import known
from scaler.report.experiment.model import (
    Alternative,
    CellResult,
    Difference,
    ExperimentReport,
    GroupResult,
    Recommendation,
)
from scaler.report.experiment.scaling_tables import scaling_sheets
from scaler.report.experiment.sheet import Sheet
from scaler.report.experiment.trial_tables import trial_sheets
from scaler.report.text.format import money, number, option, plural, seconds


def sheets(report: ExperimentReport) -> list[Sheet]:
    """Return the tables that have rows, in the order in which they are shown."""
    found = [
        *trial_sheets(report.search, report.metric),
        _alternatives(report),
        _quality(report),
        _target(report),
        _equal(report, "time"),
        _equal(report, "cost"),
        _sweeps(report),
        _throughput(report),
        *scaling_sheets(report),
        _failed(report),
    ]
    return [sheet for sheet in found if sheet.rows]


def setting_text(group: GroupResult) -> str:
    """Return the name of a group in a table; the baseline is marked."""
    return f"{group.label} (baseline)" if group.is_baseline else group.label


def verdict_text(difference: Difference | None) -> str:
    """Return what a difference to the baseline shows; empty: there is nothing to compare with."""
    if difference is None:
        return ""
    return (
        "as good" if difference.is_as_good and difference.verdict in ("equivalent", "undecided") else difference.verdict
    )


def _alternatives(report: ExperimentReport) -> Sheet:
    chosen = report.recommendation
    rows: list[tuple[str, ...]] = []
    if chosen is not None:
        groups = {group.label: group for group in report.groups}
        has_cost = chosen.cost is not None or any(each.cost is not None for each in chosen.alternatives)

        def row(each: Recommendation | Alternative, name: str) -> tuple[str, ...]:
            group = groups[each.label]
            costs = (money(each.cost) if each.cost is not None else "–",) if has_cost else ()
            verdict = "the baseline" if group.is_baseline else verdict_text(group.difference_to_baseline)
            return (name, speed_up_text(group.speed_up), seconds(each.time_s), *costs, verdict)

        rows = [row(chosen, f"{chosen.label} (recommended)"), *(row(each, each.label) for each in chosen.alternatives)]
    costs = ("cost",) if chosen is not None and has_cost else ()
    what = f"to {report.metric} {number(report.target)}" if report.target is not None else "of a run"
    return Sheet(
        id="alternatives",
        title="The recommendation and its alternatives",
        note=f"Speed-up: times as fast as the baseline. Time {what}: medians over seeds.",
        head=("setting", "speed-up", "time", *costs, "verdict"),
        rows=tuple(rows) if len(rows) > 1 else (),
        is_last_text=True,
    )


def _quality(report: ExperimentReport) -> Sheet:
    rows = []
    counts = {(len(group.seeds), group.failed) for group in report.groups}
    for group in report.groups:
        difference = group.difference_to_baseline
        change = "–"
        if difference is not None:
            change = _signed(Estimate(value=difference.mean, low=difference.low, high=difference.high))
        seeds = () if len(counts) == 1 else (_seeds(group),)
        lr = option(group.peak_lr) if group.peak_lr is not None else "–"
        verdict = verdict_text(difference)
        rows.append((setting_text(group), lr, *seeds, number(known(group.final)), change, verdict))
    margin = f"; the margin is {number(report.margin)}" if report.margin is not None else ""
    seeds_head = () if len(counts) == 1 else ("seeds",)
    of_each = f" of {plural(len(report.groups[0].seeds), 'seed')}" if len(counts) == 1 and report.groups else ""
    lengths = {cell.total_samples for cell in report.cells if cell.total_samples is not None}
    when = f"after the same {report.unit}" if len(lengths) < 2 else "at the end of trainings of different lengths"
    return Sheet(
        id="quality",
        title=f"Quality: {report.metric} {when}" if report.metric else "Quality",
        note=f"Means{of_each}. The difference to the baseline is paired by seed; all intervals together hold "
        f"{level_text(report.level)} (Holm){margin}.",
        head=("setting", "peak lr", *seeds_head, report.metric or "metric", "difference", "verdict"),
        rows=tuple(rows) if report.metric is not None else (),
        is_last_text=True,
    )


def _target(report: ExperimentReport) -> Sheet:
    rows = []
    has_cost = any(group.cost_to_target is not None for group in report.groups)
    for group in report.groups:
        if group.samples_to_target is None:
            continue
        samples = _short(group.samples_to_target)
        if group.reached < len(group.seeds):
            samples += f" ({group.reached} of {len(group.seeds)})"
        faster = speed_up_text(group.speed_up)
        row = [setting_text(group), samples, estimate_text(group.efficiency, 2), _time(group.time_to_target_s), faster]
        if has_cost:
            row.append(_cost(group.cost_to_target))
        rows.append(tuple(row))
    head = ("setting", report.unit, "efficiency", "time", "speed-up")
    level = level_text(report.level)
    return Sheet(
        id="target",
        title=f"{report.unit.capitalize()}, time and cost to {report.metric} {number(report.target)}",
        note=f"Medians over seeds with {level} intervals; in brackets after the {report.unit}, how many runs reached "
        f"it. Statistical efficiency: the baseline's {report.unit} over these. Speed-up: the baseline's time over this "
        "one, which is throughput times efficiency. Both are paired by seed. Time: from the first step, evaluations "
        "included.",
        head=(*head, "cost") if has_cost else head,
        rows=tuple(rows),
        droppable=3,
    )


def _equal(report: ExperimentReport, kind: str) -> Sheet:
    budgets = [each for each in report.equal if each.kind == kind]
    amounts = []
    for each in budgets:
        own = seconds(each.amount) if each.unit == "s" else number(each.amount, 3) if each.unit else money(each.amount)
        amounts.append(f"{own} {each.unit}" if each.unit == "worker-s" else own)
    columns = [[number(known(estimate)) for estimate in each.metrics] for each in budgets]
    rows = [
        (setting_text(group), *(column[place] for column in columns), number(known(group.final)))
        for place, group in enumerate(report.groups)
    ]
    whose = ", and ".join(f"{amount}: those of {each.of}" for amount, each in zip(amounts, budgets, strict=True))
    worker_s = (
        " A worker-second is one worker for a second." if any(each.unit == "worker-s" for each in budgets) else ""
    )
    return Sheet(
        id=f"equal-{kind}",
        title=f"{(report.metric or 'metric').capitalize()} at equal {kind}",
        note=f"Means over seeds, after the {kind} that one setting's runs take ({whose}), from the first step on, and "
        f"on a straight line between evaluations. A run that has ended keeps its last value.{worker_s}",
        head=("setting", *(f"at {amount}" for amount in amounts), "at the end"),
        rows=tuple(rows) if budgets else (),
    )


def _throughput(report: ExperimentReport) -> Sheet:
    rows = [
        (setting_text(group), f"{len(group.seeds)}", estimate_text(group.samples_per_s))
        for group in report.groups
        if group.samples_per_s is not None
    ]
    return Sheet(
        id="throughput",
        title="Throughput",
        note=f"Harmonic means with {level_text(report.level)} intervals, without the first tenth of each run.",
        head=("setting", "runs", f"{report.unit}/s"),
        rows=tuple(rows),
    )


def _sweeps(report: ExperimentReport) -> Sheet:
    rows = []
    for row in report.sweeps:
        values = " ".join(
            f"{number(lr, 3)}:{number(metric, 3)}" for lr, metric in zip(row.lrs, row.metrics, strict=True)
        )
        best = f"{number(row.best)}{'' if row.is_inside else ' (edge)'}" if row.best is not None else "–"
        rows.append((row.label, best, values))
    return Sheet(
        id="sweeps",
        title="Learning rates",
        note=f"The peak learning rate with the best {report.metric}, and the mean {report.metric} at each.",
        head=("setting", "best", "lr:metric"),
        rows=tuple(rows),
        is_last_text=True,
        is_prose=True,
    )


def _failed(report: ExperimentReport) -> Sheet:
    cells: Sequence[CellResult] = [cell for cell in report.cells if cell.state not in ("succeeded", "waiting")]
    labels = {number: group.label for group in report.groups for number in group.cells}
    return Sheet(
        id="failed",
        title="Cells without a result",
        head=("setting", "seed", "state", "why"),
        rows=tuple(
            (labels[cell.cell], f"{cell.seed}", cell.state, cell.problem or cell.run_id or "") for cell in cells
        ),
        is_last_text=True,
        is_prose=True,
    )


def _short(estimate: Estimate) -> str:
    """Return a value without its interval; a bound if the value is not known."""
    return estimate_text(estimate) if estimate.value is None else number(estimate.value)


def _time(estimate: Estimate | None) -> str:
    if estimate is None or estimate.value is None:
        return "–"
    bounds = f" ({seconds(estimate.low)} to {seconds(estimate.high)})" if estimate.has_interval else ""
    return seconds(estimate.value) + bounds


def _cost(estimate: Estimate | None) -> str:
    if estimate is None or estimate.value is None:
        return "–"
    low, high = estimate.low, estimate.high
    return money(estimate.value) + (f" ({money(low)} to {money(high)})" if low is not None and high is not None else "")


def _seeds(group: GroupResult) -> str:
    return f"{len(group.seeds)}" + (f" ({group.failed} failed)" if group.failed else "")


def _signed(estimate: Estimate) -> str:
    assert estimate.value is not None
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:+.3g}"
    return f"{estimate.value:+.3g} ({estimate.low:+.2g} to {estimate.high:+.2g})"
