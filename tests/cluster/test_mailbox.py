"""The mailbox with a collector that a test controls: what it keeps, when it thins records, when it waits."""

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread
from time import monotonic, sleep

import pytest
from synthetic import SyntheticRun

from scaler.cluster import collector as collector_module
from scaler.cluster import mailbox as mailbox_module
from scaler.cluster.collector import FORGET_S, UPLOADS_PER_S, Collector
from scaler.cluster.mailbox import LATE_TIMES, MOST_WAITING, THIN_EVERY_S, Mailbox
from scaler.cluster.messages import Upload, UploadBatch, UploadReply
from scaler.runs import RunFolder


class Slow:
    """A collector in this process that takes everything, and answers when the test allows it."""

    def __init__(self) -> None:
        self.uploads: list[tuple[float, Upload]] = []
        self.rest_s = 0.0
        self.may_answer = Event()
        self.may_answer.set()

    def hand_over(self, upload: Upload) -> UploadReply:
        self.uploads.append((monotonic(), upload))
        self.may_answer.wait()
        newest = max([batch.number for batch in upload.batches], default=upload.written)
        return UploadReply(taken=newest, written=newest, leave=None, rest_s=self.rest_s)


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def mailbox(slow: Slow) -> Iterator[Mailbox]:
    made = Mailbox(slow.hand_over, rank=0)
    yield made
    slow.may_answer.set()
    made.close()


def until(holds: Callable[[], bool]) -> None:
    began = monotonic()
    while not holds():
        assert monotonic() - began < 60, "it never happens"
        sleep(0.005)


def be_late(mailbox: Mailbox, slow: Slow) -> None:
    """Have the collector take a batch too late."""
    slow.may_answer.clear()
    seen = len(slow.uploads)
    mailbox.put([], [])
    until(lambda: any(upload.batches for _, upload in slow.uploads[seen:]))
    sleep(2 * mailbox_module.LATE_S)
    slow.may_answer.set()
    assert mailbox.wait_taken(within_s=10)


def test_records_are_not_thinned_for_a_collector_in_time(mailbox: Mailbox) -> None:
    for _ in range(4):
        mailbox.put([], [])
        assert mailbox.wait_written(within_s=10)
    assert mailbox.wanted_steps(1) == 1
    assert mailbox._kept == []


def test_records_are_thinned_when_the_collector_is_late_repeatedly(
    mailbox: Mailbox, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailbox_module, "LATE_S", 0.3)
    for _ in range(LATE_TIMES - 1):
        be_late(mailbox, slow)
    assert mailbox.wanted_steps(1) == 1, "one that was started again is late once"
    be_late(mailbox, slow)
    assert mailbox.wanted_steps(1) == 2
    assert mailbox.wanted_steps(1) == 2, "until the group agrees"
    assert mailbox.wanted_steps(2) == 2, "it gets time to catch up"
    with monkeypatch.context() as later:
        later.setattr(mailbox_module, "monotonic", lambda: monotonic() + THIN_EVERY_S)
        assert mailbox.wanted_steps(2) == 4
    mailbox.put([], [])
    assert mailbox.wait_taken(within_s=10)
    assert mailbox._times_late == 0, "in time again"


def test_a_collector_that_was_started_again_is_late_once(
    mailbox: Mailbox, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailbox_module, "LATE_S", 0.3)
    for _ in range(3):
        be_late(mailbox, slow)
        mailbox.put([], [])
        assert mailbox.wait_taken(within_s=10)
    assert mailbox.wanted_steps(1) == 1


def test_records_are_thinned_when_too_many_wait_whatever_the_reason(
    mailbox: Mailbox, slow: Slow, synthetic_run: SyntheticRun
) -> None:
    one = synthetic_run.attempt(0).records[:1]
    slow.may_answer.clear()
    mailbox.put(one * MOST_WAITING, [])
    assert mailbox.wanted_steps(1) == 1
    mailbox.put(one, [])
    assert mailbox.wanted_steps(1) == 2
    slow.may_answer.set()
    assert mailbox.wait_written(within_s=10)
    assert mailbox.wanted_steps(1) == 1


def test_a_mailbox_rests_as_long_as_the_collector_says_unless_a_reply_is_awaited(mailbox: Mailbox, slow: Slow) -> None:
    slow.rest_s = 1.0
    mailbox.put([], [])
    until(lambda: any(upload.batches for _, upload in slow.uploads))
    until(lambda: mailbox._rest_s == slow.rest_s)
    count = len(slow.uploads)
    for _ in range(4):
        mailbox.put([], [])
        sleep(0.02)
    assert len(slow.uploads) == count, "they wait for each other"
    until(lambda: len(slow.uploads) > count)
    assert len(slow.uploads[-1][1].batches) == 4
    assert slow.uploads[-1][0] - slow.uploads[-2][0] >= slow.rest_s
    mailbox.put([], [])
    waiting = Thread(target=mailbox.wait_taken, kwargs={"within_s": 10})
    began = monotonic()
    waiting.start()
    waiting.join()
    assert monotonic() - began < slow.rest_s


def test_an_idle_worker_asks_no_more_often_than_the_collector_wants(
    mailbox: Mailbox, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailbox_module, "ASK_S", 0.1)
    slow.rest_s = 1.0
    until(lambda: mailbox._rest_s == slow.rest_s)
    count = len(slow.uploads)
    sleep(0.5)
    assert len(slow.uploads) == count


def test_a_batch_is_the_same_after_pickling(synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0)
    for records in (run.records, ()):
        batch = UploadBatch(number=3, attempt=1, samples_seen=64, records=list(records), events=list(run.events))
        assert pickle.loads(pickle.dumps(batch)) == batch


def test_a_thousand_workers_are_asked_for_as_many_uploads_as_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(collector_module, "monotonic", lambda: now)
    collector = Collector(RunFolder(str(tmp_path / "run")))

    def send(rank: int, attempt: int = 0) -> UploadReply:
        return collector.hand_over(
            Upload(
                sender=f"{attempt} of {rank}",
                rank=rank,
                written=0,
                written_to=(attempt, 16),
                batches=[],
                is_awaited=False,
            )
        )

    for rank in range(1000):
        send(rank)
    now += 1
    assert send(0).rest_s == 1000 / UPLOADS_PER_S
    collector.begin_attempt()
    assert len(collector._senders) == 1000
    for attempt in (1, 2, 3):  # 600 s each; nothing is kept of earlier attempts
        now += FORGET_S
        send(0, attempt)
        collector.begin_attempt()
        assert len(collector._senders) == 1
    assert send(0, 3).rest_s == 1 / UPLOADS_PER_S
    assert {attempt for attempt, _ in collector._secured} == {2, 3}
