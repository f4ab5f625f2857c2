"""A run that is followed and stopped through its folder."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scaler.cluster.progress import CurrentStraggler, Progress, WorkerProgress
from scaler.cluster.progress_file import progress_dict, read_progress
from scaler.runs import RunFolder
from scaler.runs.control import PROGRESS, STOP, RunControl, clear_stop, read_stop, request_stop

WORKER = WorkerProgress(
    rank=0,
    samples_per_s=64.0,
    loss=0.5,
    step_time_s=0.2,
    data_wait_s=0.1,
    compute_s=0.05,
    sync_wait_s=0.05,
    peak_memory_gib=1.5,
)
AT_WORK = Progress(
    attempt=1,
    world_size=2,
    samples_seen=96,
    progress=48.0,
    lr=0.04,
    loss_mean=2.0,
    samples_per_s=32.0,
    evals={"accuracy": 0.5, "loss": None},
    workers=(WORKER, replace(WORKER, rank=1)),
    straggler=CurrentStraggler(rank=1, own_s=0.15, others_s=0.05, waits_for_data=True),
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setattr("scaler.runs.control.WRITE_S", 0.01)
    (tmp_path / "run").mkdir()
    return RunFolder(str(tmp_path / "run"))


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_progress_is_read_as_it_was_written(folder: RunFolder) -> None:
    folder.write_json(PROGRESS, progress_dict(AT_WORK, total_samples=192.0, waiting_for="2 GPUs"))
    found = read_progress(folder)
    assert found is not None
    assert replace(found.progress, workers=tuple(found.progress.workers)) == AT_WORK
    assert (found.total_samples, found.waiting_for, found.schema_version) == (192.0, "2 GPUs", 1)
    assert found.share == 0.25
    # 144 of the reference's samples are left; each takes two samples, as those before did; 32 of them a second.
    assert found.left_s == 9.0


def test_losses_that_are_not_finite_are_null_in_the_file(folder: RunFolder) -> None:
    bad = replace(AT_WORK, loss_mean=math.nan, workers=[replace(WORKER, loss=math.inf)])
    folder.write_json(PROGRESS, progress_dict(bad, total_samples=192.0))
    found = read_progress(folder)
    assert found is not None
    assert (found.progress.loss_mean, found.progress.workers[0].loss) == (None, None)


def test_without_a_readable_file_there_is_no_progress(folder: RunFolder) -> None:
    assert read_progress(folder) is None
    for text in ("{", "[]", '{"progress": 5}', json.dumps({"written_at": "x", "total_samples": 1, "progress": {}})):
        folder.write(PROGRESS, text)
        assert read_progress(folder) is None
    newer = {**progress_dict(AT_WORK, total_samples=192.0), "invented_later": 1}
    folder.write_json(PROGRESS, newer)
    assert read_progress(folder) is not None


def test_the_newest_progress_is_in_the_folder_at_the_end_and_written_when_it_changes(folder: RunFolder) -> None:
    made = []

    def progress(samples: int) -> Callable[[], Any]:
        def make() -> Any:
            made.append(samples)
            return progress_dict(replace(AT_WORK, samples_seen=samples), total_samples=192.0)

        return make

    with RunControl(folder) as control:
        control.show(progress(96))
        until(lambda: folder.exists(PROGRESS))
        time.sleep(0.05)
        assert made == [96]  # it did not change
        control.show(progress(100))
        control.show(progress(104))
    found = read_progress(folder)
    assert found is not None
    assert found.progress.samples_seen == 104


def test_a_request_to_stop_is_seen_and_removed_by_a_resume(folder: RunFolder) -> None:
    assert read_stop(folder) is None
    with RunControl(folder) as control:
        until(lambda: control.stop is None)
        request = request_stop(folder)
        until(lambda: control.stop is not None)
        assert control.stop == request == read_stop(folder)
        assert not request.now
        at_once = request_stop(folder, now=True)
        until(lambda: control.stop == at_once)
    clear_stop(folder)
    clear_stop(folder)
    assert read_stop(folder) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"requested_at": "soon", "by": 5, "now": "no"}'])
def test_an_altered_request_is_still_a_request_to_stop(folder: RunFolder, text: str) -> None:
    folder.write(STOP, text)
    request = read_stop(folder)
    assert request is not None
    assert (request.requested_at, request.by, request.now) == (0.0, "unknown", False)


def test_storage_that_is_away_does_not_end_the_thread(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def away(self: RunFolder, *arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        raise OSError("away")

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write", away)
        patch.setattr(RunFolder, "read_if_there", away)
        control = RunControl(folder)
        control.show(lambda: progress_dict(AT_WORK, total_samples=192.0))
        control.__enter__()
        until(lambda: len(calls) > 4)
    until(lambda: folder.exists(PROGRESS))
    control.__exit__(None, None, None)
