"""Trackers: whatever they do, neither the records nor the run wait for them or fail with them."""

import threading
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

import pytest
from synthetic import SyntheticRun

from scaler.errors import JobFileError
from scaler.job.tracking import Mlflow, Tracking, Wandb
from scaler.metrics import trackers
from scaler.metrics.curves import Point
from scaler.metrics.reader import read_events
from scaler.metrics.trackers import Tracker, require_installed
from scaler.metrics.writer import MetricsWriter
from scaler.runs import RunFolder, RunState


def point(number: int) -> Point:
    return Point(number, 1000.0, {"train/lr": 0.1})


class Taker:
    """A sink that remembers its points and fails a given number of times."""

    def __init__(self, failures: int = 0) -> None:
        self.failures, self.taken, self.states = failures, list[int](), list[RunState | None]()

    def write(self, points: Sequence[Point]) -> None:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("nobody answers.")
        self.taken += [point.samples_seen for point in points]

    def close(self, state: RunState | None) -> None:
        self.states.append(state)


def test_refused_points_are_written_again_and_the_failure_is_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "RETRY_S", 0.01)
    sink = Taker(failures=2)
    tracker = Tracker("mlflow", lambda: sink)
    tracker.put([point(0), point(1)])
    tracker.put([point(2)])
    tracker.end(RunState.SUCCEEDED)
    tracker.wait(10.0)
    failure = tracker.failure()
    assert failure is not None
    assert (failure.sink, failure.reason) == ("mlflow", "ConnectionError: nobody answers")
    assert tracker.failure() is None


def test_a_tracker_that_comes_back_gets_everything_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "RETRY_S", 0.01)
    sink = Taker(failures=3)
    tracker = Tracker("mlflow", lambda: sink)
    for number in range(5):
        tracker.put([point(number)])
    until = monotonic() + 60
    while len(sink.taken) < 5 and monotonic() < until:
        threading.Event().wait(0.01)
    tracker.end(RunState.FAILED)
    tracker.wait(10.0)
    assert (sink.taken, sink.states) == ([0, 1, 2, 3, 4], [RunState.FAILED])


def test_a_tracker_that_hangs_holds_up_neither_the_writer_nor_the_end(
    tmp_path: Path, synthetic_run: SyntheticRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "CLOSE_S", 0.2)
    released = threading.Event()

    class Hanging(Taker):
        def write(self, points: Sequence[Point]) -> None:
            released.wait(60)

    monkeypatch.setattr(trackers, "_mlflow", lambda mlflow, folder: Hanging())
    run = synthetic_run.attempt(0)
    folder = RunFolder(str(tmp_path / "run"))
    writer = MetricsWriter(folder, Tracking(mlflow=Mlflow(uri="http://nowhere")))
    began = monotonic()
    for event in run.events:
        writer.add_event(event)
    writer.add(run.records)
    writer.flush()
    writer.close(RunState.SUCCEEDED)
    assert monotonic() - began < 60.0, "the tracker hangs until it is released below"
    released.set()
    (failed,) = [event for event in read_events(folder) if event.kind == "tracking_failed"]
    assert (failed.sink, failed.attempt) == ("mlflow", 0)
    assert failed.reason == "it had not taken all points 0.2 s after the end of the run"


def test_what_is_kept_for_a_tracker_that_is_down_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = Taker(failures=1)
    tracker = Tracker("mlflow", lambda: sink)  # it rests for 30 s after its first failure
    for number in range(3 * trackers.KEPT_POINTS):
        tracker.put([point(number)])
    assert len(tracker._kept) <= trackers.KEPT_POINTS
    tracker.end(None)
    tracker.wait(10.0)
    assert len(tracker._kept) <= trackers.KEPT_POINTS


@pytest.mark.parametrize(
    ("tracking", "message"),
    [
        (
            Tracking(wandb=Wandb(project="p")),
            "tracking.wandb needs wandb, which this Python does not have.\n  pip install 'scaler[wandb]'",
        ),
        (
            Tracking(mlflow=Mlflow(uri="sqlite:///m.db")),
            "tracking.mlflow needs mlflow and sqlalchemy and alembic, which this Python does not have.\n"
            "  pip install 'scaler[mlflow]'",
        ),
    ],
)
def test_a_tracker_that_is_not_installed_is_refused(
    tracking: Tracking, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(JobFileError) as refused:
        require_installed(tracking)
    assert str(refused.value) == message
    require_installed(Tracking())
