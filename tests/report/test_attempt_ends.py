"""How attempts ended: a table with the events of one attempt in each row, and the end that is found."""

from typing import Any

import pytest
from made_events import make_event

from scaler.metrics.events import Event
from scaler.report.run.attempt_ends import AttemptEnd, events_by_attempt, find_attempt_end


def made(kind: str, time: float = 100.0, **values: Any) -> Event:
    return make_event(kind, **{"time": time, "attempt": 0, **values})


def hung(rank: int, doing: str = "computing", where: str = "recipe.py:30 in loss", **values: Any) -> Event:
    return made("worker_hung", **{"rank": rank, "seconds": 600.0, "doing": doing, "where": where, **values})


def failed(rank: int, problem: str = "ValueError: no", *, by_peer: bool = False, **values: Any) -> Event:
    return made("worker_failed", rank=rank, error="ValueError", problem=problem, by_peer=by_peer, **values)


def left(why: str, detail: str = "", **values: Any) -> Event:
    return made("leave_requested", why=why, detail=detail, **values)


def ended(*ranks: int, message: str = "", cause: str = "lost", **values: Any) -> Event:
    return made("group_ended", cause=cause, ranks=list(ranks), message=message, **values)


def resumed(*changes: list[str], **values: Any) -> Event:
    return made("resumed", attempt=None, from_samples=64, workers=2, changes=list(changes), idle_s=30.0, **values)


FULL = made("out_of_memory", rank=1, per_worker_batch_size=64)
WAITED = "waiting for the other workers"
STARTED = [made("worker_started", rank=rank, node=f"node-{rank % 2}", pid=rank) for rank in range(3)]


@pytest.mark.parametrize(
    ("events", "ended_by", "cause"),
    [
        # Each kind alone.
        ([hung(1)], "hung", "600 s: computing, recipe.py:30 in loss"),
        ([hung(1, where="", seconds=2.04)], "hung", "rank 1 hung for 2.04 s: computing"),
        ([hung(1, doing="", where="", seconds=None)], "hung", "rank 1 hung"),
        ([FULL], "out_of_memory", "out of memory with 64 samples on rank 1"),
        ([left("resize", "2 -> 3 workers")], "resized", "resized: 2 -> 3 workers"),
        ([left("resize")], "resized", "resized"),
        ([left("preemption", "the node of rank 0")], "preempted", "the node of rank 0 was preempted"),
        ([left("preemption", "rank 0")], "preempted", "the node of rank 0 was preempted"),
        ([left("preemption", "10.0.0.7")], "preempted", "node 10.0.0.7 was preempted"),
        ([left("preemption")], "preempted", "a node was preempted"),
        ([*STARTED, left("preemption", "node-1")], "preempted", "the node of rank 1 was preempted"),
        ([*STARTED, left("preemption", "node-0")], "preempted", "the node of ranks 0 and 2 was preempted"),
        ([left("sigterm", "rank 1")], "terminated", "rank 1 got SIGTERM"),
        ([left("sigterm")], "terminated", "a worker got SIGTERM"),
        ([left("stop")], "stopped", "stopped on request"),
        ([failed(1, "KeyError: 'x'")], "lost", "rank 1 failed: KeyError: 'x'"),
        ([ended(1)], "lost", "rank 1 died"),
        ([ended(2, 0, 1, message="its node died")], "lost", "ranks 0, 1 and 2 died (its node died)"),
        ([ended(message="its node died")], "lost", "a worker died (its node died)"),
        ([ended()], "lost", "a worker died"),
        ([ended(0, cause="yielded", message="saved and left")], "terminated", "the workers left: saved and left"),
        ([failed(0, by_peer=True)], "lost", "rank 0 lost the other workers"),
        ([resumed()], "killed", "the driver was gone; resumed"),
        ([made("diverged", reason="loss is nan", goes_back=True)], "diverged", "loss is nan"),
        # What names the cause is believed before what follows from it.
        ([failed(0, by_peer=True), hung(1), ended(1)], "hung", "600 s: computing, recipe.py:30 in loss"),
        ([FULL, failed(0, by_peer=True), ended(1)], "out_of_memory", "out of memory with 64 samples on rank 1"),
        ([left("resize", "3 -> 2 workers"), ended(0, cause="yielded")], "resized", "resized: 3 -> 2 workers"),
        ([left("preemption", "rank 0"), failed(1, by_peer=True), ended(0)], "preempted", "rank 0 was preempted"),
        ([failed(0, by_peer=True), failed(1), ended(0, 1)], "lost", "rank 1 failed: ValueError: no"),
        ([failed(0, by_peer=True), ended(1)], "lost", "rank 1 died"),
        ([failed(0, by_peer=True), ended(0, 1, message="a peer")], "lost", "rank 1 died"),  # the message: of rank 0
        ([failed(0, by_peer=True), ended(0)], "lost", "rank 0 died"),
        ([made("diverged", reason="loss is nan", goes_back=False), failed(0), failed(1)], "failed", "loss is nan"),
        # Of several that hang, the one that the others wait for; of several wishes, the first.
        ([hung(0, doing=WAITED), hung(2, where=""), hung(1)], "hung", "rank 2 hung for 600 s: computing"),
        ([hung(0, doing=WAITED, where="")], "hung", f"rank 0 hung for 600 s: {WAITED}"),
        ([left("sigterm", "rank 1"), left("preemption", "rank 0")], "terminated", "rank 1 got SIGTERM"),
        # The run was resumed; an error of a worker had ended it.
        ([ended(1), resumed()], "lost", "rank 1 died; resumed"),
        ([failed(1), resumed()], "failed", "rank 1 failed: ValueError: no; resumed"),
        ([failed(1, by_peer=True), resumed()], "lost", "rank 1 lost the other workers; resumed"),
        ([left("stop"), resumed(["train.epochs", "2", "3"])], "stopped", "request; resumed with train.epochs 2 -> 3"),
        ([resumed(*[[name, "1", "2"] for name in "abcde"])], "killed", "with a 1 -> 2, b 1 -> 2, c 1 -> 2 and 2 more"),
        ([resumed(["a", "1", "2"]), resumed(["a", "2", "3"])], "killed", "resumed with a 1 -> 2, a 2 -> 3"),
        # The driver was killed: the workers, ended one after another, report what follows from that.
        ([failed(1, by_peer=True), resumed(driver_seen_at=99.0)], "killed", "the driver was gone; resumed"),
        ([failed(1, by_peer=True), ended(0), resumed(driver_seen_at=99.0)], "killed", "the driver was gone; resumed"),
        ([left("sigterm", "rank 1"), resumed(driver_seen_at=99.0)], "killed", "the driver was gone; resumed"),
        ([ended(1), resumed(driver_seen_at=101.0)], "lost", "rank 1 died; resumed"),  # before the driver was killed
        ([failed(1), resumed(driver_seen_at=99.0)], "failed", "rank 1 failed: ValueError: no; resumed"),
        ([hung(1, where=""), resumed(driver_seen_at=99.0)], "hung", "rank 1 hung for 600 s: computing; resumed"),
        # What came after the group's end was noticed is of an attempt that never began.
        ([ended(1), hung(0, attempt=None)], "lost", "rank 1 died"),
        ([ended(1), left("preemption", "rank 0", attempt=None)], "lost", "rank 1 died"),
        ([resumed(), hung(0, attempt=None)], "killed", "the driver was gone; resumed"),
        ([ended(1, cause="yielded"), left("sigterm", "rank 1")], "terminated", "rank 1 got SIGTERM"),  # reported late
        # Text from outside is one line, and not without end.
        ([failed(1, "ValueError: a\n\n  b\tc")], "lost", "rank 1 failed: ValueError: a b c"),
        ([failed(1, "x" * 999)], "lost", "..."),
    ],
)  # fmt: skip
def test_how_an_attempt_ended(events: list[Event], ended_by: str, cause: str) -> None:
    end = find_attempt_end(events)
    assert end is not None
    assert (end.ended_by, end.cause[-len(cause) :]) == (ended_by, cause)
    assert len(end.cause) <= 160


