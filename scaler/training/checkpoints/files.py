"""The files of a run's checkpoints: which there are, which count, and which are set aside.

    checkpoints/<samples_seen>.pt    the state, as ``checkpoint.py`` writes and reads it
    checkpoints/<samples_seen>.json  what it is, with its length and SHA-256; written last, so that it makes it count

Nothing here loads torch: a driver looks for the newest one before it starts anything.
"""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from time import time
from typing import Any, NamedTuple

from scaler.errors import RunError
from scaler.metrics.events import CheckpointPassedOver
from scaler.runs import RunFolder
from scaler.runs.parsing import parse_json

FOLDER = "checkpoints"
SCHEMA_VERSION = 2


class UnusableError(RunError):
    """A checkpoint that is torn or altered; not storage that cannot be read just now.

    Args:
        problem: says which, and why.
        counted: whether it was whole once: it has a manifest.
    """

    def __init__(self, problem: str, *, counted: bool = True) -> None:
        super().__init__(problem)
        self.counted = counted


class PassedOver(NamedTuple):
    """A checkpoint that cannot be used; its files are set aside."""

    samples_seen: int
    reason: str


def write_files(folder: RunFolder, data: bytes, about: Mapping[str, Any]) -> None:
    """Write a state and its manifest, which makes it count.

    Args:
        folder: the run's.
        data: the state.
        about: plain values for the manifest; its ``samples_seen`` names the files.
    """
    name = _name(about["samples_seen"])
    folder.remove(f"{name}.json")  # while both are replaced, neither counts
    folder.write(f"{name}.pt", data)
    sums = {"bytes": len(data), "sha256": sha256(data).hexdigest()}
    folder.write_json(f"{name}.json", {"schema_version": SCHEMA_VERSION, **about, **sums})


def find_checkpoint(folder: RunFolder) -> tuple[int | None, list[PassedOver]]:
    """Return the newest checkpoint whose checksum is right, by its ``samples_seen``, and those that were passed over.

    Those are set aside: no later life meets them again, and none of them counts among the newest. Nothing is set aside
    when this raises.

    Raises:
        RunError: the storage cannot be read or does not let them be set aside, a checkpoint is of another version of
            scaler, or there were some and none is left: training does not begin anew behind anybody's back.
    """
    unusable: list[tuple[int, UnusableError]] = []
    found = None
    for samples_seen in sorted(_all(folder), reverse=True):
        try:
            read_files(folder, samples_seen)
        except UnusableError as error:
            unusable.append((samples_seen, error))
            continue
        found = samples_seen
        break
    if found is None and any(error.counted for _, error in unusable):
        raise RunError(
            f"run {folder.run_id}: none of its checkpoints can be used. {unusable[0][1].problem}",
            "Bring one back from a copy, or submit the job again; scaler does not begin anew by itself.",
        )
    for samples_seen, _ in unusable:
        _set_aside(folder, samples_seen)
    return found, [PassedOver(samples_seen, error.problem.removesuffix(".")) for samples_seen, error in unusable]


def passed_over_events(passed_over: Sequence[PassedOver], *, attempt: int) -> list[CheckpointPassedOver]:
    """Return checkpoints that were passed over at the start of an attempt as events."""
    return [
        CheckpointPassedOver(time=time(), attempt=attempt, samples_seen=one.samples_seen, reason=one.reason)
        for one in passed_over
    ]


def read_manifest(folder: RunFolder, samples_seen: int) -> dict[str, Any]:
    """Return what a checkpoint says of itself."""
    return folder.read_json(f"{_name(samples_seen)}.json")


def complete_checkpoints(folder: RunFolder) -> list[int]:
    """Return the ``samples_seen`` of every checkpoint that counts, ascending."""
    return sorted(_numbers(folder, ".json"))


def remove_checkpoint(folder: RunFolder, samples_seen: int) -> None:
    """Remove a checkpoint, its manifest first."""
    folder.remove(f"{_name(samples_seen)}.json")
    folder.remove(f"{_name(samples_seen)}.pt")


def read_files(folder: RunFolder, samples_seen: int) -> bytes:
    """Return the state of a checkpoint that is as it was written.

    Raises:
        UnusableError: it is torn or altered.
        RunError: it is of another version of scaler, or the storage cannot be read.
    """
    where = f"checkpoint {samples_seen}"
    names, name = folder.names(FOLDER), f"{samples_seen:015d}"
    if f"{name}.json" not in names:
        raise UnusableError(f"{where} is torn: its manifest was not written.", counted=False)
    if f"{name}.pt" not in names:
        raise UnusableError(f"{where} is torn: its state is missing.")
    try:
        about = parse_json(folder.read(f"{_name(samples_seen)}.json"))
    except ValueError:
        raise UnusableError(f"{where} is torn: its manifest is not JSON.") from None
    if not isinstance(about, dict):
        raise UnusableError(f"{where} was altered: its manifest holds no keys and values.")
    if about.get("schema_version") != SCHEMA_VERSION:
        raise RunError(
            f"run {folder.run_id}: {where} has schema version {about.get('schema_version')}, "
            f"and this scaler reads {SCHEMA_VERSION}.",
            "Go on with the version of scaler that wrote it.",
        )
    size = folder.size(f"{_name(samples_seen)}.pt")
    if size != about.get("bytes"):
        raise UnusableError(f"{where} is torn: {size:,} bytes of {about.get('bytes')}.")
    data = folder.read(f"{_name(samples_seen)}.pt", most=None)
    if sha256(data).hexdigest() != about.get("sha256"):
        raise UnusableError(f"{where} was altered: its checksum is another.")
    return data


def _set_aside(folder: RunFolder, samples_seen: int) -> None:
    """Rename a checkpoint's files, so that a person can look at them and nobody else does."""
    for ending in ("json", "pt"):
        name = f"{_name(samples_seen)}.{ending}"
        try:
            folder.rename(name, f"{name}.bad")
        except RunError as error:
            raise RunError(
                f"run {folder.run_id}: checkpoint {samples_seen} cannot be used, nor be set aside. {error.problem}",
                f"Rename {folder.path(_name(samples_seen))}.json and .pt yourself, or see to the storage.",
            ) from error


def _all(folder: RunFolder) -> set[int]:
    return _numbers(folder, ".json") | _numbers(folder, ".pt")


def _numbers(folder: RunFolder, ending: str) -> set[int]:
    stems = (name.removesuffix(ending) for name in folder.names(FOLDER) if name.endswith(ending))
    return {int(stem) for stem in stems if stem.isdigit()}


def _name(samples_seen: int) -> str:
    return f"{FOLDER}/{samples_seen:015d}"
