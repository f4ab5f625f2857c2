"""The number of a run's next life, from whatever the ones before have left in its folder."""

from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scaler.metrics.events import CheckpointPassedOver
from scaler.metrics.files import EVENTS, FOLDER, damaged, file_ranges
from scaler.runs import RunFolder
from scaler.runs.files import LOG_BYTES
from scaler.runs.filesystems import reason
from scaler.runs.parsing import parse_json


def next_attempt(folder: RunFolder) -> int:
    """Return the number of the worker group's next life: above any that has left something here; the first is 0.

    That is in ``events.jsonl``, among the records, in a checkpoint's manifest; a changed job holds from its number on.
    A checkpoint that was passed over belongs to a life that is still to begin.

    Raises:
        RunError: a file of records holds none.
    """
    events = [row for row in folder.rows(EVENTS) if row.get("kind") != CheckpointPassedOver.kind]
    manifests = [_manifest(folder, name) for name in folder.names("checkpoints") if name.endswith(".json")]
    lives = [row["attempt"] for row in (*events, *manifests) if isinstance(row.get("attempt"), int)]
    lives += [_newest_attempt(folder, name) for name in folder.names(FOLDER) if file_ranges([name])]
    return max(max(lives, default=-1) + 1, *folder.job_names(), 0)


def _manifest(folder: RunFolder, name: str) -> dict[str, Any]:
    """A checkpoint's manifest; empty where it is torn."""
    try:
        values = parse_json(folder.read_if_there(f"checkpoints/{name}") or b"{}")
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def _newest_attempt(folder: RunFolder, name: str) -> int:
    """The highest attempt of a file of records, from its footer alone; -1 when it says none."""
    raw = folder.read_if_there(f"{FOLDER}/{name}", most=LOG_BYTES)
    if raw is None:  # merged into a larger one this moment
        return -1
    try:
        about = pq.read_metadata(BytesIO(raw))
        column = about.schema.names.index("attempt")
        groups = [about.row_group(number).column(column).statistics for number in range(about.num_row_groups)]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise damaged(folder, f"{FOLDER}/{name}", reason(error)) from None
    return max((group.max for group in groups if group is not None and group.has_min_max), default=-1)
