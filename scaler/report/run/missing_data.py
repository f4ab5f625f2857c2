"""Verdicts about damaged or missing files, which make the report incomplete."""

from collections.abc import Sequence

from scaler.report.run.model import AttemptRow, Report, Verdict
from scaler.report.text.format import joined, one_line, plural
from scaler.runs import RunState

SHOWN = 3
CODES = ("events_missing", "records_unreadable")


def find_missing_data(report: Report) -> tuple[Verdict, ...]:
    """Return a report's verdicts about damaged or missing files; with any, the numbers are about a part of the run."""
    return tuple(verdict for verdict in report.verdicts if verdict.code in CODES)


def find_missing_events(
    state: RunState, attempts: Sequence[AttemptRow], *, recorded: Sequence[int], unplanned: Sequence[int]
) -> Verdict | None:
    """Return a verdict if attempts have records but no ``attempt_started`` event, so that their start is not known.

    Args:
        state: of the run; while it is running, the newest attempt's start may not be written yet.
        attempts: those with a start in the events.
        recorded: those that have records.
        unplanned: those whose learning rate is not audited, because earlier events are missing.
    """
    known = {row.attempt for row in attempts}
    lost = sorted(set(recorded) - known)
    if not state.is_end and lost and lost[-1] > max(known, default=-1):
        lost.pop()
    if not lost:
        return None
    left_out = [f"the learning rate of {_names(unplanned)}, which followed, is not audited"] if unplanned else []
    whose = "this attempt" if len(lost) == 1 else "these attempts"
    return Verdict(
        code="events_missing",
        rank=None,
        message=f"events.jsonl lacks the start of {_names(lost)}, which recorded steps.",
        evidence=joined(
            f"the records of {whose} are left out of the numbers and of the learning rate audit", *left_out
        ),
        next="The file was emptied, cut off or altered. Restore it from a copy, and report again; until then the "
        "numbers do not cover the whole run.",
    )


def find_unreadable(files: Sequence[str]) -> Verdict | None:
    """Return a verdict about damaged files of records, each as its name and what is wrong; None without any."""
    if not files:
        return None
    rest = [f"{len(files) - SHOWN} more"] if len(files) > SHOWN else []
    were = "was" if len(files) == 1 else "were"
    return Verdict(
        code="records_unreadable",
        rank=None,
        message=f"{plural(len(files), 'file')} of records cannot be read, and {were} skipped.",
        evidence=joined(*(one_line(file) for file in files[:SHOWN]), *rest),
        next="The steps in these files are missing from the numbers of this report; the training and its "
        "checkpoints do not depend on these files. Find out what the storage did, or restore the "
        "files from a copy, and report again.",
    )


def _names(attempts: Sequence[int]) -> str:
    """The numbers of attempts, the first few of them."""
    rest = [f"{len(attempts) - SHOWN} more"] if len(attempts) > SHOWN else []
    *first, last = [*map(str, attempts[:SHOWN]), *rest]
    listed = f"{', '.join(first)} and {last}" if first else last
    return f"attempt{'s' if len(attempts) > 1 else ''} {listed}"
