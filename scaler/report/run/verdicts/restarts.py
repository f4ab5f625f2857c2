"""Verdicts on restarts after a fault, and on checkpoints that could not be written or read."""

from collections.abc import Sequence

from scaler.core.unit import Unit
from scaler.metrics.events import AttemptStarted, CheckpointFailed, CheckpointPassedOver, Event, of_type
from scaler.report.run.model import AttemptRow, Verdict
from scaler.report.run.verdicts.evidence import Evidence
from scaler.report.text.format import amount, joined, one_line, plural, seconds

SHOWN_ENDS = 3


def restarts(evidence: Evidence) -> Verdict | None:
    """Return a verdict if a fault ended attempts that others followed; a resize, preemption or stop is no fault."""
    attempts, units = evidence.attempts, evidence.plan.units
    lost = [attempt for attempt in attempts[:-1] if attempt.ended_by in _FAULTS]
    if not lost:
        return None
    counts = {ended_by: sum(row.ended_by == ended_by for row in lost) for ended_by in _FAULTS}
    kinds = {ended_by: count for ended_by, count in counts.items() if count}
    whys = ", ".join(
        f"{count} {_FAULTS[ended_by]}" if len(lost) > 1 else _FAULTS[ended_by] for ended_by, count in kinds.items()
    )
    ends = [
        f"attempt {row.attempt} ended at {_place(units, row.end_samples + row.redone_samples)}{_why(row)}"
        for row in lost[:SHOWN_ENDS]
    ]
    rest = [f"{len(lost) - SHOWN_ENDS} more"] if len(lost) > SHOWN_ENDS else []
    return Verdict(
        code="restarts",
        rank=None,
        message=f"The worker group was restarted {plural(len(lost), 'time')}{':' if len(lost) > 1 else ''} {whys}.",
        evidence=joined(*ends, *rest, _cost(lost, units)),
        next=" ".join(_restart_advice(ended_by, evidence) for ended_by in kinds)
        + " In the final weights no sample is missing, and none is counted twice.",
    )


_FAULTS = {
    "hung": "after a hang",
    "out_of_memory": "after running out of memory",
    "lost": "after the loss of a worker",
    "failed": "after an error",
    "killed": "after the loss of the driver",
}


def _why(row: AttemptRow) -> str:
    return f": {row.cause}" if row.cause is not None else ""


def _place(units: Unit, samples_seen: int) -> str:
    """Return a place in the training as text, in the unit of the job."""
    return amount(units.at(samples_seen), units.many)


def _cost(rows: Sequence[AttemptRow], units: Unit) -> str:
    """Return as text what restarts cost in all."""
    again = sum(units.size(row.redone_samples, at=row.end_samples) for row in rows)
    took = [row.restart_s for row in rows if row.restart_s is not None]
    cost = (
        [f"{amount(again, units.many)} trained again in {seconds(sum(row.redone_s for row in rows))}"] if again else []
    )
    cost += [f"restarting took {seconds(sum(took))}"] if took else []
    return ", ".join(cost) or "no recorded work was trained again"


def _restart_advice(ended_by: str, evidence: Evidence) -> str:
    """Return the next step for one kind of fault."""
    match ended_by:
        case "hung" if evidence.has_log():
            where = f"scaler logs {evidence.run_id} --rank N."
            return f"Read the log of the rank that hung, which has the stack trace: {where}"
        case "out_of_memory":
            fits = evidence.attempts[-1].per_worker_batch_size
            fitted = f": the last attempt ran with {fits}" if fits is not None else ""
            return f"Start with a smaller scale.per_worker_batch_size{fitted}."
        case "failed" if evidence.has_log():
            return f"Read the log of the rank that failed: scaler logs {evidence.run_id} --rank N."
        case "hung" | "failed":
            return "Read the workers' output in the terminal where the run was started."
        case "killed":
            return "Find out why the driver process ended: look at its machine and its terminal."
        case _:
            return "Check the cluster's nodes and the workers' memory."


def checkpoint_passed_over(events: Sequence[Event]) -> Verdict | None:
    """Return a verdict if a checkpoint could not be read, with the checkpoint that was used instead."""
    bad = [(index, event) for index, event in enumerate(events) if isinstance(event, CheckpointPassedOver)]
    if not bad:
        return None
    shown = [f"at {plural(event.samples_seen, 'sample')}: {one_line(event.reason)}" for _, event in bad[-SHOWN_ENDS:]]
    starts = [start.start_samples for start in of_type(events[bad[-1][0] :], AttemptStarted)]
    were = "was" if len(bad) == 1 else "were"
    continued = []
    if starts:
        at = f"the checkpoint at {plural(starts[0], 'sample')}" if starts[0] else "the start of training"
        continued = [f"continued from {at}"]
    return Verdict(
        code="checkpoint_passed_over",
        rank=None,
        message=f"{plural(len(bad), 'checkpoint')} could not be read, and {were} skipped.",
        evidence=joined(*shown, *continued),
        next="Find out how the storage damaged the file, which is kept under the name *.bad. The samples after the "
        "previous checkpoint were trained again.",
    )


def checkpoint_failed(events: Sequence[Event]) -> Verdict | None:
    """Return a verdict if checkpoints could not be written; the training continues without them."""
    failed = of_type(events, CheckpointFailed)
    if not failed:
        return None
    last = failed[-1]
    return Verdict(
        code="checkpoint_failed",
        rank=None,
        message=f"{plural(len(failed), 'checkpoint')} could not be written; the training continued.",
        evidence=f"the last at {plural(last.samples_seen, 'sample')}: {one_line(last.reason)}",
        next="Free disk space in the run's storage, and check that it can be written to: a restart continues from the "
        "newest checkpoint that was written.",
    )
