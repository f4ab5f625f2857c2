"""The tables of an experiment, as text. The terminal, Markdown and the page show the same ones."""

from collections.abc import Sequence

from scaler.core.intervals import Estimate
from scaler.report.experiment.answer import estimate_text, level_text
from scaler.report.experiment.groups import known
from scaler.report.experiment.model import CellResult, Difference, ExperimentReport, GroupResult
from scaler.report.experiment.sheet import Sheet
from scaler.report.experiment.trial_tables import trial_sheets
from scaler.report.text.format import money, number, option, percent, plural, seconds


def sheets(report: ExperimentReport) -> list[Sheet]:
    """Return the tables that have rows, in the order in which they are shown."""
    found = [
        *trial_sheets(report.search, report.metric),
        _quality(report),
        _target(report),
        _sweeps(report),
        _throughput(report),
        _speed(report),
        _lost(report),
        _laws(report),
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
    return Sheet(
        id="quality",
        title=f"Quality: {report.metric} after the same samples" if report.metric else "Quality",
        note=f"Means{of_each}. The difference to the baseline is paired by seed; all intervals together hold "
        f"{level_text(report.level)} (Holm){margin}.",
        head=("setting", "peak lr", *seeds_head, report.metric or "metric", "difference", "verdict"),
        rows=tuple(rows) if report.metric is not None else (),
        is_last_text=True,
    )


def _target(report: ExperimentReport) -> Sheet:
    rows = []
    base = next((group for group in report.groups if group.is_baseline), None)
    has_cost = any(group.cost_to_target is not None for group in report.groups)
    for group in report.groups:
        if group.samples_to_target is None:
            continue
        theirs, time = known(base.time_to_target_s) if base is not None else None, known(group.time_to_target_s)
        samples = _short(group.samples_to_target)
        if group.reached < len(group.seeds):
            samples += f" ({group.reached} of {len(group.seeds)})"
        times = f"{number(theirs / time, 3)}x" if theirs and time else "–"
        row = [setting_text(group), samples, estimate_text(group.efficiency, 2), seconds(time), times]
        if has_cost:
            row.append(money(group.cost_to_target) if group.cost_to_target is not None else "–")
        rows.append(tuple(row))
    head = ("setting", "samples", "samples/sample", "time", "speed-up")
    return Sheet(
        id="target",
        title=f"To {report.metric} {number(report.target)}",
        note="Medians over seeds; in brackets, how many reached it. Samples/sample: the baseline's samples to the "
        f"target over these, paired by seed, with its {level_text(report.level)} interval. Time: from the first step, "
        "evaluations included.",
        head=(*head, "cost") if has_cost else head,
        rows=tuple(rows),
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
        head=("setting", "runs", "samples/s"),
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


def _speed(report: ExperimentReport) -> Sheet:
    rows = [
        (
            f"{row.series}, {row.kind}" + (", oversubscribed" if row.is_oversubscribed else ""),
            f"{row.num_workers}",
            f"{row.repeats}",
            number(row.samples_per_s.value),
            estimate_text(row.speed_up, 2),
            estimate_text(row.efficiency, 2),
        )
        for row in report.speed
    ]
    return Sheet(
        id="speed",
        title="Speed-up",
        note="The first row of a series is the base of its speed-up.",
        head=("series", "workers", "runs", "samples/s", "speed-up", "efficiency"),
        rows=tuple(rows),
    )


def _lost(report: ExperimentReport) -> Sheet:
    rows = [
        (
            row.series,
            f"{row.num_workers}",
            percent(row.data_wait),
            percent(row.sync_wait),
            percent(row.imbalance),
        )
        for row in report.speed
    ]
    return Sheet(
        id="lost",
        title="What was lost",
        note="Shares of the step time, means over workers: waiting for data and for the other workers. Imbalance: by "
        "how much the slowest worker computes longer than the mean.",
        head=("series", "workers", "data", "waiting", "imbalance"),
        rows=tuple(rows),
    )


def _laws(report: ExperimentReport) -> Sheet:
    rows = []
    for law in report.laws:
        values = ", ".join(f"{name} {estimate_text(value)}" for name, value in law.parameters.items())
        add = f" Run {', '.join(map(str, law.add))} workers." if law.add else ""
        rows.append((law.series, law.law, values if law.refusal is None else f"{law.refusal}{add}"))
    return Sheet(
        id="laws",
        title="Laws of scaling",
        head=("series", "law", "fit"),
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


def _seeds(group: GroupResult) -> str:
    return f"{len(group.seeds)}" + (f" ({group.failed} failed)" if group.failed else "")


def _signed(estimate: Estimate) -> str:
    assert estimate.value is not None
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:+.3g}"
    return f"{estimate.value:+.3g} ({estimate.low:+.2g} to {estimate.high:+.2g})"
