"""The collector as a plain object: it writes everything once, and no worker waits for it or fails because of it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import process_time
from typing import Any

import pytest
from made_events import make_event
from synthetic import SyntheticRun

from scaler.cluster import collector as collector_module
from scaler.cluster.collector import STORAGE_PATIENCE_S, UPLOADS_PER_S, Collector
from scaler.cluster.messages import Upload, UploadBatch, UploadReply
from scaler.errors import RunError
from scaler.metrics.reader import read_events, read_records
from scaler.metrics.record import Record
from scaler.runs import RunFolder

Event = Mapping[str, Any]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(str(tmp_path / "run"))
    made.write("status.json", "{}")
    return made


def batch(
    number: int, records: Sequence[Record] = (), events: Sequence[Event] = (), *, reached: int = 0
) -> UploadBatch:
    return UploadBatch(number=number, attempt=0, samples_seen=reached, records=records, events=events)


def send(collector: Collector, *batches: UploadBatch, rank: int = 0, written: int = 0, reached: int = 0) -> UploadReply:
    upload = Upload(
        sender=f"rank {rank}",
        rank=rank,
        written=written,
        written_to=(0, reached),
        batches=batches,
        is_awaited=False,
    )
    return collector.hand_over(upload)


def hand_over(collector: Collector, run: SyntheticRun) -> None:
    for rank in (0, 1):
        records = [record for record in run.records if record.rank == rank]
        send(collector, batch(1, records, run.events if rank == 0 else ()), rank=rank)


def test_what_is_handed_over_is_written_for_every_reader(folder: RunFolder, synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0)
    collector = Collector(folder)
    hand_over(collector, run)
    collector.close()
    assert read_records(folder).num_rows == len(run.records)
    assert read_events(folder) == list(run.events)
    assert len(folder.names("tensorboard")) == 1
    assert collector.status().progress.progress == 200.0


def test_a_folder_that_cannot_be_written_fails_no_worker(
    folder: RunFolder, synthetic_run: SyntheticRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(collector_module, "monotonic", lambda: now)
    collector = Collector(folder)
    (Path(folder.uri) / "tensorboard").write_text("in the way of the folder of that name")
    for _ in range(3):
        now += 1.0
        hand_over(collector, synthetic_run.attempt(0, stop=32))
    assert collector.status().storage == ""
    now += STORAGE_PATIENCE_S
    assert "FileExistsError" in collector.status().storage
    (Path(folder.uri) / "tensorboard").unlink()
    now += 1.0
    assert collector.status().storage == ""
    collector.close()
    assert len(folder.names("tensorboard")) == 1, "what could not be written was kept"


def test_an_error_of_the_storage_is_reported_with_its_remedy_and_without_two_full_stops(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(collector_module, "monotonic", lambda: now)
    collector = Collector(folder)

    def full(*_: object) -> None:
        raise RunError("events.jsonl cannot be written.", "Free space.")

    monkeypatch.setattr(RunFolder, "append_json", full)
    for _ in range(2):
        now += STORAGE_PATIENCE_S
        collector.status()
    now += 1.0
    assert collector.status().storage == "events.jsonl cannot be written"
    assert collector.status().storage_remedy == "Free space."
    monkeypatch.undo()


def test_attempts_are_counted_from_the_records_where_the_events_are_lost(
    folder: RunFolder, synthetic_run: SyntheticRun
) -> None:
    collector = Collector(folder)
    hand_over(collector, synthetic_run.attempt(0))
    collector.close()
    folder.write("events.jsonl", "")
    assert Collector(folder).begin_attempt().attempt == 1


def test_a_new_collector_continues_from_the_folder_and_writes_nothing_twice(
    folder: RunFolder, synthetic_run: SyntheticRun
) -> None:
    """The worker does not know that its first two batches were written, and sends them again with the third."""
    run = synthetic_run.attempt(0)
    records = [record for record in run.records if record.rank == 0]
    resumed = make_event("resumed", time=1.0, from_samples=None, workers=2, changes=[], idle_s=9.0)
    batches = [batch(1, records[:4], run.events[:1]), batch(2, records[4:9]), batch(3, records[9:], run.events[1:])]
    dead = Collector(folder, [resumed])
    assert dead.begin_attempt().attempt == 0
    send(dead, *batches[:2])
    dead._flush()
    born = Collector(folder, [resumed])
    assert send(born, batches[2], written=0).taken == 0, "there is a gap: it is asked for from the start"
    assert send(born, *batches).taken == 3
    born.close()
    assert read_records(folder).column("samples_seen").to_pylist() == [record.samples_seen for record in records]
    assert read_events(folder) == [resumed, *run.events]
    assert born.begin_attempt().attempt == 1
    assert born.status().progress.world_size == 2, "what it saw before it died is seen again"


def test_what_a_dead_collector_did_not_write_is_asked_for_again(folder: RunFolder, synthetic_run: SyntheticRun) -> None:
    records = [record for record in synthetic_run.attempt(0).records if record.rank == 0]
    dead = Collector(folder)
    send(dead, batch(1, records[:4]))
    dead._flush()
    assert send(dead, batch(2, records[4:8])) == UploadReply(taken=2, written=1, leave=None, rest_s=1 / UPLOADS_PER_S)
    born = Collector(folder)  # what was taken died with the other one
    answer = send(born, batch(3, records[8:]), written=1)
    assert answer.taken == 1
    send(born, batch(2, records[4:8]), batch(3, records[8:]), written=1)
    born.close()
    assert read_records(folder).num_rows == len(records)


def test_a_checkpoint_is_secure_when_every_worker_s_records_are_written(folder: RunFolder) -> None:
    collector = Collector(folder)
    send(collector, batch(1, reached=96), rank=0)
    assert not collector.is_secured(0, world_size=2, samples_seen=96), "rank 1 is behind"
    send(collector, batch(1, reached=96), rank=1)
    assert collector.is_secured(0, world_size=2, samples_seen=96)
    assert not collector.is_secured(0, world_size=2, samples_seen=97)
    born = Collector(folder)
    assert not born.is_secured(0, world_size=2, samples_seen=96)
    for rank in (0, 1):  # nothing to send, and the reply says what was written
        send(born, rank=rank, written=1, reached=96)
    assert born.is_secured(0, world_size=2, samples_seen=96)


def test_what_ran_out_of_memory_is_remembered_until_the_job_changes(folder: RunFolder) -> None:
    event = make_event("out_of_memory", time=1.0, attempt=0, rank=1, per_worker_batch_size=12)
    collector = Collector(folder)
    assert collector.begin_attempt().micro_batch_limit is None
    send(collector, batch(1, [], [event]))
    assert collector.begin_attempt().micro_batch_limit == 6
    collector.close()
    same = make_event("resumed", time=2.0, from_samples=0, workers=2, changes=[], idle_s=1.0)
    assert Collector(folder, [same]).begin_attempt().micro_batch_limit == 6
    other = replace(same, time=3.0, changes=[["recipe_args.width", "512", "64"]])
    assert Collector(folder, [other]).begin_attempt().micro_batch_limit is None


def test_a_request_to_leave_lasts_until_the_group_has_left(folder: RunFolder) -> None:
    collector = Collector(folder)
    collector.begin_attempt()
    collector.request_leave("resize", "2 -> 3 workers")
    assert send(collector).leave == "resize"
    collector.begin_attempt(is_new_group=False)
    assert send(collector).leave == "resize", "the same workers went back to a checkpoint"
    collector.begin_attempt()
    assert send(collector).leave is None
    collector.request_leave("stop", "Ctrl-C")
    collector.begin_attempt()
    assert send(collector).leave == "stop", "the run is to end, whoever runs it"
    collector.close()
    noted = [(event.why, event.detail) for event in read_events(folder)]
    assert noted == [("resize", "2 -> 3 workers"), ("stop", "Ctrl-C")]
    assert send(Collector(folder)).leave == "stop", "a collector that died asks again"


def test_failures_before_a_resume_are_not_those_of_the_resumed_run(folder: RunFolder) -> None:
    failed = make_event("worker_failed", time=1.0, attempt=0, rank=0, by_peer=False)
    resumed = make_event("resumed", time=2.0, from_samples=0, workers=2, changes=[], idle_s=1.0)
    first = Collector(folder)
    send(first, batch(1, [], [failed]))
    first.close()
    assert [trouble.kind for trouble in Collector(folder).status().troubles] == ["worker_failed"]
    assert Collector(folder, [resumed]).status().troubles == []
    assert Collector(folder, [resumed]).status().troubles == [], "nor after it died and came back"


def test_taking_records_costs_a_worker_next_to_nothing(folder: RunFolder, synthetic_run: SyntheticRun) -> None:
    """Measured: 4 us a record, in this process; the limit is ten times that."""
    job = synthetic_run.job.model_copy(update={"train": synthetic_run.job.train.model_copy(update={"epochs": 300.0})})
    run = SyntheticRun(job=job, plan=synthetic_run.plan).attempt(0)
    collector = Collector(folder)
    collector._flushed_at = float("inf")  # taking, without writing
    began = process_time()
    hand_over(collector, run)
    assert (process_time() - began) / len(run.records) < 40e-6
    collector.close()
