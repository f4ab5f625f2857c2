"""The tables of strong and weak scaling, what was lost, and the laws."""

from collections.abc import Callable

from scaler.report.experiment.format import estimate_text, level_text, speed_up_text
from scaler.report.experiment.model import ExperimentReport, HeldOut
from scaler.report.experiment.sheet import Sheet
from scaler.report.text.format import percent, seconds


def scaling_sheets(report: ExperimentReport) -> list[Sheet]:
    """Return the tables about numbers of workers."""
    return [_strong(report), _weak(report), _lost(report), _laws(report)]


def _strong(report: ExperimentReport) -> Sheet:
    rows = _scaling_rows(report, "strong")
    return Sheet(
        id="strong",
        title="Strong scaling: more workers for the same global batch",
        note=f"Speed-up: times the throughput of the fewest workers, with {level_text(report.level)} intervals; ideal "
        "is the number of workers over theirs. Efficiency: speed-up over that ideal.",
        head=("series", "workers", "runs", f"{report.unit}/s", "speed-up", "efficiency"),
        rows=rows,
        droppable=3,
    )


def _weak(report: ExperimentReport) -> Sheet:
    rows = _scaling_rows(report, "weak")
    return Sheet(
        id="weak",
        title="Weak scaling: the same batch for each worker",
        note="The global batch grows with the workers, and a step ideally takes the same time. Throughput: times that "
        "of the fewest workers. Efficiency: the time of a step on the fewest workers over that on these, ideally 1. It "
        "does not say whether the larger batch trains as well: see quality.",
        head=("series", "workers", "runs", f"{report.unit}/s", "throughput", "efficiency"),
        rows=rows,
        droppable=3,
    )


def _scaling_rows(report: ExperimentReport, kind: str) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (
            row.series + (", oversubscribed" if row.is_oversubscribed else ""),
            f"{row.num_workers}",
            f"{row.repeats}",
            estimate_text(row.samples_per_s),
            speed_up_text(row.speed_up),
            estimate_text(row.efficiency, 2),
        )
        for row in report.speed
        if row.kind == kind
    )


def _lost(report: ExperimentReport) -> Sheet:
    rows = [
        (
            f"{row.series}, {row.kind}",
            f"{row.num_workers}",
            percent(row.data_wait),
            percent(row.sync_wait),
            percent(row.imbalance),
            percent(row.tail),
        )
        for row in report.speed
    ]
    return Sheet(
        id="lost",
        title="What was lost",
        note="Data, waiting: shares of the step time, means over workers, in which a worker waits for data and for the "
        "other workers. Imbalance: by how much the slowest worker computes longer than the mean. Tail: the share of "
        "the places in all steps without a sample, because the batch does not divide evenly or an epoch's last step is "
        "short.",
        head=("series", "workers", "data", "waiting", "imbalance", "tail"),
        rows=tuple(rows),
    )


def _laws(report: ExperimentReport) -> Sheet:
    rows = []
    for law in report.laws:
        values = ", ".join(f"{name} {estimate_text(value)}" for name, value in law.parameters.items())
        add = f" Run {', '.join(map(str, law.add))} workers." if law.add else ""
        fit = values if law.refusal is None else f"{law.refusal}{add}"
        if law.held_out is not None:
            fit += f". {held_out_text(law.held_out, f'{law.held_out.place} workers', seconds)}"
        rows.append((law.series, f"{law.law} ({law.kind})", fit))
    return Sheet(
        id="laws",
        title="Laws of scaling",
        note="Fitted to the mean step time of each number of workers.",
        head=("series", "law", "fit"),
        rows=tuple(rows),
        is_last_text=True,
        is_prose=True,
    )


def held_out_text(held_out: HeldOut, place: str, say: Callable[[float | None], str]) -> str:
    """Return what a fit predicted for the point that was left out of it.

    Args:
        held_out: the prediction.
        place: what was left out, such as ``8 workers``.
        say: writes a value.
    """
    found = held_out.predicted
    bounds = f" ({say(found.low)} to {say(found.high)})" if found.has_interval else ""
    inside = "inside" if held_out.is_inside else "outside"
    return (
        f"Fitted without {place}, it predicts {say(found.value)}{bounds} there; measured "
        f"{say(held_out.measured)}, {inside} the interval."
    )
