"""What is known of a run whose files are damaged: what a part of its records says is no number of the run."""

from dataclasses import fields, replace

from scaler.report.run.missing_data import find_missing_data
from scaler.report.run.model import Report, Series


def is_whole(report: Report) -> bool:
    """Return whether a run's records and events are all there."""
    return not find_missing_data(report)


def known_part(report: Report) -> Report:
    """Return a report without the numbers that are made of records, where some of those are damaged or left out.

    Evaluations, attempts and the wall clock are told by events and the status: they stay, but where events are missing
    too only the wall clock does. The run's length is then that of its last evaluation, if that is later.
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
