"""The files of a run's records: their names, their schema, their reading, and what is said of one that is damaged."""

from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from scaler.errors import RunError
from scaler.runs import RunFolder
from scaler.runs.files import LOG_BYTES
from scaler.runs.filesystems import reason

FOLDER = "metrics"
EVENTS = "events.jsonl"

PIECE = 2**17  # records: some 25 MB

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
        # Records of before these were measured are read, too: see ``parse_records``.
        pa.field("evaluation_s", pa.float64()),
        pa.field("checkpoint_s", pa.float64()),
        pa.field("cpu_s", pa.float64()),
        pa.field("gpu_pct", pa.float64()),
        pa.field("steps", pa.int32()),
        pa.field("weight", pa.float64()),
    ]
)


_DEFAULTS = {"evaluation_s": 0.0, "checkpoint_s": 0.0, "steps": 1}


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
    return pa.concat_tables([_schema(columns).empty_table(), *parse_pieces(raw, columns)])


def parse_pieces(raw: bytes, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield the same a piece at a time, of at most ``PIECE`` records: decoded, they take far more room than a file.

    Raises:
        ValueError: there are none, or what follows is damaged; says why.
    """
    schema = _schema(columns)
    try:
        file = pq.ParquetFile(BytesIO(raw))
        there = [name for name in schema.names if name in file.schema_arrow.names]
        for batch in file.iter_batches(PIECE, columns=there):
            yield _completed(batch, schema)
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:  # of bytes that are here: damage
        raise ValueError(reason(error)) from None


def _schema(columns: Sequence[str] | None) -> pa.Schema:
    return SCHEMA if columns is None else pa.schema([SCHEMA.field(column) for column in columns])


def _completed(batch: pa.RecordBatch, schema: pa.Schema) -> pa.Table:
    """Records with the columns of a schema; those that were not measured when they were written are filled in."""
    arrays = []
    for field in schema:
        is_there = field.name in batch.schema.names
        array = batch[field.name].cast(field.type) if is_there else pa.nulls(batch.num_rows, field.type)
        if array.null_count and field.name in _DEFAULTS:
            array = pc.fill_null(array, pa.scalar(_DEFAULTS[field.name], field.type))
        arrays.append(array)
    if lacking := [field.name for field, array in zip(schema, arrays, strict=True) if _lacks(field, array)]:
        raise ValueError(f"it lacks {', '.join(lacking)}")
    return pa.Table.from_arrays(arrays, schema=schema)


def _lacks(field: pa.Field, array: pa.Array) -> bool:
    return not field.nullable and array.null_count > 0


def read_file(folder: RunFolder, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the records of one file.

    Raises:
        RunError: it holds none, or cannot be read.
    """
    try:
        return parse_records(folder.read(name, most=LOG_BYTES), columns)
    except ValueError as error:
        raise damaged(folder, name, str(error)) from None


def damaged(folder: RunFolder, name: str, why: str) -> RunError:
    """Return the error of a file of records that cannot be read as one."""
    return RunError(
        f"run {folder.run_id}: {name} holds no records: {why}.",
        f"Move {folder.path(name)} out of that folder to do without its records.",
    )
