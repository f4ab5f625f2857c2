"""A run waits at places for a decision, and follows it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from scaler.cluster.collector import Collector
from scaler.cluster.group import GroupWorker
from scaler.cluster.mailbox import Mailbox
from scaler.cluster.review import is_due, places_between
from scaler.metrics.events import Evaluated
from scaler.runs import RunFolder
from scaler.training.worker_context import Leave


@pytest.mark.parametrize(
    ("first", "ratio", "end", "places"),
    [(100, 3, 1000, [100, 300, 900]), (100, 3, 900, [100, 300]), (1, 1.2, 2, [1, 2]), (50, 2, 50, [])],
)
def test_places_grow_by_a_factor_up_to_the_end(first: float, ratio: float, end: float, places: Sequence[int]) -> None:
    assert places_between(first, ratio, end) == places


def test_a_place_is_due_once() -> None:
    assert is_due([100, 300], before=0, now=100)
    assert not is_due([100, 300], before=100, now=299)
    assert is_due([100, 300], before=110, now=500)


class DecidingGroup:
    """A group of one worker whose collector decides after it was asked ``times``."""

    rank = local_rank = node_rank = 0
    world_size = local_world_size = 1

    def __init__(self, collector: Collector, decision: Any, *, times: int = 3) -> None:
        self._collector, self._decision, self._times = collector, decision, times
        self.asked: list[int] = []
        self.deliver = collector.hand_over

    def decision(self, samples_seen: int) -> Any:
        self.asked.append(samples_seen)
        if len(self.asked) == self._times:
            self._collector.decide(samples_seen, self._decision)
        return self._collector.decision(samples_seen)

    def has_been_terminated(self) -> bool:
        return False

    def preempted_ranks(self) -> Sequence[int]:
        return []


@pytest.mark.parametrize(("decision", "leave"), [("stop", Leave.STOP), ("continue", Leave.NOT)])
def test_a_worker_waits_after_an_evaluation_at_a_place_and_does_what_was_decided(
    tmp_path: Path, decision: str, leave: Leave
) -> None:
    folder = RunFolder(str(tmp_path))
    collector = Collector(folder)
    group: Any = DecidingGroup(collector, decision)
    mailbox = Mailbox(group.deliver, rank=0)
    worker = GroupWorker(group, folder, mailbox, attempt=0, device=None, places=[100])

    def evaluate(samples_seen: int) -> None:
        event = Evaluated(time=0.0, attempt=0, samples_seen=samples_seen, values={"accuracy": 0.5}, seconds=0.1)
        worker.hand_over([], [event], samples_seen=samples_seen)

    evaluate(90)
    assert worker.leave_requested() is Leave.NOT
    assert group.asked == [], "no place"
    evaluate(110)
    assert worker.leave_requested() is leave
    assert group.asked == [110] * 3
    status = collector.status()
    assert (status.progress.evaluated_at, status.progress.evals) == (110, {"accuracy": 0.5})
    evaluate(500)
    assert worker.leave_requested() is Leave.NOT
    assert len(group.asked) == 3, "the place was looked at"
    mailbox.close()
    collector.close()
