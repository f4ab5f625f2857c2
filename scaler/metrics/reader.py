"""A run's records as one Arrow table, and its events."""

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scaler.errors import RunError
from scaler.metrics.writer import FOLDER, SCHEMA, file_ranges
from scaler.runs import RunFolder

ATTEMPTS = 5


def read_records(folder: RunFolder) -> pa.Table:
    """Return every record that has reached the folder, in the schema of ``Record``; an empty table when none has.

    Raises:
        RunError: a file holds no records.
    """
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


def read_events(folder: RunFolder) -> list[dict[str, Any]]:
    """Return the run's events in the order in which they were written."""
    return list(folder.rows("events.jsonl"))
