"""Reads a run's records, a piece at a time or as one Arrow table, and its events."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scaler.errors import RunError
from scaler.metrics.events import AttemptStarted, Event, of_type, parse_event
from scaler.metrics.files import EVENTS, FOLDER, SCHEMA, file_name, file_ranges, parse_pieces, read_file
from scaler.runs import RunFolder
from scaler.runs.files import LOG_BYTES

ATTEMPTS = 5
# The bytes of the newest files are kept, because the writer may merge and remove them before they are read again.
KEPT_FILES = 24
KEPT_BYTES = 2**22  # of one file; larger files are merged so seldom that reading all files again costs less

T = TypeVar("T")

_NEVER = np.iinfo(np.int64).max


class RecordsChanged(Exception):  # noqa: N818 (a signal inside this package, not an error)
    """A file of records was removed or found damaged after a part of it was yielded: read all files again."""


class RecordFiles:
    """The records in a run's folder, read a piece at a time, so that they need not fit into memory.

    Args:
        folder: the run's folder. The files that it has now are read; later ones are not.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._small: dict[str, bytes] = {}
        self._given: set[str] = set()
        self._damaged: dict[str, str] = {}
        self._names = self._listed()

    def _listed(self) -> list[str]:
        return [file_name(first, last) for first, last in file_ranges(self._folder.names(FOLDER))]

    @property
    def unreadable(self) -> tuple[str, ...]:
        """The damaged files found so far, each with what is wrong. They are left out."""
        return tuple(f"{name} holds no records: {why}" for name, why in self._damaged.items() if name in self._names)

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield the records, or some columns of them: the same rows in the same order at each call.

        Raises:
            RecordsChanged: the files changed; call again from the start.
            RunError: the storage refuses to read a file.
        """
        for name in self._names:
            if name in self._damaged:
                continue
            try:
                for table in parse_pieces(self._raw(name), columns):
                    self._given.add(name)
                    yield table
            except ValueError as error:
                self._damaged[name] = str(error)
                if name in self._given:
                    self._begin_again()

    def _raw(self, name: str) -> bytes:
        """Return a file's bytes. Those of new and small files are kept: the writer of a running run merges them."""
        raw = self._small.get(name) or self._folder.read_if_there(name, most=LOG_BYTES)
        if raw is None:
            self._begin_again()
        if len(raw) <= KEPT_BYTES and name in self._names[-KEPT_FILES:]:
            self._small[name] = raw
        return raw

    def _begin_again(self) -> NoReturn:
        self._names, self._small, self._given = self._listed(), {}, set()
        raise RecordsChanged


@dataclass(frozen=True, kw_only=True, slots=True)
class RunMetrics:
    """A run's records and events, as far as they can be read."""

    records: RecordFiles
    events: list[Event]


def read_run(folder: RunFolder) -> RunMetrics:
    """Return a run's records, which are read when their tables are requested, and its events.

    The list of files is read before the events, so that the events of a running run explain every record.

    Raises:
        RunError: the storage refuses to read them.
    """
    records = RecordFiles(folder)
    return RunMetrics(records=records, events=read_events(folder))


def with_records(folder: RunFolder, use: Callable[[RunMetrics], T]) -> T:
    """Return ``use(metrics)`` of a run's records and events; it is called again when the files change meanwhile.

    Raises:
        RunError: they changed at every attempt, or the storage refuses to read them.
    """
    metrics = read_run(folder)
    for _ in range(ATTEMPTS):
        try:
            return use(metrics)
        except RecordsChanged:
            metrics = RunMetrics(records=metrics.records, events=read_events(folder))
    raise RunError(
        f"run {folder.run_id}: files of records were removed while they were read, {ATTEMPTS} times.",
        "The writer of a running run merges them; try again.",
    )


def read_records(folder: RunFolder, *, events: Sequence[Event] | None = None) -> pa.Table:
    """Return all records in the folder as one table, which may be empty.

    Args:
        folder: the run's folder.
        events: the run's events, where they were read already.

    Returns:
        The columns of ``Record``, and the column ``lost``: whether a later attempt did or will do this work again. Work
        that is not lost is in the weights, each sample once.

    Raises:
        RunError: a file is damaged, or the storage refuses to read it.
    """

    def whole(metrics: RunMetrics) -> pa.Table:
        tables = list(metrics.records.tables())
        if metrics.records.unreadable:
            raise RunError(f"run {folder.run_id}: {metrics.records.unreadable[0]}.", "The file was altered.")
        records = pa.concat_tables(tables) if tables else SCHEMA.empty_table()
        return mark_lost(records, metrics.events if events is None else events)

    return with_records(folder, whole)


def mark_lost(records: pa.Table, events: Sequence[Event]) -> pa.Table:
    """Return records with the column ``lost``: whether a later attempt started at or before the record's step.

    Example:
        >>> from scaler.metrics.events import AttemptStarted
        >>> same = dict(time=0.0, samples_seen=0, world_size=1, global_batch_size=16, per_worker_batch_size=16)
        >>> same |= dict(peak_lr=0.1, ramp=None, flops_per_sample=None)
        >>> events = [AttemptStarted(attempt=a, start_samples=s, **same) for a, s in ((0, 0), (1, 64))]
        >>> records = pa.table({"attempt": [0, 0, 1], "samples_seen": [48, 64, 64]})
        >>> mark_lost(records, events)["lost"].to_pylist()
        [False, True, False]
    """
    attempts, of_record = np.unique(records["attempt"].to_numpy(), return_inverse=True)
    lost = records["samples_seen"].to_numpy() >= lost_from(attempts, events)[of_record]
    return records.append_column(pa.field("lost", pa.bool_(), nullable=False), pa.array(lost, type=pa.bool_()))


def lost_from(attempts: NDArray[Any], events: Sequence[Event]) -> NDArray[np.int64]:
    """Return the ``samples_seen`` from which each attempt's work was done again: the first start of a later attempt.

    An attempt whose work was not done again has the greatest int64. See ``mark_lost`` for an example.
    """
    starts = [(start.attempt, start.start_samples) for start in of_type(events, AttemptStarted)]
    known, of_entry = np.unique(attempts, return_inverse=True)
    ends = [min((at for later, at in starts if later > attempt), default=_NEVER) for attempt in known.tolist()]
    return np.array(ends, dtype=np.int64)[of_entry]


def read_events(folder: RunFolder) -> list[Event]:
    """Return the run's events in the order in which they were written.

    A damaged row is left out: one that is not JSON, has no kind, or lacks a field of its kind.
    """
    events: list[Event] = []
    for row in folder.rows(EVENTS):
        with suppress(ValueError):
            events.append(parse_event(row))
    return events


def newest_samples(folder: RunFolder) -> dict[tuple[int, int], int]:
    """Return the ``samples_seen`` of the newest record in the folder, by attempt and rank.

    Raises:
        RunError: a file is damaged.
    """
    newest: dict[tuple[int, int], int] = {}
    for first, last in file_ranges(folder.names(FOLDER)):
        table = read_file(folder, file_name(first, last), ["attempt", "rank", "samples_seen"])
        for row in table.group_by(["attempt", "rank"]).aggregate([("samples_seen", "max")]).to_pylist():
            key = (row["attempt"], row["rank"])
            newest[key] = max(newest.get(key, -1), row["samples_seen_max"])
    return newest


def require_readable(folder: RunFolder) -> None:
    """Check that every file of records can be read.

    Raises:
        RunError: one is damaged; says which, and what to do.
    """
    for first, last in file_ranges(folder.names(FOLDER)):
        read_file(folder, file_name(first, last))
