"""The number of a run's next attempt, from what earlier attempts left in its folder."""

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
    """Return the number of the next attempt: above every attempt that left something in the folder; the first is 0.

    An attempt leaves events (damaged ones count, too), records and manifests of checkpoints. The file
    of a changed job has the number of the first attempt that uses it. Events ``checkpoint_passed_over`` do not count,
    because they have the number of the attempt that is about to start.

    Raises:
        RunError: a file of records is damaged.
    """
    events = [row for row in folder.rows(EVENTS) if row.get("kind") != CheckpointPassedOver.kind]
    manifests = [_manifest(folder, name) for name in folder.names("checkpoints") if name.endswith(".json")]
    attempts = [row["attempt"] for row in (*events, *manifests) if isinstance(row.get("attempt"), int)]
    attempts += [_newest_attempt(folder, name) for name in folder.names(FOLDER) if file_ranges([name])]
    return max(max(attempts, default=-1) + 1, *folder.job_names(), 0)


def _manifest(folder: RunFolder, name: str) -> dict[str, Any]:
    """Return a checkpoint's manifest; empty if it is damaged."""
    try:
        values = parse_json(folder.read_if_there(f"checkpoints/{name}") or b"{}")
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def _newest_attempt(folder: RunFolder, name: str) -> int:
    """Return the highest attempt in a file of records, from its footer; -1 if the footer has none."""
    raw = folder.read_if_there(f"{FOLDER}/{name}", most=LOG_BYTES)
    if raw is None:  # just merged into a larger file
        return -1
    try:
        about = pq.read_metadata(BytesIO(raw))
        column = about.schema.names.index("attempt")
        groups = [about.row_group(number).column(column).statistics for number in range(about.num_row_groups)]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise damaged(folder, f"{FOLDER}/{name}", reason(error)) from None
    return max((group.max for group in groups if group is not None and group.has_min_max), default=-1)
