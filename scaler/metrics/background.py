"""Write a run's records and events in a thread, so that training in the same process does not wait for the storage."""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic

from scaler.errors import RunError, ScalerError
from scaler.job.tracking import Tracking
from scaler.metrics.events import Event
from scaler.metrics.record import Record
from scaler.metrics.writer import MetricsWriter
from scaler.runs import RunFolder, RunState
from scaler.runs.filesystems import RETRY_S, STORAGE_PATIENCE_S, patiently


class BackgroundWriter:
    """Writes what it is given: at once into a folder of this machine, in a thread into remote storage.

    What cannot be written is kept and tried again, for ``STORAGE_PATIENCE_S``.

    Args:
        folder: the run's folder; nothing else writes its records and events.
        tracking: the job's trackers.
        always_in_thread: write in a thread into a folder of this machine, too.
    """

    def __init__(self, folder: RunFolder, tracking: Tracking | None = None, *, always_in_thread: bool = False) -> None:
        self._folder, self._writer = folder, MetricsWriter(folder, tracking)
        self._writes_at_once = folder.local_path is not None and not always_in_thread
        self._changed = threading.Condition()
        self._given: list[tuple[Sequence[Record], Sequence[Event]]] = []
        self._newest, self._written = 0, 0  # numbers of hand-overs
        self._failing_since: float | None = None
        self._error: Exception | None = None
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="scaler-records", daemon=True)
        if not self._writes_at_once:
            self._thread.start()

    def put(self, records: Sequence[Record], events: Sequence[Event]) -> None:
        """Take records and events.

        Raises:
            RunError: the folder cannot be written; in remote storage, it could not for ``STORAGE_PATIENCE_S``.
        """
        with self._changed:
            self._given.append((records, events))
            self._newest += 1
            self._changed.notify_all()
        if self._writes_at_once:
            self._write()
        elif self._is_out_of_patience():
            raise self._failure(self._error)

    def wait_written(self, *, give_up: Callable[[], bool]) -> None:
        """Wait until everything that was put is in the folder.

        Args:
            give_up: asked after each failure; True: do not wait longer.

        Raises:
            RunError: it could not be written until ``give_up``, or for ``STORAGE_PATIENCE_S``.
        """

        def is_over() -> bool:
            return self._failing_since is not None and (give_up() or self._is_out_of_patience())

        with self._changed:
            number = self._newest
            self._changed.wait_for(lambda: self._written >= number or is_over())
            if self._written < number:
                raise self._failure(self._error)

    def close(self, state: RunState | None = None) -> None:
        """Write everything that is left; the trackers get the final ``state`` of the run.

        Raises:
            RunError: it cannot be written.
        """
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if not self._writes_at_once:
            self._thread.join()
        try:
            patiently(self._write, give_up=self._is_out_of_patience)
        except Exception as error:
            with suppress(Exception):  # of the same storage
                self._writer.close(state)
            if self._writes_at_once:
                raise
            raise self._failure(error) from error
        self._writer.close(state)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed or self._written < self._newest)
                if self._is_closed:
                    return
            try:
                self._write()
            except Exception as error:  # each filesystem has its own errors; if they last, ``put`` raises them
                with self._changed:
                    self._error = error
                    self._failing_since = self._failing_since or monotonic()
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._is_closed, RETRY_S)

    def _write(self) -> None:
        with self._changed:
            given, self._given, number = self._given, [], self._newest
        for records, events in given:
            self._writer.add(records)
            for event in events:
                self._writer.add_event(event)
        self._writer.flush()  # keeps what it cannot write
        with self._changed:
            self._written, self._failing_since = number, None
            self._changed.notify_all()

    def _failure(self, error: Exception | None) -> RunError:
        """Return the error for what could not be written to remote storage, with the way to continue."""
        again = f"Then continue: scaler resume {self._folder.run_id}"
        if isinstance(error, ScalerError):
            return RunError(error.problem, f"{error.remedy}\n{again}")
        return RunError(f"run {self._folder.run_id}: its folder cannot be written: {error}.", again)

    def _is_out_of_patience(self) -> bool:
        since = self._failing_since
        return since is not None and monotonic() - since > STORAGE_PATIENCE_S
