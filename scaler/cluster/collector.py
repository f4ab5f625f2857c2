"""The one process that every worker's records and events go to, and that writes them."""

from collections.abc import Mapping, Sequence
from time import monotonic, time
from typing import Any

from scaler.cluster.progress import Progress, ProgressTracker
from scaler.metrics.record import Record
from scaler.metrics.writer import MetricsWriter
from scaler.runs import RunFolder

FLUSH_S = 0.5


class Collector:
    """Takes what workers hand over, without making them wait; a Ray actor, or a plain object in tests.

    Args:
        folder: the run's folder; this is the one writer of its ``metrics/`` and ``events.jsonl``.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._writer = MetricsWriter(folder)
        self._tracker = ProgressTracker()
        self._attempts = 0
        self._stop_requested = False
        self._failures: list[Mapping[str, Any]] = []
        self._flushed_at = monotonic()

    def begin_attempt(self) -> int:
        """Return the number of the worker group's next life."""
        self._attempts += 1
        return self._attempts - 1

    def hand_over(self, records: Sequence[Record], events: Sequence[Mapping[str, Any]]) -> bool:
        """Take one worker's records and events.

        Returns:
            Whether somebody asked the run to stop: the worker reads it at its next hand-over.
        """
        self._tracker.add(records, events)
        self._writer.add(records)
        for event in events:
            self._writer.add_event(event)
            if event["kind"] == "worker_failed":
                self._failures.append(event)
        self._flush_when_due()
        return self._stop_requested

    def request_stop(self) -> None:
        """Ask the workers to stop at a step that they agree on."""
        self._stop_requested = True
        self._writer.add_event({"kind": "stop_requested", "time": time()})

    def look(self) -> tuple[Progress, list[Mapping[str, Any]]]:
        """Return what is known of the run, and the failures that workers have reported."""
        self._flush_when_due()
        return self._tracker.look(), self._failures

    def close(self) -> None:
        """Write everything that was handed over."""
        self._writer.flush()

    def _flush_when_due(self) -> None:
        if monotonic() - self._flushed_at >= FLUSH_S:
            self._writer.flush()
            self._flushed_at = monotonic()
