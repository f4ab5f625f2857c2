"""A run's records, a piece at a time or as one Arrow table, and its events."""

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
KEPT_FILES = 24  # the newest may be gone at the second reading: their bytes are kept, of those up to
KEPT_BYTES = 2**22  # each; larger ones are merged so seldom that beginning again costs less

T = TypeVar("T")

_NEVER = np.iinfo(np.int64).max


class RecordsChanged(Exception):  # noqa: N818 (it tells of a change, and reaches nobody)
    """A file of records went, or turned out damaged, after some of it had been given out: read all of them again."""


class RecordFiles:
    """The records in a run's folder, a piece at a time, so that nobody has to hold all of them.

    Args:
        folder: the run's. What is listed now is what is read: a file that comes later is not.
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
        """The damaged files that were met so far, each with what is wrong. They are passed over."""
        return tuple(f"{name} holds no records: {why}" for name, why in self._damaged.items() if name in self._names)

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield the records, or some columns of them: the same rows in the same order each time.

        Raises:
            RecordsChanged: begin again, with what is there by then.
            RunError: the storage does not let a file be read.
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
        """A file's bytes. New and small ones are kept: the writer of a run that goes on merges them."""
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
    """What a run measured and told, as far as it can be read."""

    records: RecordFiles
    events: list[Event]


def read_run(folder: RunFolder) -> RunMetrics:
    """Return a run's records, which are read when their tables are asked for, and its events.

    The events are read last: of a run that goes on, they tell why each record is as it is.

    Raises:
        RunError: the storage does not let them be read.
    """
    records = RecordFiles(folder)
    return RunMetrics(records=records, events=read_events(folder))


def with_records(folder: RunFolder, use: Callable[[RunMetrics], T]) -> T:
    """Return what ``use`` makes of a run's records and events, begun again whenever the records change meanwhile.

    Raises:
        RunError: they changed each time, or the storage does not let them be read.
    """
    metrics = read_run(folder)
    for _ in range(ATTEMPTS):
        try:
            return use(metrics)
        except RecordsChanged:
            metrics = RunMetrics(records=metrics.records, events=read_events(folder))
    raise RunError(
        f"run {folder.run_id}: files of records went while they were read, {ATTEMPTS} times.",
        "The run goes on and its writer merges them; try again.",
    )


def read_records(folder: RunFolder, *, events: Sequence[Event] | None = None) -> pa.Table:
    """Return every record that has reached the folder in one table; an empty one when none has.

    Args:
        folder: the run's.
        events: the run's, where they were read already.

    Returns:
        The schema of ``Record``, and the column ``lost``: whether a later attempt did this work again, or will. What
        is not lost is in the weights, each sample once.

    Raises:
        RunError: a file holds no records, or the storage does not let it be read.
    """

    def whole(metrics: RunMetrics) -> pa.Table:
        tables = list(metrics.records.tables())
        if metrics.records.unreadable:
            raise RunError(f"run {folder.run_id}: {metrics.records.unreadable[0]}.", "The file was altered.")
        records = pa.concat_tables(tables) if tables else SCHEMA.empty_table()
        return mark_lost(records, metrics.events if events is None else events)

    return with_records(folder, whole)


def mark_lost(records: pa.Table, events: Sequence[Event]) -> pa.Table:
    """Return records with the column ``lost``: a later attempt began at or before where the record's step began.

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
    """Return from which ``samples_seen`` on each attempt's work was done again: where a later attempt first began.

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
    """Return the ``samples_seen`` of the newest record that is in the folder, by attempt and rank.

    Raises:
        RunError: a file holds no records.
    """
    newest: dict[tuple[int, int], int] = {}
    for first, last in file_ranges(folder.names(FOLDER)):
        table = read_file(folder, file_name(first, last), ["attempt", "rank", "samples_seen"])
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
        read_file(folder, file_name(first, last))
