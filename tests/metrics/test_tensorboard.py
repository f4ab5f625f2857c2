"""What TensorBoard reads: parsed as it parses it, checksums and all."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex
from struct import unpack
from typing import Any, NamedTuple

import pytest
from made_events import make_event
from synthetic import SyntheticRun

from scaler.metrics import curves, tensorboard
from scaler.metrics.curves import STRETCH_POINTS
from scaler.metrics.record import Record
from scaler.metrics.tensorboard import FOLDER
from scaler.metrics.writer import MetricsWriter
from scaler.runs import RunFolder


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> RunFolder:
    return made(str(tmp_path / "run") if request.param == "local" else f"memory://{token_hex(8)}/run")


@pytest.fixture
def local(tmp_path: Path) -> RunFolder:
    return made(str(tmp_path / "run"))


def made(uri: str) -> RunFolder:
    folder = RunFolder(uri)
    folder.write("status.json", "{}")
    return folder


class Point(NamedTuple):
    tag: str
    at: int
    value: float


def events(folder: RunFolder) -> Iterator[Any]:
    """Every event of every file; a file that is cut off or altered is an error."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    for name in folder.names(FOLDER):
        data = folder.read(f"{FOLDER}/{name}")
        while data:
            (size,), (head_sum,) = unpack("<Q", data[:8]), unpack("<I", data[8:12])
            body, (body_sum,) = data[12 : 12 + size], unpack("<I", data[12 + size : 16 + size])
            assert (head_sum, body_sum) == (masked_crc32c(data[:8]), masked_crc32c(body))
            yield Event.FromString(body)
            data = data[16 + size :]


def points(folder: RunFolder) -> list[Point]:
    """What TensorBoard would draw, in the order of the file: a restart takes away what lies behind it."""
    found: list[Point] = []
    for event in events(folder):
        if event.HasField("session_log"):
            found = [point for point in found if point.at < event.step]
        found += [Point(value.tag, event.step, value.simple_value) for value in event.summary.value]
    return found


def curve(folder: RunFolder, tag: str) -> list[tuple[int, float]]:
    return [(point.at, pytest.approx(point.value)) for point in points(folder) if point.tag == tag]


def take(writer: MetricsWriter, run: SyntheticRun, *, attempt: int = 0) -> None:
    """Hand over what rank 1 has, then rank 0's records, then its events: the worst order."""
    for rank in (1, 0):
        writer.add([record for record in run.records if (record.attempt, record.rank) == (attempt, rank)])
    for event in run.events:
        if event.attempt == attempt:
            writer.add_event(event)


