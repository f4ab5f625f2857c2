"""A run's records as one Arrow table, and its events."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from scaler.errors import RunError
from scaler.metrics.files import EVENTS, FOLDER, SCHEMA, file_name, file_ranges, parse_records, read_file
from scaler.runs import RunFolder

ATTEMPTS = 5

_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True, kw_only=True, slots=True)
class RunMetrics:
    """What a run measured and told, as far as it can be read."""

    records: pa.Table  # with the column ``lost``: see ``read_records``
    events: list[dict[str, Any]]
    unreadable: tuple[str, ...]  # damaged files, each with what is wrong


def read_run(folder: RunFolder) -> RunMetrics:
    """Return a run's records and events; damaged files of records are passed over and named.

    The events are read last: of a run that goes on, they tell why each record that was read is as it is.

    Raises:
        RunError: the storage does not let them be read.
    """
    records, unreadable = _read_all(folder)
    events = read_events(folder)
    return RunMetrics(records=mark_lost(records, events), events=events, unreadable=tuple(unreadable))


def read_records(folder: RunFolder, *, events: Sequence[Mapping[str, Any]] | None = None) -> pa.Table:
    """Return every record that has reached the folder; an empty table when none has.

    Args:
        folder: the run's.
        events: the run's, where they were read already.

    Returns:
        The schema of ``Record``, and the column ``lost``: whether a later attempt did this work again, or will. What
        is not lost is in the weights, each sample once.

    Raises:
        RunError: a file holds no records, or the storage does not let it be read.
    """
    records, unreadable = _read_all(folder)
    if unreadable:
        raise RunError(f"run {folder.run_id}: {unreadable[0]}.", "The file was altered.")
    return mark_lost(records, read_events(folder) if events is None else events)


def mark_lost(records: pa.Table, events: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return records with the column ``lost``: a later attempt began at or before where the record's step began.

    Example:
        >>> events = [{"kind": "attempt_started", "attempt": a, "start_samples": s} for a, s in ((0, 0), (1, 64))]
        >>> records = pa.table({"attempt": [0, 0, 1], "samples_seen": [48, 64, 64]})
        >>> mark_lost(records, events)["lost"].to_pylist()
        [False, True, False]
    """
    starts = [(event["attempt"], event["start_samples"]) for event in events if event["kind"] == "attempt_started"]
    attempts, of_record = np.unique(records["attempt"].to_numpy(), return_inverse=True)
    taken_over = [min((at for later, at in starts if later > attempt), default=_NEVER) for attempt in attempts]
    lost = records["samples_seen"].to_numpy() >= np.array(taken_over, dtype=np.int64)[of_record]
    return records.append_column(pa.field("lost", pa.bool_(), nullable=False), pa.array(lost, type=pa.bool_()))


def read_events(folder: RunFolder) -> list[dict[str, Any]]:
    """Return the run's events in the order in which they were written."""
    return list(folder.rows(EVENTS))


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


def _read_all(folder: RunFolder) -> tuple[pa.Table, list[str]]:
    for _ in range(ATTEMPTS):
        try:
            return _read(folder)
        except FileNotFoundError:  # the run is going on, and its writer merged this file into a larger one
            continue
    return _read(folder)


def _read(folder: RunFolder) -> tuple[pa.Table, list[str]]:
    """Every record that can be read, and of each damaged file what is wrong."""
    tables, unreadable = [], []
    for name in (file_name(first, last) for first, last in file_ranges(folder.names(FOLDER))):
        raw = folder.read_if_there(name)
        if raw is None:
            raise FileNotFoundError(name)
        try:
            tables.append(parse_records(raw))
        except ValueError as error:
            unreadable.append(f"{name} holds no records: {error}")
    return pa.concat_tables(tables) if tables else SCHEMA.empty_table(), unreadable
