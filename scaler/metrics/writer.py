"""Writes records to Parquet files and events to ``events.jsonl``, which can be read at any moment.

Every flush writes a complete Parquet file under another name and renames it, so that a kill loses at most what was not
flushed. Because many small files are slow to read, ``MERGE`` files of one size are merged into one of the next size, up
to ``MOST_RECORDS``: a larger file would take long to merge, and need much memory to read. A file's name has the
numbers of its flushes, ``<first>-<last>.parquet``: after a kill between merging and removing, readers ignore the
merged parts.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq

from scaler.job.tracking import Tracking
from scaler.masking import mask_text
from scaler.metrics.curves import Curves
from scaler.metrics.events import Event, to_dict, with_texts
from scaler.metrics.files import EVENTS, FOLDER, SCHEMA, file_name, file_ranges, read_file
from scaler.metrics.record import Record
from scaler.metrics.tensorboard import TensorBoardWriter
from scaler.metrics.trackers import Trackers
from scaler.runs import RunFolder, RunState

MERGE = 8
MOST_RECORDS = 1_000_000  # in a merged file, about 80 MB


class MetricsWriter:
    """The only writer of a run's records and events, and of their curves for TensorBoard and trackers.

    Args:
        folder: the run's folder; files of an earlier writer are kept, and new ones are added.
        tracking: the job's trackers.
    """

    def __init__(self, folder: RunFolder, tracking: Tracking | None = None) -> None:
        self._folder = folder
        folder.end_line(EVENTS)
        self._records: list[Record] = []
        self._events: list[Event] = []
        self._curves, self._tensorboard = Curves(), TensorBoardWriter(folder)
        self._trackers = Trackers(tracking or Tracking(), folder)
        names = folder.names(FOLDER)
        self._files = file_ranges(names)
        kept = {file_name(first, last) for first, last in self._files}
        for name in (f"{FOLDER}/{name}" for name in names if name.endswith((".parquet", ".part"))):
            if name not in kept:
                folder.remove(name)
        self._next = self._files[-1][1] + 1 if self._files else 0
        self._sizes: dict[tuple[int, int], int] = {}  # records in a file, if they were counted

    def add(self, records: Sequence[Record]) -> None:
        """Add records; the next ``flush`` writes them."""
        self._records.extend(records)
        self._curves.add(records)

    def add_event(self, event: Event) -> None:
        """Add an event; the next ``flush`` writes it, with the secrets in its texts masked."""
        event = with_texts(event, mask_text)
        self._events.append(event)
        self._curves.add_event(event)

    def flush(self) -> None:
        """Write what was added since the last flush."""
        self._flush(to_the_end=False)

    def close(self, state: RunState | None = None) -> None:
        """Write everything that is left; the trackers get the final ``state`` of the run."""
        try:
            self._flush(to_the_end=True)
        finally:
            self._tensorboard.close()
            self._trackers.close(state)
        self._note_failures()
        self._flush_events()

    def _flush(self, *, to_the_end: bool) -> None:
        self._note_failures()
        self._flush_events()
        if self._records:
            self._flush_records()
        points = self._curves.take(to_the_end=to_the_end)
        self._trackers.put(points)
        self._tensorboard.write(points)

    def _flush_events(self) -> None:
        self._folder.append_json(EVENTS, map(to_dict, self._events))
        self._events = []  # only now: events that could not be written are written next time

    def _note_failures(self) -> None:
        for event in self._trackers.failures():
            self.add_event(replace(event, attempt=self._curves.attempt))

    def _flush_records(self) -> None:
        columns = list(zip(*self._records, strict=True))
        arrays = [pa.array(column, type=field.type) for column, field in zip(columns, SCHEMA, strict=True)]
        self._write([pa.Table.from_arrays(arrays, schema=SCHEMA)], self._next, self._next)
        self._records = []
        self._next += 1
        self._merge()

    def _write(self, tables: Iterable[pa.Table], first: int, last: int) -> None:
        """Write one file from several tables; only one of them is in memory at a time."""
        buffer, count = BytesIO(), 0
        with pq.ParquetWriter(buffer, SCHEMA, compression="zstd") as file:
            for table in tables:
                file.write_table(table)
                count += table.num_rows
        self._folder.write(file_name(first, last), buffer.getvalue())
        self._files.append((first, last))
        self._sizes[first, last] = count

    def _merge(self) -> None:
        """Merge the newest files as long as the last ``MERGE`` have one size."""
        while len(self._files) >= MERGE:
            tail = self._files[-MERGE:]
            if len({last - first for first, last in tail}) != 1 or sum(map(self._size, tail)) > MOST_RECORDS:
                return
            names = [file_name(first, last) for first, last in tail]
            del self._files[-MERGE:]
            self._write((read_file(self._folder, name) for name in names), tail[0][0], tail[-1][1])
            for name, span in zip(names, tail, strict=True):
                self._folder.remove(name)
                del self._sizes[span]

    def _size(self, span: tuple[int, int]) -> int:
        """Return the number of records in a file."""
        if span not in self._sizes:  # the file is an earlier writer's
            self._sizes[span] = read_file(self._folder, file_name(*span), ["step"]).num_rows
        return self._sizes[span]
