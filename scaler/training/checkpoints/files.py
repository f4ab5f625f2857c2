"""The files of a run's checkpoints: which exist, which are complete, and which are set aside.

    checkpoints/<samples_seen>.pt    the state, as ``state.py`` writes and reads it
    checkpoints/<samples_seen>.json  the manifest, with length and SHA-256 of the state; written last, so that it marks
                                     a complete checkpoint

This module does not load torch, because a driver finds the newest checkpoint before it starts anything.
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
SCHEMA_VERSION = 3


class UnusableError(RunError):
    """An incomplete or altered checkpoint. Storage that cannot be read now raises a plain ``RunError`` instead.

    Args:
        problem: says which checkpoint, and why.
        counted: whether the checkpoint was complete once: it has a manifest.
    """

    def __init__(self, problem: str, *, counted: bool = True) -> None:
        super().__init__(problem)
        self.counted = counted


class PassedOver(NamedTuple):
    """A checkpoint that cannot be used; its files are set aside."""

    samples_seen: int
    reason: str


def write_files(folder: RunFolder, data: bytes, about: Mapping[str, Any]) -> None:
    """Write a state and then its manifest, which completes the checkpoint.

    Args:
        folder: the run's.
        data: the state.
        about: plain values for the manifest; its ``samples_seen`` names the files.
    """
    name = _name(about["samples_seen"])
    folder.remove(f"{name}.json")  # while both files are replaced, the checkpoint is not complete
    folder.write(f"{name}.pt", data)
    sums = {"bytes": len(data), "sha256": sha256(data).hexdigest()}
    folder.write_json(f"{name}.json", {"schema_version": SCHEMA_VERSION, **about, **sums})


def copy_checkpoint(source: RunFolder, samples_seen: int, folder: RunFolder) -> None:
    """Copy a checkpoint of one run into the folder of another run, in which it belongs to no attempt.

    Raises:
        UnusableError: the checkpoint is incomplete or altered.
        RunError: the storage cannot be read or written.
    """
    data, about = read_files(source, samples_seen), read_manifest(source, samples_seen)
    write_files(folder, data, {**about, "attempt": None})


def find_checkpoint(folder: RunFolder) -> tuple[int | None, list[PassedOver]]:
    """Return the newest usable checkpoint, as its ``samples_seen``, and the newer ones that were passed over.

    The newer ones are set aside: no later attempt finds them, and they do not count as newest checkpoints to keep.
    Nothing is set aside when this function raises an error.

    Raises:
        RunError: the storage cannot be read or does not allow renaming; a checkpoint has an unknown schema version; or
            there were checkpoints and none can be used: training never starts again from 0 silently.
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
            "Restore one from a copy, or submit the job again; scaler does not restart from 0 automatically.",
        )
    for samples_seen, _ in unusable:
        _set_aside(folder, samples_seen)
    return found, [PassedOver(samples_seen, error.problem.removesuffix(".")) for samples_seen, error in unusable]


def passed_over_events(passed_over: Sequence[PassedOver], *, attempt: int) -> list[CheckpointPassedOver]:
    """Return an event for each checkpoint that was passed over at the start of an attempt."""
    return [
        CheckpointPassedOver(time=time(), attempt=attempt, samples_seen=one.samples_seen, reason=one.reason)
        for one in passed_over
    ]


def read_manifest(folder: RunFolder, samples_seen: int) -> dict[str, Any]:
    """Return a checkpoint's manifest."""
    return folder.read_json(f"{_name(samples_seen)}.json")


def complete_checkpoints(folder: RunFolder) -> list[int]:
    """Return the ``samples_seen`` of every complete checkpoint, ascending."""
    return sorted(_numbers(folder, ".json"))


def remove_checkpoint(folder: RunFolder, samples_seen: int) -> None:
    """Remove a checkpoint, its manifest first."""
    folder.remove(f"{_name(samples_seen)}.json")
    folder.remove(f"{_name(samples_seen)}.pt")


def read_files(folder: RunFolder, samples_seen: int) -> bytes:
    """Return the state of a checkpoint, after checking its length and checksum.

    Raises:
        UnusableError: the checkpoint is incomplete or altered.
        RunError: the checkpoint has an unknown schema version, or the storage cannot be read.
    """
    where = f"checkpoint {samples_seen}"
    names, name = folder.names(FOLDER), f"{samples_seen:015d}"
    if f"{name}.json" not in names:
        raise UnusableError(f"{where} is incomplete: its manifest was not written.", counted=False)
    if f"{name}.pt" not in names:
        raise UnusableError(f"{where} is incomplete: its state is missing.")
    try:
        about = parse_json(folder.read(f"{_name(samples_seen)}.json"))
    except ValueError:
        raise UnusableError(f"{where} is incomplete: its manifest is not JSON.") from None
    if not isinstance(about, dict):
        raise UnusableError(f"{where} was altered: its manifest is not a JSON object.")
    if about.get("schema_version") != SCHEMA_VERSION:
        raise RunError(
            f"run {folder.run_id}: {where} has schema version {about.get('schema_version')}, "
            f"and this scaler reads {SCHEMA_VERSION}.",
            "Resume with the version of scaler that wrote it.",
        )
    size = folder.size(f"{_name(samples_seen)}.pt")
    if size != about.get("bytes"):
        raise UnusableError(f"{where} is incomplete: {size:,} bytes of {about.get('bytes')}.")
    data = folder.read(f"{_name(samples_seen)}.pt", most=None)
    if sha256(data).hexdigest() != about.get("sha256"):
        raise UnusableError(f"{where} was altered: its checksum does not match.")
    return data


def _set_aside(folder: RunFolder, samples_seen: int) -> None:
    """Rename a checkpoint's files, so that a person can inspect them and scaler ignores them."""
    for suffix in ("json", "pt"):
        name = f"{_name(samples_seen)}.{suffix}"
        try:
            folder.rename(name, f"{name}.bad")
        except RunError as error:
            raise RunError(
                f"run {folder.run_id}: checkpoint {samples_seen} cannot be used, and cannot be set aside. "
                f"{error.problem}",
                f"Rename {folder.path(_name(samples_seen))}.json and .pt, or repair the storage.",
            ) from error


def _all(folder: RunFolder) -> set[int]:
    return _numbers(folder, ".json") | _numbers(folder, ".pt")


def _numbers(folder: RunFolder, suffix: str) -> set[int]:
    stems = (name.removesuffix(suffix) for name in folder.names(FOLDER) if name.endswith(suffix))
    return {int(stem) for stem in stems if stem.isdigit()}


def _name(samples_seen: int) -> str:
    return f"{FOLDER}/{samples_seen:015d}"
