"""Records to Parquet and back: exactly once, at any moment, whatever a kill leaves behind."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from secrets import token_hex

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_events import make_event

from scaler.errors import RunError
from scaler.metrics import writer as writer_module
from scaler.metrics.files import FOLDER, SCHEMA, file_ranges, read_file
from scaler.metrics.reader import newest_samples, read_events, read_records, require_readable
from scaler.metrics.record import COLUMNS, Record
from scaler.metrics.writer import MERGE, MetricsWriter
from scaler.runs import RunFolder


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> RunFolder:
    return RunFolder(str(tmp_path / "run") if request.param == "local" else f"memory://{token_hex(8)}/run")


@pytest.fixture
def local(tmp_path: Path) -> RunFolder:
    return RunFolder(str(tmp_path / "run"))


def record(step: int, rank: int = 0, loss: float | None = 0.5) -> Record:
    return Record(
        attempt=0,
        rank=rank,
        step=step,
        samples_seen=16 * step,
        progress=16.0 * step,
        lr=0.1,
        lr_planned=0.1,
        samples=16,
        loss=loss,
        step_time_s=0.01,
        data_wait_s=0.001,
        compute_s=0.006,
        sync_wait_s=0.002,
        grad_norm=0.5,
        peak_memory_gib=0.25,
        grad_signal=None,
        grad_variance=None,
        noise_scale=None,
    )


def read(folder: RunFolder) -> list[Record]:
    return [Record(**row) for row in read_records(folder).drop_columns("lost").to_pylist()]


def write_one_by_one(writer: MetricsWriter, steps: range) -> None:
    for step in steps:
        writer.add([record(step)])
        writer.flush()


def test_the_schema_has_the_columns_of_the_record() -> None:
    assert tuple(SCHEMA.names) == Record._fields == tuple(column.name for column in COLUMNS)
    assert {field.name for field in SCHEMA if field.nullable} == {
        name for name, hint in Record.__annotations__.items() if "None" in str(hint)
    }
    assert {str(field.type) for field in SCHEMA} == {"int32", "int64", "double"}


def test_a_file_without_a_column_is_damaged(local: RunFolder) -> None:
    table = pa.Table.from_pylist([record(0)._asdict()], schema=SCHEMA).drop_columns(["lr", "cpu_s"])
    pq.write_table(table, buffer := BytesIO())
    local.write(f"{FOLDER}/00000000-00000000.parquet", buffer.getvalue())
    with pytest.raises(RunError, match="holds no records: it lacks lr, cpu_s"):
        read_records(local)


def test_records_come_back_as_they_went(folder: RunFolder) -> None:
    writer = MetricsWriter(folder)
    rows = [record(0), record(0, rank=1, loss=None), record(2**40, loss=float("inf")), record(1, loss=-0.0)]
    writer.add(rows)
    writer.flush()
    assert read(folder) == rows
    assert read_records(folder).drop_columns("lost").schema.equals(SCHEMA)


def test_a_loss_that_is_no_number_is_not_one_that_is_missing(folder: RunFolder) -> None:
    writer = MetricsWriter(folder)
    writer.add([record(0, loss=float("nan")), record(1, loss=None)])
    writer.flush()
    first, second = (row.loss for row in read(folder))
    assert first != first
    assert second is None


def test_a_run_without_records_is_an_empty_table(folder: RunFolder) -> None:
    table = read_records(folder).drop_columns("lost")
    assert (len(table), table.schema) == (0, SCHEMA)
    assert read_events(folder) == []


def test_a_flush_without_records_writes_nothing(folder: RunFolder) -> None:
    MetricsWriter(folder).flush()
    assert folder.names(FOLDER) == []


def test_everything_is_readable_after_every_flush(folder: RunFolder) -> None:
    writer = MetricsWriter(folder)
    for step in range(MERGE + 3):
        writer.add([record(step)])
        writer.flush()
        assert [row.step for row in read(folder)] == list(range(step + 1))


def test_files_are_merged_as_a_counter_carries(local: RunFolder) -> None:
    writer = MetricsWriter(local)
    write_one_by_one(writer, range(MERGE - 1))
    assert len(local.names(FOLDER)) == MERGE - 1
    write_one_by_one(writer, range(MERGE - 1, MERGE))
    assert local.names(FOLDER) == [f"00000000-{MERGE - 1:08d}.parquet"]
    write_one_by_one(writer, range(MERGE, MERGE * MERGE))
    assert local.names(FOLDER) == [f"00000000-{MERGE * MERGE - 1:08d}.parquet"]
    assert [row.step for row in read(local)] == list(range(MERGE * MERGE))


def test_merged_files_stop_growing(local: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two records a flush, at most 40 in a file: 16 fit, the 128 of eight such files do not."""
    monkeypatch.setattr(writer_module, "MOST_RECORDS", 40)
    for flushes in (range(MERGE * MERGE), range(MERGE * MERGE, 2 * MERGE * MERGE)):  # a second writer counts anew
        writer = MetricsWriter(local)
        for flush in flushes:
            writer.add([record(2 * flush), record(2 * flush + 1)])
            writer.flush()
    assert file_ranges(local.names(FOLDER)) == [(first, first + MERGE - 1) for first in range(0, 128, MERGE)]
    assert len(local.names(FOLDER)) == 2 * MERGE
    assert [row.step for row in read(local)] == list(range(4 * MERGE * MERGE))