def test_every_step_of_a_short_run_is_a_point(folder: RunFolder, synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(
        0,
        loss=lambda rank, seen: 1.0 + rank + seen,
        noise_scale=lambda rank, seen: 50.0 if seen % 100 == 0 else None,
    )
    run = run.evaluated(100, loss=0.5, accuracy=0.25).evaluated(200, loss=0.25, accuracy=None)
    writer = MetricsWriter(folder)
    take(writer, run)
    writer.close()
    seen = [record.samples_seen for record in run.records if record.rank == 0]
    assert curve(folder, "train/loss_mean") == [(at, 1.5 + at) for at in seen]
    assert curve(folder, "train/lr") == [(at, run.plan.lr_at(at)) for at in seen]
    assert curve(folder, "train/noise_scale") == [(0, 50.0), (100, 50.0)]
    assert curve(folder, "eval/loss") == [(100, 0.5), (200, 0.25)]
    assert curve(folder, "eval/accuracy") == [(100, 0.25)]
    assert curve(folder, "train/step_time_s") == [(at, 0.125) for at in seen]
    assert curve(folder, "train/samples_per_s")[:7] == [*((at, 16 / 0.125) for at in seen[:6]), (96, 4 / 0.125)]
    assert {point.tag for point in points(folder)} == {
        "train/loss_mean", "train/lr", "train/noise_scale", "train/samples_per_s", "train/step_time_s", "eval/loss",
        "eval/accuracy",
    }  # fmt: skip


def test_the_mean_is_over_ranks_and_weighted_by_samples(local: RunFolder, synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, stop=16).altered(lambda r: r.rank == 0, loss=1.0, samples=12)
    run = run.altered(lambda r: r.rank == 1, loss=3.0, samples=4)
    writer = MetricsWriter(local)
    take(writer, run)
    writer.close()
    assert curve(local, "train/loss_mean") == [(0, 1.5)]


def test_a_worker_with_nothing_to_do_has_no_part_in_the_mean(local: RunFolder, synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, stop=16).altered(lambda r: r.rank == 1, loss=None, samples=0)
    writer = MetricsWriter(local)
    take(writer, run)
    writer.close()
    assert curve(local, "train/loss_mean") == [(0, 2.0)]


def test_a_step_waits_for_its_last_worker(local: RunFolder, synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, stop=96)
    writer = MetricsWriter(local)
    for event in run.events:
        writer.add_event(event)
    writer.add([record for record in run.records if record.rank == 0])
    writer.flush()
    assert points(local) == []
    assert local.names(FOLDER) == [], "there is nothing to read yet"
    writer.add([record for record in run.records if record.rank == 1][:2])
    writer.flush()
    assert [at for at, _ in curve(local, "train/lr")] == [0, 16]
    writer.close()
    assert [at for at, _ in curve(local, "train/lr")] == [0, 16], "a step without one worker's record is not drawn"


def test_a_reader_sees_a_flush_while_the_file_is_open(local: RunFolder, synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, stop=32)
    writer = MetricsWriter(local)
    take(writer, run)
    writer.flush()
    assert [at for at, _ in curve(local, "train/lr")] == [0, 16]
    writer.close()


def test_a_folder_elsewhere_gets_the_file_every_few_seconds(
    synthetic_run: SyntheticRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(tensorboard, "monotonic", lambda: now)
    folder = RunFolder(f"memory://{token_hex(8)}/run")
    run = synthetic_run.attempt(0)
    writer = MetricsWriter(folder)
    for event in run.events:
        writer.add_event(event)

    def flushed(first: int, last: int) -> int:
        for rank in (0, 1):
            writer.add([record for record in run.records if record.rank == rank][first:last])
        writer.flush()
        return len(curve(folder, "train/lr"))

    assert flushed(0, 1) == 1, "the first at once"
    assert flushed(1, 3) == 1
    now += tensorboard.UPLOAD_S
    assert flushed(3, 4) == 4
    assert flushed(4, 5) == 4
    (place,) = [file._place.parent] if (file := writer._tensorboard._file) is not None else []
    writer.close()
    assert len(curve(folder, "train/lr")) == 5
    assert len(folder.names(FOLDER)) == 1
    assert not place.exists(), "nothing is left on this machine"


def test_work_that_is_done_again_replaces_what_was_drawn(local: RunFolder, synthetic_run: SyntheticRun) -> None:
    # The first attempt reached 96; its evaluation at 64 is of the weights from which the second continues.
    first = synthetic_run.attempt(0, stop=96, loss=9.0).evaluated(64, loss=8.0).evaluated(96, loss=9.0)
    run = first.attempt(1, start=64, stop=132, loss=1.0).evaluated(100, loss=2.0)
    writer = MetricsWriter(local)
    take(writer, run, attempt=0)
    take(writer, run, attempt=1)
    writer.close()
    assert curve(local, "eval/loss") == [(64, 8.0), (100, 2.0)]
    losses = curve(local, "train/loss_mean")
    assert losses[3:] == [(48, 9.0), (64, 9.0), (64, 1.0), (80, 1.0), (96, 1.0), (100, 1.0), (116, 1.0)]
    assert [at for at, _ in losses] == sorted(at for at, _ in losses)


def test_incomplete_steps_of_a_lost_attempt_are_not_mixed_into_the_next(
    local: RunFolder, synthetic_run: SyntheticRun
) -> None:
    run = synthetic_run.attempt(0, stop=32, loss=9.0).attempt(1, start=0, stop=16, loss=1.0)
    writer = MetricsWriter(local)
    for event in run.events:
        if event.attempt == 0:
            writer.add_event(event)
    late = [record for record in run.records if record.attempt == 0 and record.rank == 1]
    writer.add([record for record in run.records if record.attempt == 0 and record.rank == 0])
    take(writer, run, attempt=1)
    writer.add(late)
    writer.close()
    assert curve(local, "train/loss_mean") == [(0, 1.0)]


def record(step: int, loss: float) -> Record:
    return Record(
        attempt=0, rank=0, step=step, samples_seen=16 * step, progress=16.0 * step, lr=0.1, lr_planned=0.1, samples=16,
        loss=loss, step_time_s=0.01, data_wait_s=0.0, compute_s=0.01, sync_wait_s=0.0, grad_norm=1.0,
        peak_memory_gib=0.1, grad_signal=None, grad_variance=None, noise_scale=None,
    )  # fmt: skip


def test_a_long_run_is_thinned_to_means_of_ever_more_steps(local: RunFolder) -> None:
    writer = MetricsWriter(local)
    writer.add_event(make_event("attempt_started", world_size=1))
    writer.add([record(step, float(step)) for step in range(3 * STRETCH_POINTS + 4)])
    writer.close()
    drawn = curve(local, "train/loss_mean")
    assert len(drawn) == 2 * STRETCH_POINTS + 1
    assert drawn[STRETCH_POINTS - 1] == (16 * (STRETCH_POINTS - 1), STRETCH_POINTS - 1)
    assert drawn[STRETCH_POINTS] == (16 * STRETCH_POINTS, STRETCH_POINTS + 0.5), "steps 1000 and 1001"
    assert drawn[-1] == (16 * 3 * STRETCH_POINTS, 3 * STRETCH_POINTS + 1.5), "four steps"


def test_a_point_does_not_wait_long_for_its_stretch(local: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(curves, "monotonic", lambda: now)
    writer = MetricsWriter(local)
    writer.add_event(make_event("attempt_started", world_size=1))
    writer.add([record(step, 1.0) for step in range(STRETCH_POINTS + 1)])
    writer.flush()
    assert len(curve(local, "train/lr")) == STRETCH_POINTS, "the last is half a stretch"
    now += curves.STRETCH_S
    writer.flush()
    assert len(curve(local, "train/lr")) == STRETCH_POINTS + 1
    writer.close()


def test_values_that_are_no_numbers_are_drawn_as_such_and_evaluations_left_out(
    local: RunFolder, synthetic_run: SyntheticRun
) -> None:
    run = synthetic_run.attempt(0, stop=16, loss=float("nan")).evaluated(16, loss=None)
    writer = MetricsWriter(local)
    take(writer, run)
    writer.close()
    ((_, _, loss),) = [point for point in points(local) if point.tag == "train/loss_mean"]
    assert loss != loss
    assert curve(local, "eval/loss") == []


def test_any_name_of_a_metric_can_be_written(local: RunFolder, synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, stop=16).evaluated(16, **{"f1/macro ü": 0.5, "bad\ud800": 0.25})
    writer = MetricsWriter(local)
    take(writer, run)
    writer.close()
    tags = {point.tag for point in points(local) if point.tag.startswith("eval/")}
    assert tags == {"eval/f1/macro ü", "eval/bad?"}


def test_an_event_stands_at_its_own_time(local: RunFolder, synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, stop=16).event("evaluated", 16, values={"loss": 1.0}, time=1234.5)
    writer = MetricsWriter(local)
    take(writer, run)
    writer.close()
    (evaluated,) = [event for event in events(local) if any(v.tag == "eval/loss" for v in event.summary.value)]
    assert evaluated.wall_time == 1234.5


def test_a_second_writer_has_a_file_of_its_own(local: RunFolder, synthetic_run: SyntheticRun) -> None:
    for attempt, run in enumerate((synthetic_run.attempt(0, stop=32), synthetic_run.attempt(1, start=32, stop=64))):
        writer = MetricsWriter(local)
        take(writer, run, attempt=attempt)
        writer.close()
    assert len(local.names(FOLDER)) == 2
    assert sorted(at for at, _ in curve(local, "train/lr")) == [0, 16, 32, 48]


def test_a_full_disk_costs_points_and_not_the_file_after_it(
    local: RunFolder, synthetic_run: SyntheticRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboardX.event_file_writer import EventsWriter

    write_event = EventsWriter.write_event

    def full(writer: EventsWriter, event: Any) -> None:
        if event.file_version:  # the head of the file still went through
            write_event(writer, event)
            return
        writer._py_recordio_writer.close()  # pytest would warn of a file that nobody closes
        raise OSError(28, "No space left on device")

    writer = MetricsWriter(local)
    take(writer, synthetic_run.attempt(0, stop=32))
    with monkeypatch.context() as patched:
        patched.setattr(EventsWriter, "write_event", full)
        with pytest.raises(OSError, match="No space left"):
            writer.flush()
    writer.close()
    assert [at for at, _ in curve(local, "train/lr")] == [0, 16]


def test_writing_does_not_load_torch() -> None:
    code = """
import sys, tempfile
from scaler.metrics.events import Evaluated
from scaler.metrics.writer import MetricsWriter
from scaler.runs import RunFolder
assert "tensorboardX" not in sys.modules
with tempfile.TemporaryDirectory() as place:
    writer = MetricsWriter(RunFolder(place))
    writer.add_event(Evaluated(time=0.0, attempt=0, samples_seen=1, values={"loss": 1.0}, seconds=0.0))
    writer.close()
assert "tensorboardX" in sys.modules
print(*sorted({"torch", "tensorflow", "matplotlib", "PIL"} & set(sys.modules)))
import torch
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
