"""The one process that every worker's records and events go to, and that writes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic, time
from typing import Any

from scaler.cluster.progress import Progress, ProgressTracker
from scaler.metrics.record import Record
from scaler.metrics.writer import MetricsWriter
from scaler.runs import RunFolder

FLUSH_S = 0.5
STORAGE_PATIENCE_S = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What the collector knows of a run."""

    progress: Progress
    failures: Sequence[Mapping[str, Any]]  # what workers have reported
    storage: str  # why the run's folder has not taken records for ``STORAGE_PATIENCE_S``; empty when it does


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
        self._unwritten_since: float | None = None
        self._problem = ""

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

    def look(self) -> Look:
        """Return what is known of the run."""
        self._flush_when_due()
        failing = self._unwritten_since is not None and monotonic() - self._unwritten_since > STORAGE_PATIENCE_S
        return Look(progress=self._tracker.look(), failures=self._failures, storage=self._problem if failing else "")

    def close(self) -> None:
        """Write everything that was handed over, for the last time."""
        self._writer.close()

    def _flush_when_due(self) -> None:
        """Write what is there, about twice a second. What cannot be written is kept, and tried again."""
        if monotonic() - self._flushed_at < FLUSH_S:
            return
        self._flushed_at = monotonic()
        try:
            self._writer.flush()
            self._unwritten_since = None
        except Exception as error:  # any filesystem's own; the driver ends the run when it lasts
            self._unwritten_since = self._unwritten_since or monotonic()
            self._problem = f"{type(error).__name__}: {error}"
