"""Reports of runs with damaged files, without the numbers that their records would give."""

from dataclasses import fields, replace

from scaler.report.run.missing_data import find_missing_data
from scaler.report.run.model import Report, Series


def is_whole(report: Report) -> bool:
    """Return whether all records and events of a run can be read."""
    return not find_missing_data(report)


def known_part(report: Report) -> Report:
    """Return a report without the numbers that come from records, if some of its records are damaged or missing.

    Evaluations, attempts and the wall clock come from events and the status and stay; if events are missing too, only
    the wall clock stays. The length of the run is then at least that of its last evaluation.
    """
    if is_whole(report):
        return report
    has_events = all(verdict.code != "events_missing" for verdict in find_missing_data(report))
    empty = Series(**{field.name: () for field in fields(Series) if field.name != "evals"}, evals={})
    places = report.series.eval_samples_seen
    if has_events:
        empty = replace(
            empty,
            eval_samples_seen=places,
            eval_elapsed_s=(None,) * len(places),
            evals=report.series.evals,
        )
    return replace(
        report,
        totals=replace(
            report.totals,
            samples_seen=max([report.totals.samples_seen, *places]),
            steps=0,
            train_s=0.0,
            samples_per_s=None,
        ),
        workers=(),
        budget=None,
        cost=None,
        scaling=None,
        flops=None,
        final=replace(report.final, train_loss_mean=None, eval=report.final.eval if has_events else {}),
        attempts=report.attempts if has_events else (),
        series=empty,
    )
