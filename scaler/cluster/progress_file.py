"""``progress.json``: how far a run is, for readers in other processes."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from math import isfinite
from time import time
from typing import Any

from scaler.cluster.progress import Progress
from scaler.runs import RunFolder
from scaler.runs.control import PROGRESS
from scaler.runs.parsing import parse_json


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgressFile:
    """How far a run is. While the run trains, its driver writes this every second or two."""

    schema_version: int = 1  # version of these fields: 1
    written_at: float  # moment of this progress
    total_samples: float  # length of the run, in the samples that progress counts
    waiting_for: str | None = None  # what the run waits for before it can train; None: it does not wait
    tokens_per_sample: int | None = None  # of a job that counts tokens, now; None: it counts samples
    progress: Progress  # what the workers have done; a loss that is not finite is null

    @property
    def share(self) -> float:
        """The share of the run that is done, from 0 to 1."""
        return min(1.0, self.progress.progress / self.total_samples) if self.total_samples > 0 else 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds until the end at the present throughput, without evaluations and checkpoints; None: not known."""
        speed, seen = self.progress.samples_per_s, self.progress.samples_seen
        if not speed or not seen or not self.progress.progress:
            return None
        return max(0.0, self.total_samples - self.progress.progress) * (seen / self.progress.progress) / speed


def progress_dict(
    progress: Progress, *, total_samples: float, tokens_per_sample: int | None = None, waiting_for: str | None = None
) -> Mapping[str, Any]:
    """Return the content of ``progress.json``, with the present time."""
    whole = ProgressFile(
        written_at=time(),
        total_samples=total_samples,
        waiting_for=waiting_for,
        tokens_per_sample=tokens_per_sample,
        progress=progress,
    )
    values: Mapping[str, Any] = _finite(asdict(whole))
    return values


def read_progress(folder: RunFolder) -> ProgressFile | None:
    """Return how far a run is; None: it has not begun, or the file was altered.

    Raises:
        RunError: the folder cannot be read.
    """
    raw = folder.read_if_there(PROGRESS)
    with suppress(ValueError):  # pydantic's errors are ValueErrors
        return None if raw is None else _reader().validate_python(parse_json(raw))
    return None


def _finite(value: Any) -> Any:
    """Return the value for JSON, which has no NaN and no infinity."""
    match value:
        case float():
            return value if isfinite(value) else None
        case Mapping():
            return {name: _finite(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_finite(inner) for inner in value]
        case _:
            return value


@cache
def _reader() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(ProgressFile)
