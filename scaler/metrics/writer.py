"""Records to Parquet, readable at any moment.

Every flush is a whole Parquet file, written beside and moved, so that a kill loses at most what was not flushed. Many
small files would be slow to read, so runs of ``MERGE`` files of one size are merged into the next larger size. A file's
name says which flushes it holds, ``<first>-<last>.parquet``: a reader that meets a merged file beside its parts, after
a kill between the two, knows to pass the parts over.
"""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scaler.masking import mask_text
from scaler.metrics.files import EVENTS, FOLDER, SCHEMA, file_name, file_ranges, read_file
from scaler.metrics.record import Record
from scaler.metrics.tensorboard import TensorBoardWriter
from scaler.runs import RunFolder

MERGE = 8


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
        kept = {file_name(first, last) for first, last in self._files}
        for name in (f"{FOLDER}/{name}" for name in names if name.endswith((".parquet", ".part"))):
            if name not in kept:
                folder.remove(name)
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
        self._folder.write(file_name(first, last), buffer.getvalue())
        self._files.append((first, last))

    def _merge(self) -> None:
        """Merge the newest files while there are ``MERGE`` of one size, as a counter carries."""
        while len(self._files) >= MERGE:
            tail = self._files[-MERGE:]
            if len({last - first for first, last in tail}) != 1:
                return
            names = [file_name(first, last) for first, last in tail]
            table = pa.concat_tables([read_file(self._folder, name) for name in names])
            del self._files[-MERGE:]
            self._write(table, tail[0][0], tail[-1][1])
            for name in names:
                self._folder.remove(name)
