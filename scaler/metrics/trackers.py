"""The trackers of a run, each in a thread of its own: a slow one, or one that is down, holds up nobody.

What a tracker does not take is kept and tried again every ``RETRY_S``; of more than ``KEPT_POINTS`` the oldest are let
go. The first failure of each becomes an event, ``tracking_failed``.
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
CLOSE_S = 10.0  # how long the end of a run waits for all its trackers


class Sink(Protocol):
    """What a tracker's own module has. It is made, and called, in the tracker's thread; any exception may be raised."""

    def write(self, points: Sequence[Point]) -> None:
        """Take points; after an exception the same ones are given again."""

    def close(self, state: RunState | None) -> None:
        """End, and say how the run ended; None: not known."""


def require_installed(tracking: Tracking) -> None:
    """Refuse trackers that are not installed.

    Raises:
        JobFileError: says what to install.
    """
    needs = {"mlflow": _needs_of_mlflow(tracking.mlflow), "wandb": ("wandb",) if tracking.wandb else ()}
    for name, modules in needs.items():
        lacking = [module for module in modules if find_spec(module) is None]
        if lacking:
            raise JobFileError(
                f"tracking.{name} needs {' and '.join(lacking)}, not installed here.",
                f"pip install 'scaler[{name}]'",
            )


def _needs_of_mlflow(mlflow: Mlflow | None) -> Sequence[str]:
    if mlflow is None:
        return ()
    is_database = not mlflow.uri.startswith(("http:", "https:", "databricks"))
    return ("mlflow", "sqlalchemy", "alembic") if is_database else ("mlflow",)


class Trackers:
    """All trackers that a job names.

    Args:
        tracking: of the job.
        folder: the run's folder.
    """

    def __init__(self, tracking: Tracking, folder: RunFolder) -> None:
        self._trackers: list[Tracker] = []
        if tracking.mlflow is not None:
            self._trackers.append(Tracker("mlflow", partial(_mlflow, tracking.mlflow, folder)))
        if tracking.wandb is not None:
            self._trackers.append(Tracker("wandb", partial(_wandb, tracking.wandb, folder)))

    def put(self, points: Sequence[Point]) -> None:
        """Take points, without waiting."""
        for tracker in self._trackers:
            tracker.put(points)

    def failures(self) -> list[TrackingFailed]:
        """Return the events of trackers that have failed since the last time."""
        return [event for tracker in self._trackers if (event := tracker.failure()) is not None]

    def close(self, state: RunState | None) -> None:
        """End all of them, and wait ``CLOSE_S`` at the most."""
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
    """One sink and its thread.

    Args:
        name: of the sink, in events.
        make: makes the sink, in the thread: importing one takes seconds.
    """

    def __init__(self, name: str, make: Callable[[], Sink]) -> None:
        self._name, self._make = name, make
        self._sink: Sink | None = None
        self._kept: deque[Point] = deque(maxlen=KEPT_POINTS)
        self._changed = threading.Condition()
        self._ending = False
        self._state: RunState | None = None
        self._ended = False
        self._problem: str | None = None
        self._is_told = False
        self._thread = threading.Thread(target=self._run, name=f"scaler-{name}", daemon=True)
        self._thread.start()

    def put(self, points: Sequence[Point]) -> None:
        """Take points, without waiting."""
        if points:
            with self._changed:
                self._kept.extend(points)
                self._changed.notify_all()

    def failure(self) -> TrackingFailed | None:
        """Return the event of the first failure, once."""
        with self._changed:
            if self._problem is None or self._is_told:
                return None
            self._is_told = True
            return TrackingFailed(time=time(), attempt=None, sink=self._name, reason=self._problem)

    def end(self, state: RunState | None) -> None:
        """Have it write what is left, and end."""
        with self._changed:
            self._ending, self._state = True, state
            self._changed.notify_all()

    def wait(self, within_s: float) -> None:
        """Wait until it has ended; one that has not is a failure."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._ended, max(0.0, within_s)):
                self._problem = self._problem or f"it had not taken everything {CLOSE_S:g} s after the end"

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._kept or self._ending)
                points, state, is_last = list(self._kept), self._state, self._ending
                self._kept.clear()
            try:
                if self._sink is None:
                    self._sink = self._make()
                if points:
                    self._sink.write(points)
                if is_last:
                    self._sink.close(state)
            except BaseException as error:  # a library may even exit
                self._fail(error, points)
            with self._changed:
                if is_last:
                    self._ended = True
                    self._changed.notify_all()
                    return

    def _fail(self, error: BaseException, points: Sequence[Point]) -> None:
        """Keep what was not taken, before what has come since, and rest."""
        with self._changed:
            self._problem = self._problem or f"{type(error).__name__}: {reason(error)}"
            self._kept = deque([*points, *self._kept], maxlen=KEPT_POINTS)
            self._changed.wait_for(lambda: self._ending, RETRY_S)