def test_merging_holds_one_part_in_memory_at_a_time(local: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured in bytes that Arrow holds: 8 parts of 20,000 records at once take 28 MB, one by one 11 MB."""
    writer = MetricsWriter(local)
    most = 0

    def watched(folder: RunFolder, name: str, *columns: list[str]) -> pa.Table:
        nonlocal most
        table = read_file(folder, name, *columns)
        most = max(most, pa.total_allocated_bytes())
        return table

    monkeypatch.setattr(writer_module, "read_file", watched)
    before = pa.total_allocated_bytes()
    for part in range(MERGE):
        writer.add([record(20_000 * part + step) for step in range(20_000)])
        writer.flush()
    assert len(local.names(FOLDER)) == 1
    part_bytes = read_records(local).nbytes / MERGE
    assert part_bytes < most - before < MERGE / 2 * part_bytes


def test_events_keep_their_order(folder: RunFolder) -> None:
    folder.write("status.json", "{}")
    writer = MetricsWriter(folder)
    writer.add_event(make_event("a"))
    writer.flush()
    writer.add_event(make_event("b"))
    writer.add_event(make_event("c"))
    writer.flush()
    writer.flush()
    assert [event.kind for event in read_events(folder)] == ["a", "b", "c"]


@pytest.mark.parametrize("before", [1, MERGE - 1, MERGE, MERGE + 1, 3 * MERGE])
def test_a_second_writer_goes_on_where_the_first_ended(local: RunFolder, before: int) -> None:
    write_one_by_one(MetricsWriter(local), range(before))
    write_one_by_one(MetricsWriter(local), range(before, before + 2 * MERGE))
    assert [row.step for row in read(local)] == list(range(before + 2 * MERGE))


class Killed(BaseException):
    """The process is gone at this point."""


@pytest.mark.parametrize(
    ("steps", "removals"), [(MERGE, 0), (MERGE, 1), (MERGE, MERGE - 1), (MERGE, MERGE), (MERGE * MERGE, MERGE + 3)]
)
def test_a_kill_between_a_merged_file_and_the_removal_of_its_parts_counts_nothing_twice(
    local: RunFolder, monkeypatch: pytest.MonkeyPatch, removals: int, steps: int
) -> None:
    write_one_by_one(MetricsWriter(local), range(steps - 1))
    left = removals
    remove = RunFolder.remove

    def die(folder: RunFolder, name: str) -> None:
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1
        remove(folder, name)

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "remove", die)
        writer = MetricsWriter(local)
        writer.add([record(steps - 1)])
        if steps == MERGE and removals == MERGE:
            writer.flush()  # just not killed
        else:
            with pytest.raises(Killed):
                writer.flush()
    assert [row.step for row in read(local)] == list(range(steps))
    write_one_by_one(MetricsWriter(local), range(steps, steps + MERGE + 1))
    assert [row.step for row in read(local)] == list(range(steps + MERGE + 1))


def dying_mv(*_: object, **__: object) -> None:
    raise Killed


def test_a_kill_in_the_middle_of_a_flush_loses_no_more_than_the_flush(
    local: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_one_by_one(MetricsWriter(local), range(3))
    with monkeypatch.context() as patched:
        patched.setattr(type(local.filesystem("")[0]), "mv", dying_mv)
        with pytest.raises(Killed):
            write_one_by_one(MetricsWriter(local), range(3, 4))
    assert [row.step for row in read(local)] == [0, 1, 2]
    write_one_by_one(MetricsWriter(local), range(3, 5))
    assert [row.step for row in read(local)] == [0, 1, 2, 3, 4]


def cut(folder: RunFolder, number: int) -> str:
    name = f"{FOLDER}/{number:08d}-{number:08d}.parquet"
    folder.write(name, folder.read(name)[:-40])
    return name


def test_a_file_that_is_cut_off_is_an_error_that_names_it(folder: RunFolder) -> None:
    write_one_by_one(MetricsWriter(folder), range(3))
    require_readable(folder)
    name = cut(folder, 1)
    for use in (require_readable, newest_samples):
        with pytest.raises(RunError) as caught:
            use(folder)
        assert caught.value.problem == (
            f"run {folder.run_id}: {name} holds no records: Parquet "
            "magic bytes not found in footer. Either the file is corrupted or this is not a parquet file."
        )
        assert caught.value.remedy == f"Move {folder.path(name)} out of that folder to continue without its records."


def test_a_file_whose_middle_is_damaged_is_found_too(local: RunFolder) -> None:
    write_one_by_one(MetricsWriter(local), range(1))
    name = f"{FOLDER}/00000000-00000000.parquet"
    data = bytearray(local.read(name))
    data[4:60] = bytes(56)
    local.write(name, bytes(data))
    with pytest.raises(RunError, match="holds no records"):
        require_readable(local)


@pytest.mark.parametrize("columns", [{"attempt": ["a"]}, {"attempt": [1]}, {"other": [1]}])
def test_a_file_of_something_else_is_found_too(local: RunFolder, columns: dict[str, list[object]]) -> None:
    pq.write_table(pa.table(columns), buffer := BytesIO())
    local.write(f"{FOLDER}/00000000-00000000.parquet", buffer.getvalue())
    with pytest.raises(RunError, match="holds no records"):
        require_readable(local)


def test_a_merge_that_meets_a_damaged_file_says_which(local: RunFolder) -> None:
    write_one_by_one(MetricsWriter(local), range(MERGE - 1))
    name = cut(local, 2)
    with pytest.raises(RunError, match=f"{name} holds no records"):
        write_one_by_one(MetricsWriter(local), range(MERGE - 1, MERGE))


READERS: dict[str, Callable[[Path], list[int]]] = {
    "pandas": lambda path: sorted(pd.read_parquet(path)["step"]),
    "duckdb": lambda path: sorted(
        row[0] for row in duckdb.sql(f"select step from read_parquet('{path}/*.parquet')").fetchall()
    ),
    "arrow": lambda path: sorted(pq.read_table(path)["step"].to_pylist()),
}


@pytest.mark.parametrize("reader", READERS)
def test_other_tools_read_the_folder_as_it_is(local: RunFolder, reader: str) -> None:
    write_one_by_one(MetricsWriter(local), range(MERGE + 2))
    assert local.local_path is not None
    assert READERS[reader](local.local_path / FOLDER) == list(range(MERGE + 2))


@pytest.mark.parametrize("reader", READERS)
def test_other_tools_are_not_disturbed_by_what_a_kill_left(
    local: RunFolder, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    write_one_by_one(MetricsWriter(local), range(3))
    with monkeypatch.context() as patched:
        patched.setattr(type(local.filesystem("")[0]), "mv", dying_mv)
        with pytest.raises(Killed):
            write_one_by_one(MetricsWriter(local), range(3, 4))
    assert local.local_path is not None
    assert READERS[reader](local.local_path / FOLDER) == [0, 1, 2]


@pytest.mark.parametrize("reader", READERS)
def test_the_next_writer_clears_away_parts_that_a_kill_left(
    local: RunFolder, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    def die(folder: RunFolder, name: str) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "remove", die)
        with pytest.raises(Killed):
            write_one_by_one(MetricsWriter(local), range(MERGE))
    write_one_by_one(MetricsWriter(local), range(MERGE, MERGE + 1))
    assert local.local_path is not None
    assert READERS[reader](local.local_path / FOLDER) == list(range(MERGE + 1))


@pytest.mark.parametrize(
    ("names", "ranges"),
    [
        ([], []),
        (["00000000-00000000.parquet", "00000001-00000001.parquet"], [(0, 0), (1, 1)]),
        (["00000001-00000001.parquet", "00000000-00000001.parquet"], [(0, 1)]),  # a part beside its whole
        (["00000000-00000000.parquet", "00000000-00000001.parquet"], [(0, 1)]),  # the first part
        (["00000000-00000007.parquet", "00000000-00000063.parquet", "00000064-00000064.parquet"], [(0, 63), (64, 64)]),
        (["00000000-00000000.parquet.3f2a.part", "notes.txt", "-.parquet", "a-b.parquet"], []),  # not ours
        (["100000000-100000000.parquet", "99999999-99999999.parquet"], [(99999999, 99999999), (10**8, 10**8)]),
    ],
)
def test_which_files_hold_the_records(names: list[str], ranges: list[tuple[int, int]]) -> None:
    assert file_ranges(names) == ranges


@settings(max_examples=20)
@given(sizes=st.lists(st.integers(0, 5), max_size=2 * MERGE + 2))
def test_every_record_is_there_exactly_once_however_they_come(sizes: list[int]) -> None:
    folder = RunFolder(f"memory://{token_hex(8)}/run")
    writer = MetricsWriter(folder)
    step = 0
    for size in sizes:
        writer.add([record(step + i) for i in range(size)])
        writer.flush()
        step += size
    assert [row.step for row in read(folder)] == list(range(step))


def test_events_are_written_without_secrets(folder: RunFolder) -> None:
    writer = MetricsWriter(folder)
    reason = "cannot reach s3://me:hunter2@host/bucket"
    writer.add_event(make_event("checkpoint_failed", reason=reason))
    writer.close()
    assert [event.reason for event in read_events(folder)] == ["cannot reach s3://me:***@host/bucket"]
    assert b"hunter2" not in folder.read("events.jsonl")
