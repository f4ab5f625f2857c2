"""Reading records: all of them, and which of them a later attempt did again."""

from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_events import make_event
from synthetic import SyntheticRun

from scaler.errors import RunError
from scaler.metrics import reader
from scaler.metrics.files import SCHEMA, file_name, parse_records
from scaler.metrics.reader import RunMetrics, mark_lost, read_events, read_records, read_run, with_records
from scaler.metrics.writer import MetricsWriter
from scaler.runs import RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    (tmp_path / "run").mkdir()
    return RunFolder(str(tmp_path / "run"))


def started(*starts: tuple[int, int]) -> list[dict[str, Any]]:
    return [make_event("attempt_started", attempt=attempt, start_samples=at) for attempt, at in starts]


def table(*steps: tuple[int, int]) -> pa.Table:
    """Records of (attempt, samples seen)."""
    return pa.table(
        {
            "attempt": pa.array([attempt for attempt, _ in steps], type=pa.int32()),
            "samples_seen": pa.array([seen for _, seen in steps], type=pa.int64()),
        }
    )


@pytest.mark.parametrize(
    ("starts", "steps", "lost"),
    [
        ([], [(0, 0), (0, 16)], [False, False]),  # no start is known yet
        ([(0, 0)], [(0, 0), (0, 16)], [False, False]),
        ([(0, 0), (1, 16)], [(0, 0), (0, 16), (0, 32), (1, 16)], [False, True, True, False]),
        ([(0, 0), (1, 0)], [(0, 0), (1, 0)], [True, False]),  # it died before any checkpoint
        ([(0, 0), (1, 32), (2, 32)], [(0, 16), (0, 32), (2, 32)], [False, True, False]),  # the second did nothing
        ([(0, 0), (1, 32), (2, 16)], [(0, 0), (0, 16), (1, 32), (2, 16)], [False, True, True, False]),  # further back
        ([(0, 0), (2, 16)], [(1, 0), (1, 16)], [False, True]),  # of an attempt without a start
        ([(1, 16), (0, 0)], [(0, 16), (1, 16)], [True, False]),  # in whatever order the events came
    ],
)
def test_a_record_is_lost_when_a_later_attempt_began_at_or_before_it(
    starts: list[tuple[int, int]], steps: list[tuple[int, int]], lost: list[bool]
) -> None:
    assert mark_lost(table(*steps), started(*starts))["lost"].to_pylist() == lost


@given(attempts=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=6))
def test_of_several_attempts_each_step_survives_at_most_once(attempts: list[tuple[int, int]]) -> None:
    """An attempt is its start, never beyond the end of the one before, and its number of steps."""
    reached, starts, steps = 0, [], []
    for attempt, (wanted, count) in enumerate(attempts):
        begin = min(wanted, reached)
        starts.append((attempt, begin))
        steps += [(attempt, begin + step) for step in range(count)]
        reached = begin + count
    marked = mark_lost(table(*steps), started(*starts))
    kept = [row["samples_seen"] for row in marked.to_pylist() if not row["lost"]]
    assert sorted(kept) == list(range(reached)), "all samples in the last attempt's weights, each once"


def test_a_run_without_records_has_the_column(folder: RunFolder) -> None:
    records = read_records(folder)
    assert (len(records), records.schema) == (0, SCHEMA.append(pa.field("lost", pa.bool_(), nullable=False)))


def test_records_are_read_with_what_was_lost(folder: RunFolder, synthetic_run: SyntheticRun) -> None:
    run = synthetic_run.attempt(0, stop=96).died(1).attempt(1, start=64)
    writer = MetricsWriter(folder)
    writer.add(run.records)
    for event in run.events:
        writer.add_event(event)
    writer.close()
    records = read_records(folder)
    assert sum(records["lost"].to_pylist()) == 2 * 2  # two steps of two workers
    assert read_records(folder, events=read_events(folder)).equals(records)
    assert not any(read_records(folder, events=[])["lost"].to_pylist())


def test_a_storage_that_does_not_let_records_be_read_is_no_damage(folder: RunFolder) -> None:
    assert folder.local_path is not None
    (folder.local_path / "metrics" / "00000000-00000000.parquet").mkdir(parents=True)
    with pytest.raises(RunError, match=r"00000000-00000000.parquet is not a file, but a folder"):
        list(read_run(folder).records.tables())


# A file at a time, from a folder that changes.


@pytest.fixture
def written(folder: RunFolder, synthetic_run: SyntheticRun) -> RunFolder:
    """Three files of records."""
    writer = MetricsWriter(folder)
    for attempt in range(3):
        writer.add(synthetic_run.attempt(attempt).records)
        writer.flush()
    writer.close()
    return folder


def merge(folder: RunFolder, first: int, last: int) -> None:
    """Merge files as a writer does that flushes meanwhile."""
    names = [file_name(at, at) for at in range(first, last + 1)]
    buffer = BytesIO()
    pq.write_table(pa.concat_tables([parse_records(folder.read(name)) for name in names]), buffer)
    folder.write(file_name(first, last), buffer.getvalue())
    for name in names:
        folder.remove(name)


def test_both_readings_give_the_same_rows(written: RunFolder) -> None:
    records = read_run(written).records
    first = [table["attempt"].to_pylist() for table in records.tables(["attempt"])]
    again = [table["attempt"].to_pylist() for table in records.tables()]
    assert [set(attempts) for attempts in first] == [{0}, {1}, {2}]
    assert again == first


def test_small_files_that_were_merged_between_two_readings_are_still_known(written: RunFolder) -> None:
    records = read_run(written).records
    before = list(records.tables())
    merge(written, 0, 1)
    assert list(records.tables()) == before


def test_a_large_file_that_went_between_two_readings_begins_them_again(
    written: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "KEPT_BYTES", 0)
    readings = []

    def read_twice(metrics: RunMetrics) -> list[int]:
        readings.append(len(list(metrics.records.tables(["attempt"]))))
        if len(readings) == 1:
            merge(written, 0, 1)
        return [table.num_rows for table in metrics.records.tables()]

    assert with_records(written, read_twice) == [2 * 28, 28]
    assert readings == [3, 2]


def test_records_that_always_go_are_an_error(written: RunFolder) -> None:
    def read(metrics: RunMetrics) -> None:
        raise reader.RecordsChanged

    with pytest.raises(
        RunError, match=r"^run run: files of records were removed while they were read, 5 times\.\n  .*try again"
    ):
        with_records(written, read)


def test_damage_that_only_the_second_reading_meets_begins_them_again(written: RunFolder) -> None:
    name = file_name(1, 1)
    table = parse_records(written.read(name))
    at = table.schema.get_field_index("lr")  # which the first reading does not look at
    buffer = BytesIO()
    pq.write_table(table.set_column(at, "lr", pa.array([None] * len(table), type=pa.float64())), buffer)
    written.write(name, buffer.getvalue())
    readings = []

    def read_twice(metrics: RunMetrics) -> int:
        readings.append(len(list(metrics.records.tables(["attempt"]))))
        return sum(table.num_rows for table in metrics.records.tables())

    metrics = read_run(written)
    assert with_records(written, read_twice) == 2 * 28
    assert readings == [3, 2]
    list(metrics.records.tables())
    assert metrics.records.unreadable == (f"{name} holds no records: it lacks lr",)
