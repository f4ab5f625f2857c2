"""Records to Parquet, readable at any moment.

Every flush is a whole Parquet file, written beside and moved, so that a kill loses at most what was not flushed. Many
small files would be slow to read, so runs of ``MERGE`` files of one size are merged into the next larger size. A file's
name says which flushes it holds, ``<first>-<last>.parquet``: a reader that meets a merged file beside its parts, after
a kill between the two, knows to pass the parts over.
"""

from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scaler.masking import mask_text
from scaler.metrics.record import Record
from scaler.metrics.tensorboard import TensorBoardWriter
from scaler.runs import RunFolder

FOLDER = "metrics"
EVENTS = "events.jsonl"
MERGE = 8

SCHEMA = pa.schema(
    [
        pa.field("attempt", pa.int32(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("step", pa.int64(), nullable=False),
        pa.field("samples_seen", pa.int64(), nullable=False),
        pa.field("progress", pa.float64(), nullable=False),
        pa.field("lr", pa.float64(), nullable=False),
        pa.field("lr_planned", pa.float64(), nullable=False),
        pa.field("samples", pa.int64(), nullable=False),
        pa.field("loss", pa.float64()),
        pa.field("step_time_s", pa.float64(), nullable=False),
        pa.field("data_wait_s", pa.float64(), nullable=False),
        pa.field("compute_s", pa.float64(), nullable=False),
        pa.field("sync_wait_s", pa.float64(), nullable=False),
        pa.field("grad_norm", pa.float64(), nullable=False),
        pa.field("peak_memory_gib", pa.float64(), nullable=False),
        pa.field("grad_signal", pa.float64()),
        pa.field("grad_variance", pa.float64()),
        pa.field("noise_scale", pa.float64()),
    ]
)


class MetricsWriter:
    """The one writer of a run's records and events, and of what TensorBoard reads of them.

    Args:
        folder: the run's folder; files that an earlier writer left there are continued, not overwritten.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        folder.end_line(EVENTS)
        self._records: list[Record] = []
        self._events: list[Mapping[str, Any]] = []
        self._tensorboard = TensorBoardWriter(folder)
        names = folder.names(FOLDER)
        self._files = file_ranges(names)
        kept = {f"{first:08d}-{last:08d}.parquet" for first, last in self._files}
        for name in (name for name in names if name.endswith((".parquet", ".part")) and name not in kept):
            folder.remove(f"{FOLDER}/{name}")
        self._next = self._files[-1][1] + 1 if self._files else 0

    def add(self, records: Sequence[Record]) -> None:
        """Take records; they reach the folder with the next ``flush``."""
        self._records.extend(records)
        self._tensorboard.add(records)

    def add_event(self, event: Mapping[str, Any]) -> None:
        """Take an event; it reaches the folder with the next ``flush``, without secrets in its texts."""
        event = {key: mask_text(value) if isinstance(value, str) else value for key, value in event.items()}
        self._events.append(event)
        self._tensorboard.add_event(event)

    def flush(self) -> None:
        """Write what was taken since the last flush."""
        self._folder.append_json(EVENTS, self._events)
        self._events = []  # not before: what could not be written is tried again
        if self._records:
            self._flush_records()
        self._tensorboard.flush()

    def close(self) -> None:
        """Write everything that was taken, for the last time."""
        try:
            self.flush()
        finally:
            self._tensorboard.close()

    def _flush_records(self) -> None:
        records = self._records
        columns = list(zip(*records, strict=True))
        arrays = [pa.array(column, type=field.type) for column, field in zip(columns, SCHEMA, strict=True)]
        self._write(pa.Table.from_arrays(arrays, schema=SCHEMA), self._next, self._next)
        self._records = []
        self._next += 1
        self._merge()

    def _write(self, table: pa.Table, first: int, last: int) -> None:
        buffer = BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        self._folder.write(f"{FOLDER}/{first:08d}-{last:08d}.parquet", buffer.getvalue())
        self._files.append((first, last))

    def _merge(self) -> None:
        """Merge the newest files while there are ``MERGE`` of one size, as a counter carries."""
        while len(self._files) >= MERGE:
            tail = self._files[-MERGE:]
            if len({last - first for first, last in tail}) != 1:
                return
            names = [f"{FOLDER}/{first:08d}-{last:08d}.parquet" for first, last in tail]
            table = pa.concat_tables([_read(self._folder, name) for name in names])
            del self._files[-MERGE:]
            self._write(table, tail[0][0], tail[-1][1])
            for name in names:
                self._folder.remove(name)


def newest_samples(folder: RunFolder) -> dict[tuple[int, int], int]:
    """Return the ``samples_seen`` of the newest record that is in the folder, by attempt and rank.

    Raises:
        RunError: a file holds no records.
    """
    newest: dict[tuple[int, int], int] = {}
    for first, last in file_ranges(folder.names(FOLDER)):
        table = _read(folder, f"{FOLDER}/{first:08d}-{last:08d}.parquet", ["attempt", "rank", "samples_seen"])
        for row in table.group_by(["attempt", "rank"]).aggregate([("samples_seen", "max")]).to_pylist():
            key = (row["attempt"], row["rank"])
            newest[key] = max(newest.get(key, -1), row["samples_seen_max"])
    return newest


def require_readable(folder: RunFolder) -> None:
    """Do nothing when every file of records can be read.

    Raises:
        RunError: one holds no records; names it, and what to do.
    """
    for first, last in file_ranges(folder.names(FOLDER)):
        _read(folder, f"{FOLDER}/{first:08d}-{last:08d}.parquet")


def _read(folder: RunFolder, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The records of one file, with the schema of ``Record``."""
    schema = SCHEMA if columns is None else pa.schema([SCHEMA.field(column) for column in columns])
    try:
        table = pq.read_table(BytesIO(folder.read(name)), schema=schema)
        if lacking := [field.name for field in schema if not field.nullable and table[field.name].null_count]:
            raise ValueError(f"it lacks {', '.join(lacking)}")
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        raise folder.damaged(name, error) from None
    return table


def file_ranges(names: Iterable[str]) -> list[tuple[int, int]]:
    """Return the flushes that each file holds, in order, without files whose flushes a larger file holds too.

    Example:
        >>> file_ranges(["00000000-00000007.parquet", "00000003-00000003.parquet", "00000008-00000008.parquet"])
        [(0, 7), (8, 8)]
    """
    found = []
    for name in names:
        first, _, last = name.removesuffix(".parquet").partition("-")
        if name.endswith(".parquet") and first.isdigit() and last.isdigit():
            found.append((int(first), int(last)))
    kept: list[tuple[int, int]] = []
    for span in sorted(found, key=lambda span: (span[0], -span[1])):
        if not kept or span[1] > kept[-1][1]:
            kept.append(span)
    return kept