@pytest.mark.parametrize("events", [[], STARTED, [made("evaluated", values={}), made("checkpointed")]])
def test_an_attempt_without_an_event_about_its_end_has_no_end(events: list[Event]) -> None:
    assert find_attempt_end(events) is None


@pytest.mark.parametrize(
    ("events", "at", "idle_s"),
    [
        ([failed(0, by_peer=True, time=99.0), hung(1, time=101.0), ended(1, time=103.0)], 99.0, 0.0),  # the earliest
        ([ended(1, time=100.0), resumed(time=190.0)], 100.0, 30.0),
        ([resumed(time=190.0)], 160.0, 30.0),  # when it was last at work
        ([resumed(time=190.0), resumed(time=250.0)], 160.0, 60.0),  # the first resume came to nothing
    ],
)
def test_when_an_attempt_ended(events: list[Event], at: float, idle_s: float) -> None:
    end = find_attempt_end(events)
    assert end is not None
    assert (end.at, end.idle_s) == (at, idle_s)


def test_a_run_that_was_trained_to_its_end_was_not_killed() -> None:
    end = find_attempt_end([resumed(["train.epochs", "2", "3"])], finished=True)
    cause = "trained to its end; resumed with train.epochs 2 -> 3"
    assert end == AttemptEnd(ended_by="finished", cause=cause, at=70.0, idle_s=30.0)
    assert find_attempt_end([], finished=True) is None
    other = find_attempt_end([ended(1), resumed()], finished=True)  # died in its last checkpoint
    assert other is not None
    assert other.ended_by == "lost"


def test_a_lost_run_that_nobody_resumed_ended_with_its_driver() -> None:
    echo = [failed(1, by_peer=True)]
    assert find_attempt_end(echo, driver_seen_at=99.0) is None
    other = find_attempt_end(echo, driver_seen_at=101.0)
    assert other is not None
    assert other.ended_by == "lost"


def test_events_belong_to_the_attempt_that_they_name_or_came_in() -> None:
    def start(attempt: int) -> Event:
        return made("attempt_started", attempt=attempt)

    early = failed(0, attempt=None)
    unnamed = left("stop", attempt=None)
    late = failed(1)
    unborn = hung(1, attempt=1)  # attempt 1 never took a step
    again = resumed()
    found = events_by_attempt([early, start(0), unnamed, unborn, again, start(2), late])
    assert found == {0: [start(0), unnamed, again, late], 2: [start(2)]}
