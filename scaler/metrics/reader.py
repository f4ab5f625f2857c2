"""A run's records as one Arrow table, and its events."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from scaler.errors import RunError
from scaler.metrics.writer import EVENTS, FOLDER, SCHEMA, file_ranges
from scaler.runs import RunFolder

ATTEMPTS = 5

_NEVER = np.iinfo(np.int64).max


def read_records(folder: RunFolder, *, events: Sequence[Mapping[str, Any]] | None = None) -> pa.Table:
    """Return every record that has reached the folder; an empty table when none has.

    Args:
        folder: the run's.
        events: the run's, where they were read already.

    Returns:
        The schema of ``Record``, and the column ``lost``: whether a later attempt did this work again, or will. What
        is not lost is in the weights, each sample once.

    Raises:
        RunError: a file holds no records.
    """
    return mark_lost(_read_all(folder), read_events(folder) if events is None else events)


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


def _read_all(folder: RunFolder) -> pa.Table:
    for _ in range(ATTEMPTS):
        try:
            return _read(folder)
        except FileNotFoundError:  # the run is going on, and its writer merged this file into a larger one
            continue
    return _read(folder)


def _read(folder: RunFolder) -> pa.Table:
    filesystem, path = folder.filesystem(FOLDER)
    tables = []
    for first, last in file_ranges(folder.names(FOLDER)):
        name = f"{first:08d}-{last:08d}.parquet"
        try:
            tables.append(pq.read_table(f"{path}/{name}", filesystem=filesystem, schema=SCHEMA))
        except pa.ArrowInvalid as error:
            problem = f"run {folder.run_id}: {FOLDER}/{name} holds no records: {error}."
            raise RunError(problem, "The file was altered.") from None
    return pa.concat_tables(tables) if tables else SCHEMA.empty_table()
