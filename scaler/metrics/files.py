"""The files of a run's records: their names, their schema, their reading, and what is said of one that is damaged."""

from collections.abc import Iterable, Sequence
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq

from scaler.errors import RunError
from scaler.runs import RunFolder
from scaler.runs.places import reason

FOLDER = "metrics"
EVENTS = "events.jsonl"

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


def file_name(first: int, last: int) -> str:
    """Return the name in the run's folder of the file that holds the flushes from ``first`` to ``last``."""
    return f"{FOLDER}/{first:08d}-{last:08d}.parquet"


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


def parse_records(raw: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the records in a file's bytes, with the schema of ``Record``, or some of its columns.

    Raises:
        ValueError: there are none; says why.
    """
    schema = SCHEMA if columns is None else pa.schema([SCHEMA.field(column) for column in columns])
    try:
        table = pq.read_table(BytesIO(raw), schema=schema)
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:  # of bytes that are here: damage
        raise ValueError(reason(error)) from None
    if lacking := [field.name for field in schema if not field.nullable and table[field.name].null_count]:
        raise ValueError(f"it lacks {', '.join(lacking)}")
    return table


def read_file(folder: RunFolder, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the records of one file.

    Raises:
        RunError: it holds none, or cannot be read.
    """
    try:
        return parse_records(folder.read(name), columns)
    except ValueError as error:
        raise damaged(folder, name, str(error)) from None


def damaged(folder: RunFolder, name: str, why: str) -> RunError:
    """Return the error of a file of records that cannot be read as one."""
    return RunError(
        f"run {folder.run_id}: {name} holds no records: {why}.",
        f"Move {folder.path(name)} out of that folder to do without its records.",
    )
