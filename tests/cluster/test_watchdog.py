"""The watchdog on threads of this process; that it saves a run is tested in test_ray_run.py."""

import threading
import time
from collections.abc import Iterator
from queue import Queue
from typing import Any

import pytest

from scaler.cluster.watchdog import EXIT_CODE, Watchdog, innermost_place
from scaler.metrics.events import COMPUTING, WAITING
from scaler.training.activity import Activity

TIMEOUT_S = 0.2


@pytest.fixture
def reports() -> Queue[Any]:
    return Queue()


@pytest.fixture
def watchdog(reports: Queue[Any], capfd: pytest.CaptureFixture[str]) -> Iterator[Watchdog]:
    made = Watchdog(TIMEOUT_S, on_hang=lambda *hang: reports.put(hang), end=reports.put)
    yield made
    made.stop()


def test_a_worker_that_does_one_thing_for_too_long_is_named_and_ended(
    watchdog: Watchdog, reports: Queue[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    watchdog.now("building the recipe")
    time.sleep(2 * TIMEOUT_S)
    seconds, doing, where = reports.get(timeout=60)
    assert doing == "building the recipe"
    assert seconds > TIMEOUT_S
    assert where.startswith("test_watchdog.py:")
    assert where.endswith(" in test_a_worker_that_does_one_thing_for_too_long_is_named_and_ended")
    assert reports.get(timeout=60) == EXIT_CODE
    log = capfd.readouterr().err
    assert "scaler: building the recipe for 0." in log
    assert "test_watchdog.py" in log, "the stacks of all threads"


def test_a_worker_that_makes_progress_is_left_alone(reports: Queue[Any]) -> None:
    timeout_s = 1.0  # long enough that a busy machine does not hold this thread up for as long
    watchdog, activity = Watchdog(timeout_s, on_hang=lambda *hang: reports.put(hang), end=reports.put), Activity()
    watchdog.follow(activity)
    for _ in range(12):
        activity.begin(COMPUTING)
        time.sleep(timeout_s / 8)
    watchdog.stop()
    assert reports.empty()


def test_a_worker_that_waits_for_others_gives_them_time_to_be_found_first(
    watchdog: Watchdog, reports: Queue[Any]
) -> None:
    watchdog.now(WAITING)
    seconds, doing, _ = reports.get(timeout=60)
    assert doing == WAITING
    assert seconds > 2 * TIMEOUT_S


def test_without_a_time_out_nothing_is_watched(reports: Queue[Any]) -> None:
    threads = threading.active_count()
    Watchdog(None, on_hang=reports.put, end=reports.put).now("building the recipe")
    assert threading.active_count() == threads


def test_a_worker_that_cannot_report_is_ended_nevertheless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scaler.cluster.watchdog.REPORT_S", 0.1)
    ended: Queue[int] = Queue()
    made = Watchdog(0.05, on_hang=lambda *hang: time.sleep(30), end=ended.put)
    assert ended.get(timeout=60) == EXIT_CODE
    made.stop()


def test_the_place_is_the_user_s_own_and_not_a_library_s() -> None:
    frames: list[Any] = []

    class Key:
        def __lt__(self, other: object) -> bool:
            import sys

            frames.append(sys._getframe())
            return False

    import heapq

    heapq.heapify([Key(), Key()])
    assert innermost_place(frames[0]).endswith(" in __lt__")
    event = threading.Event()
    waiting = threading.Thread(target=event.wait)
    waiting.start()
    import sys

    assert innermost_place(sys._current_frames()[waiting.ident or 0]).startswith("threading.py:")
    event.set()
    waiting.join()
    assert innermost_place(None) == "a thread that has ended"
