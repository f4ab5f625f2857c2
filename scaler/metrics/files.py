"""The files of a run's records: their names, their schema, how a file is read, and the error for a damaged file."""

from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq

from scaler.errors import RunError
from scaler.metrics.record import COLUMNS, Column
from scaler.runs import RunFolder
from scaler.runs.files import LOG_BYTES
from scaler.runs.filesystems import reason

FOLDER = "metrics"
EVENTS = "events.jsonl"

PIECE = 2**17  # records that are decoded at once, about 25 MB


def _arrow_type(column: Column) -> pa.DataType:
    if column.type is float:
        return pa.float64()
    return pa.int32() if column.bits == 32 else pa.int64()


SCHEMA = pa.schema([pa.field(column.name, _arrow_type(column), nullable=column.is_nullable) for column in COLUMNS])
"""The columns of a file of records."""


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
    """Return the records in a file's bytes, with the columns of ``SCHEMA`` or some of them.

    Raises:
        ValueError: the bytes are damaged; says why.
    """
    return pa.concat_tables([_schema(columns).empty_table(), *parse_pieces(raw, columns)])


def parse_pieces(raw: bytes, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield the records in a file's bytes, at most ``PIECE`` at a time: decoded, they need far more memory than a file.

    Raises:
        ValueError: the bytes after the yielded pieces are damaged; says why.
    """
    schema = _schema(columns)
    try:
        file = pq.ParquetFile(BytesIO(raw))
        there = [name for name in schema.names if name in file.schema_arrow.names]
        for batch in file.iter_batches(PIECE, columns=there):
            yield _typed(batch, schema)
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:  # the bytes are in memory, so it is damage
        raise ValueError(reason(error)) from None


def _schema(columns: Sequence[str] | None) -> pa.Schema:
    return SCHEMA if columns is None else pa.schema([SCHEMA.field(column) for column in columns])


def _typed(batch: pa.RecordBatch, schema: pa.Schema) -> pa.Table:
    """Return records with the types of a schema.

    Raises:
        ValueError: a column is missing, or has nulls that it may not have.
    """
    if missing := [name for name in schema.names if name not in batch.schema.names]:
        raise ValueError(f"it lacks {', '.join(missing)}")
    arrays = [batch[field.name].cast(field.type) for field in schema]
    if lacking := [field.name for field, array in zip(schema, arrays, strict=True) if _lacks(field, array)]:
        raise ValueError(f"it lacks {', '.join(lacking)}")
    return pa.Table.from_arrays(arrays, schema=schema)


def _lacks(field: pa.Field, array: pa.Array) -> bool:
    return not field.nullable and array.null_count > 0


def read_file(folder: RunFolder, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the records of one file.

    Raises:
        RunError: the file is damaged, or cannot be read.
    """
    try:
        return parse_records(folder.read(name, most=LOG_BYTES), columns)
    except ValueError as error:
        raise damaged(folder, name, str(error)) from None


def damaged(folder: RunFolder, name: str, why: str) -> RunError:
    """Return the error for a damaged file of records."""
    return RunError(
        f"run {folder.run_id}: {name} holds no records: {why}.",
        f"Move {folder.path(name)} out of that folder to continue without its records.",
    )
