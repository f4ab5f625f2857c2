"""The trackers of a run, each in its own thread, so that training never waits for a slow or unreachable one.

Points that a tracker refuses are kept and tried again every ``RETRY_S``; beyond ``KEPT_POINTS`` the oldest are dropped.
The first failure of each tracker becomes an event, ``tracking_failed``.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from time import monotonic, time
from typing import Protocol

from scaler.errors import JobFileError
from scaler.job.tracking import Mlflow, Tracking, Wandb
from scaler.metrics.curves import Point
from scaler.metrics.events import TrackingFailed
from scaler.runs import RunFolder, RunState
from scaler.runs.filesystems import reason

KEPT_POINTS = 10_000
RETRY_S = 30.0
CLOSE_S = 10.0  # most seconds that the end of a run waits for all its trackers


class Sink(Protocol):
    """Writes to one tracker. It is created and called in the tracker's thread, and may raise any exception."""

    def write(self, points: Sequence[Point]) -> None:
        """Write points; after an exception the same points are passed again."""

    def close(self, state: RunState | None) -> None:
        """Close the tracker with the final state of the run; None: not known."""


def require_installed(tracking: Tracking) -> None:
    """Check that the trackers of a job are installed.

    Raises:
        JobFileError: a tracker is not installed; says what to install.
    """
    needs = {"mlflow": _needs_of_mlflow(tracking.mlflow), "wandb": ("wandb",) if tracking.wandb else ()}
    for name, modules in needs.items():
        lacking = [module for module in modules if find_spec(module) is None]
        if lacking:
            raise JobFileError(
                f"tracking.{name} needs {' and '.join(lacking)}, which this Python does not have.",
                f"pip install 'scaler[{name}]'",
            )


def _needs_of_mlflow(mlflow: Mlflow | None) -> Sequence[str]:
    if mlflow is None:
        return ()
    is_database = not mlflow.uri.startswith(("http:", "https:", "databricks"))
    return ("mlflow", "sqlalchemy", "alembic") if is_database else ("mlflow",)


class Trackers:
    """All trackers of a job.

    Args:
        tracking: the job's section ``tracking``.
        folder: the run's folder.
    """

    def __init__(self, tracking: Tracking, folder: RunFolder) -> None:
        self._trackers: list[Tracker] = []
        if tracking.mlflow is not None:
            self._trackers.append(Tracker("mlflow", partial(_mlflow, tracking.mlflow, folder)))
        if tracking.wandb is not None:
            self._trackers.append(Tracker("wandb", partial(_wandb, tracking.wandb, folder)))

    def put(self, points: Sequence[Point]) -> None:
        """Add points, without waiting."""
        for tracker in self._trackers:
            tracker.put(points)

    def failures(self) -> list[TrackingFailed]:
        """Return the events of trackers that failed since the last call."""
        return [event for tracker in self._trackers if (event := tracker.failure()) is not None]

    def close(self, state: RunState | None) -> None:
        """End all trackers, waiting at most ``CLOSE_S``."""
        until = monotonic() + CLOSE_S
        for tracker in self._trackers:
            tracker.end(state)
        for tracker in self._trackers:
            tracker.wait(until - monotonic())


def _mlflow(mlflow: Mlflow, folder: RunFolder) -> Sink:
    from scaler.metrics.mlflow import MlflowSink

    return MlflowSink(mlflow, folder)


def _wandb(wandb: Wandb, folder: RunFolder) -> Sink:
    from scaler.metrics.wandb import WandbSink

    return WandbSink(wandb, folder)


class Tracker:
    """One tracker: its sink and its thread.

    Args:
        name: of the sink, as in events.
        make: creates the sink, called in the thread because the import takes seconds.
    """

    def __init__(self, name: str, make: Callable[[], Sink]) -> None:
        self._name, self._make = name, make
        self._sink: Sink | None = None
        self._kept: deque[Point] = deque(maxlen=KEPT_POINTS)
        self._changed = threading.Condition()
        self._is_closing = False
        self._state: RunState | None = None
        self._ended = False
        self._problem: str | None = None
        self._is_reported = False
        self._thread = threading.Thread(target=self._run, name=f"scaler-{name}", daemon=True)
        self._thread.start()

    def put(self, points: Sequence[Point]) -> None:
        """Add points, without waiting."""
        if points:
            with self._changed:
                self._kept.extend(points)
                self._changed.notify_all()

    def failure(self) -> TrackingFailed | None:
        """Return the event of the first failure, once."""
        with self._changed:
            if self._problem is None or self._is_reported:
                return None
            self._is_reported = True
            return TrackingFailed(time=time(), attempt=None, sink=self._name, reason=self._problem)

    def end(self, state: RunState | None) -> None:
        """Let the thread write the remaining points and end."""
        with self._changed:
            self._is_closing, self._state = True, state
            self._changed.notify_all()

    def wait(self, within_s: float) -> None:
        """Wait until the thread has ended; otherwise note a failure."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._ended, max(0.0, within_s)):
                self._problem = self._problem or f"it had not taken all points {CLOSE_S:g} s after the end of the run"

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._kept or self._is_closing)
                points, state, is_last = list(self._kept), self._state, self._is_closing
                self._kept.clear()
            try:
                if self._sink is None:
                    self._sink = self._make()
                if points:
                    self._sink.write(points)
                if is_last:
                    self._sink.close(state)
            except BaseException as error:  # a library may even call exit
                self._fail(error, points)
            with self._changed:
                if is_last:
                    self._ended = True
                    self._changed.notify_all()
                    return

    def _fail(self, error: BaseException, points: Sequence[Point]) -> None:
        """Keep the refused points in front of newer ones, and wait before the next try."""
        with self._changed:
            self._problem = self._problem or f"{type(error).__name__}: {reason(error)}"
            self._kept = deque([*points, *self._kept], maxlen=KEPT_POINTS)
            self._changed.wait_for(lambda: self._is_closing, RETRY_S)
