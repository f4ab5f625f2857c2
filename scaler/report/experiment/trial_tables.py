"""The tables of a search, as text."""

from collections.abc import Sequence

from scaler.report.experiment.sheet import Sheet
from scaler.report.experiment.trial_model import SearchResult, TrialResult
from scaler.report.text.format import number, percent, plural

MOST_ROWS = 500


def trial_sheets(search: SearchResult | None, metric: str | None) -> Sequence[Sheet]:
    """Return the tables of a search; none: the experiment is a matrix."""
    if search is None or metric is None:
        return []
    best = next((row for row in search.trials if row.trial == search.best), None)
    others = [row for row in search.trials if row is not best]
    rows = [*([best] if best is not None else []), *others]
    stopped = sum(row.ended == "stopped" for row in rows)
    return [
        Sheet(
            id="best",
            title="Best setting",
            head=("setting", "to train it"),
            rows=((best.label, search.command or ""),) if best is not None else (),
            is_last_text=True,
            is_prose=True,
        ),
        Sheet(
            id="trials",
            title="Trials",
            note=f"Settings by {search.searcher}, scheduler {search.scheduler}; the best one first, then as they were "
            f"proposed. {stopped:,} of {plural(len(rows), 'trial')} stopped early. Samples: used, and as a share of "
            f"the trial. {metric}: at the last evaluation, and the best of all.",
            head=("setting", "samples", "share", f"last {metric}", "best", "ended"),
            rows=tuple(_row(row) for row in rows[:MOST_ROWS]),
            is_last_text=True,
        ),
        Sheet(
            id="failed-trials",
            title="Trials that failed",
            head=("setting", "why"),
            rows=tuple((row.label, row.problem) for row in rows if row.problem),
            is_last_text=True,
            is_prose=True,
        ),
    ]


def _row(row: TrialResult) -> tuple[str, ...]:
    share = percent(row.samples_seen / row.total_samples) if row.total_samples else "–"
    values = (number(row.last), number(row.best))
    name = row.label if row.copied_from is None else f"{row.label}, from {row.copied_from}"
    return (name, f"{row.samples_seen:,}", share, *values, row.ended or "running")
