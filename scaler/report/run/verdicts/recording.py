"""Verdicts on recording: merged records, and trackers that were not reached."""

from collections.abc import Sequence

from scaler.metrics.events import Event, RecordsThinned, TrackingFailed, of_type
from scaler.report.run.model import Verdict
from scaler.report.text.format import joined, one_line, plural

SHOWN_SINKS = 3


def records_thinned(events: Sequence[Event]) -> Verdict | None:
    """Return a verdict if records stand for several steps, because the collector could not write them fast enough."""
    thinned = of_type(events, RecordsThinned)
    if not thinned:
        return None
    first, most = thinned[0], max(event.steps for event in thinned)
    return Verdict(
        code="records_thinned",
        rank=None,
        message=f"A record stands for up to {plural(most, 'step')}: steps were faster than records could be written.",
        evidence=f"from {plural(first.samples_seen, 'sample')} of attempt {first.attempt} on: {one_line(first.reason)}",
        next="Sums and means stay right; a single slow step or a jump of the loss is less visible. For a record of "
        "each step, give the driver's machine more CPU or faster storage.",
    )


def tracking_failed(events: Sequence[Event]) -> Verdict | None:
    """Return a verdict if a tracker could not be reached; the run continues without it."""
    failed = {event.sink: event for event in of_type(events, TrackingFailed)}  # the newest of each
    if not failed:
        return None
    shown = [f"{one_line(sink)}: {one_line(event.reason)}" for sink, event in list(failed.items())[:SHOWN_SINKS]]
    rest = [f"{len(failed) - SHOWN_SINKS} more"] if len(failed) > SHOWN_SINKS else []
    return Verdict(
        code="tracking_failed",
        rank=None,
        message=f"{plural(len(failed), 'tracker')} did not receive all points; the training did not wait for "
        f"{'it' if len(failed) == 1 else 'them'}.",
        evidence=joined(*shown, *rest),
        next="The run's own records are complete: the report and TensorBoard's files have all curves. Check the "
        "tracker's address and credentials (tracking in the job file).",
    )
