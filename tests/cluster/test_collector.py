"""The collector as a plain object: what it takes it writes, and nobody waits for it or fails with it."""

from pathlib import Path
from time import perf_counter

import pytest
from synthetic import SyntheticRun

from scaler.cluster import collector as collector_module
from scaler.cluster.collector import STORAGE_PATIENCE_S, Collector
from scaler.metrics.reader import read_events, read_records
from scaler.runs import RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(str(tmp_path / "run"))
    made.write("status.json", "{}")
    return made


def hand_over(collector: Collector, run: SyntheticRun) -> None:
    for rank in (0, 1):
        events = [event for event in run.events if rank == 0]
        collector.hand_over([record for record in run.records if record.rank == rank], events)


def test_what_is_handed_over_is_written_for_every_reader(folder: RunFolder, synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0)
    collector = Collector(folder)
    hand_over(collector, run)
    collector.close()
    assert read_records(folder).num_rows == len(run.records)
    assert read_events(folder) == list(run.events)
    assert len(folder.names("tensorboard")) == 1
    assert collector.look().progress.progress == 200.0


def test_a_folder_that_takes_nothing_fails_no_worker(
    folder: RunFolder, synthetic_run: SyntheticRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(collector_module, "monotonic", lambda: now)
    collector = Collector(folder)
    (Path(folder.uri) / "tensorboard").write_text("in the way of the folder of that name")
    for _ in range(3):
        now += 1.0
        hand_over(collector, synthetic_run.attempt(0, stop=32))
    assert collector.look().storage == ""
    now += STORAGE_PATIENCE_S
    assert "FileExistsError" in collector.look().storage
    (Path(folder.uri) / "tensorboard").unlink()
    now += 1.0
    assert collector.look().storage == ""
    collector.close()
    assert len(folder.names("tensorboard")) == 1, "what could not be written was kept"


def test_taking_records_costs_a_worker_next_to_nothing(folder: RunFolder, synthetic_run: SyntheticRun) -> None:
    """Measured: 4 us a record, all of it in this process; ten times that is the alarm."""
    job = synthetic_run.job.model_copy(update={"train": synthetic_run.job.train.model_copy(update={"epochs": 300.0})})
    run = SyntheticRun(job=job, plan=synthetic_run.plan).attempt(0)
    collector = Collector(folder)
    collector._flushed_at = float("inf")  # taking, without writing
    began = perf_counter()
    hand_over(collector, run)
    assert (perf_counter() - began) / len(run.records) < 40e-6
    collector.close()
