"""With a collector that is too slow, training does not wait, its records cover more steps, and no step is lost."""

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import pytest
from small_runs import Kept, make_job, make_recipe, plan_of

from scaler.cluster import mailbox as mailbox_module
from scaler.cluster.collector import Collector
from scaler.cluster.mailbox import Mailbox
from scaler.cluster.messages import Upload, UploadReply
from scaler.metrics.events import Event
from scaler.metrics.reader import read_events, read_records
from scaler.metrics.record import Record
from scaler.runs import RunFolder
from scaler.training import hand_over
from scaler.training.loop import Training

DELAY_S = 0.3


class SlowCollector:
    """A collector in this process that is slow for each upload."""

    def __init__(self, folder: RunFolder) -> None:
        self.collector = Collector(folder)

    def hand_over(self, upload: Upload) -> UploadReply:
        sleep(DELAY_S)
        return self.collector.hand_over(upload)


class Mailed(Kept):
    """A worker context that hands over through a mailbox."""

    def __init__(self, folder: str, mailbox: Mailbox) -> None:
        super().__init__(0, 1, folder)
        self._mailbox = mailbox

    def hand_over(self, records: Sequence[Record], events: Sequence[Event], *, samples_seen: int) -> None:
        super().hand_over(records, events, samples_seen=samples_seen)
        self._mailbox.put(records, events, attempt=self.attempt, samples_seen=samples_seen)

    def wanted_steps(self, steps: int) -> int:
        return self._mailbox.wanted_steps(steps)


def test_a_collector_that_is_too_slow_gets_fewer_records_and_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailbox_module, "LATE_S", DELAY_S / 3)
    monkeypatch.setattr(mailbox_module, "THIN_EVERY_S", 600.0)  # once is enough here, however slow this machine is
    monkeypatch.setattr(hand_over, "HAND_OVER_S", 0.05)
    monkeypatch.setattr(hand_over, "LONGEST_S", 0.05)
    job = make_job(per_worker_batch_size=16, train={"epochs": 250, "eval_every": {"epochs": 250}})
    folder = RunFolder(str(tmp_path))
    slow = SlowCollector(folder)
    mailbox = Mailbox(slow.hand_over, rank=0)
    training = Training(make_recipe(), job, plan_of(job), Mailed(folder.uri, mailbox))
    put, longest_s = mailbox.put, 0.0

    def timed(*arguments: Any, **named: Any) -> None:
        nonlocal longest_s
        began = perf_counter()
        put(*arguments, **named)
        longest_s = max(longest_s, perf_counter() - began)

    monkeypatch.setattr(mailbox, "put", timed)
    training.run()
    assert mailbox.wait_taken(within_s=20)
    mailbox.close()
    slow.collector.close()
    assert longest_s < DELAY_S, "who hands over does not wait for the collector"
    thinned = [event for event in read_events(folder) if event.kind == "records_thinned"]
    assert [(event.steps, event.reason) for event in thinned] == [(2, "the collector cannot keep up")]
    rows = read_records(folder).sort_by("samples_seen").to_pylist()
    before = [row["steps"] for row in rows if row["samples_seen"] < thinned[0].samples_seen]
    after = [row["steps"] for row in rows if row["samples_seen"] >= thinned[0].samples_seen]
    assert set(before) == {1}
    assert after.count(2) > 0.5 * len(after), "some end where records are handed over"
    assert sum(before) + sum(after) == training.plan.total_steps
    assert sum(row["samples"] for row in rows) == training.plan.total_samples
