"""The files of a run's checkpoints: which exist, which are complete, and which are set aside.

    checkpoints/<samples_seen>/    the files of one checkpoint, as ``save.py`` writes and ``load.py`` reads them
        model-<rank>.bin           a worker's part of the model's tensors: their bytes, one after the other
        average-<rank>.bin         the same of the weights' average
        resume-<rank>.bin          the same of everything else, such as the optimizer's state
        plain.pt                   the state without its tensors
        metadata.json              which tensors there are, and where the bytes of each are
    checkpoints/<samples_seen>.json    the manifest, with the length and SHA-256 of each file; written last, so that it
                                       marks a complete checkpoint

This module does not load torch, because a driver finds the newest checkpoint before it starts anything.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from time import time
from typing import Any, NamedTuple, Self

from scaler.errors import RunError
from scaler.metrics.events import CheckpointPassedOver
from scaler.runs import RunFolder
from scaler.runs.parsing import parse_json

FOLDER = "checkpoints"
PLAIN, INDEX = "plain.pt", "metadata.json"
SCHEMA_VERSION = 4
THREADS = 8  # that read the files of a checkpoint


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


class FileSum(NamedTuple):
    """What a manifest says of a file."""

    size: int  # in bytes
    sha256: str

    @classmethod
    def of(cls, data: bytes) -> Self:
        """Return the length and checksum of a file's content."""
        return cls(len(data), sha256(data).hexdigest())


class Checkpoint(NamedTuple):
    """A checkpoint whose files are there, each with its right length."""

    folder: RunFolder
    samples_seen: int
    manifest: dict[str, Any]
    files: dict[str, FileSum]

    def path(self, file: str) -> str:
        """Return the path of a file in the run's folder."""
        return file_path(self.samples_seen, file)

    def blocks(self, file: str) -> Iterator[bytes]:
        """Yield the content of a file; after the last block, its checksum is compared.

        Raises:
            UnusableError: the file was altered.
            RunError: it cannot be read.
        """
        digest, expected = sha256(), self.files[file]
        for block in self.folder.read_blocks(self.path(file), end=expected.size):
            digest.update(block)
            yield block
        if digest.hexdigest() != expected.sha256:
            raise self.altered(file)

    def altered(self, file: str) -> UnusableError:
        """Return the error of a file whose checksum is another one."""
        return UnusableError(f"checkpoint {self.samples_seen} was altered: the checksum of {file} does not match.")


def write_manifest(folder: RunFolder, about: Mapping[str, Any], files: Mapping[str, FileSum]) -> int:
    """Write the manifest of a checkpoint, which completes it; return the size of the checkpoint in bytes.

    Args:
        folder: the run's.
        about: plain values for the manifest; its ``samples_seen`` names the checkpoint.
        files: of the checkpoint, by name.
    """
    size = sum(file.size for file in files.values())
    sums = {name: {"bytes": file.size, "sha256": file.sha256} for name, file in sorted(files.items())}
    values = {"schema_version": SCHEMA_VERSION, **about, "bytes": size, "files": sums}
    folder.write_json(f"{_name(about['samples_seen'])}.json", values)
    return size


def copy_checkpoint(source: RunFolder, samples_seen: int, folder: RunFolder) -> None:
    """Copy a checkpoint of one run into the folder of another run, in which it belongs to no attempt.

    Raises:
        UnusableError: the checkpoint is incomplete or altered.
        RunError: the storage cannot be read or written.
    """
    there = open_files(source, samples_seen)
    remove_checkpoint(folder, samples_seen)
    _in_threads(lambda file: folder.write_blocks(there.path(file), there.blocks(file)), there.files)
    write_manifest(folder, {**there.manifest, "attempt": None}, there.files)


def find_checkpoint(folder: RunFolder) -> tuple[int | None, list[PassedOver]]:
    """Return the newest usable checkpoint, as its ``samples_seen``, and the newer ones that were passed over.

    The newer ones are set aside, or removed if they never had a manifest: no later attempt finds them, and they do not
    count as newest checkpoints to keep. Nothing is changed when this function raises an error.

    Raises:
        RunError: the storage cannot be read or does not allow renaming; a checkpoint has an unknown schema version; or
            there were checkpoints and none can be used: training never starts again from 0 silently.
    """
    unusable: list[tuple[int, UnusableError]] = []
    found = None
    for samples_seen in reversed(_numbers(folder.names(FOLDER))):  # also folders without a manifest
        try:
            require_unaltered(folder, samples_seen)
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
    for samples_seen, why in unusable:
        if why.counted:
            _set_aside(folder, samples_seen)
        else:  # what a killed writer left may be large, and nobody can use it
            remove_checkpoint(folder, samples_seen)
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
    return _numbers(name for name in folder.names(FOLDER) if name.endswith(".json"))


def remove_checkpoint(folder: RunFolder, samples_seen: int) -> None:
    """Remove a checkpoint, its manifest first; one that does not exist is no error."""
    folder.remove(f"{_name(samples_seen)}.json")
    folder.remove_folder(_name(samples_seen))


def require_unaltered(folder: RunFolder, samples_seen: int) -> None:
    """Read every file of a checkpoint, several at a time, and compare its checksum.

    Raises:
        UnusableError: the checkpoint is incomplete or altered; the message names a file.
        RunError: the checkpoint has an unknown schema version, or the storage cannot be read.
    """
    there = open_files(folder, samples_seen)

    def check(file: str) -> None:
        for _ in there.blocks(file):
            pass

    _in_threads(check, there.files)


def open_files(folder: RunFolder, samples_seen: int) -> Checkpoint:
    """Return the files of a checkpoint, after a check of which there are and of their lengths, not of their content.

    Raises:
        UnusableError: the checkpoint is incomplete, or its manifest was altered.
        RunError: the checkpoint has an unknown schema version, or the storage cannot be read.
    """
    where = f"checkpoint {samples_seen}"
    data = folder.read_if_there(f"{_name(samples_seen)}.json")
    if data is None:
        raise UnusableError(f"{where} is incomplete: its manifest was not written.", counted=False)
    try:
        about = parse_json(data)
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
    try:
        files = {name: FileSum(int(sums["bytes"]), str(sums["sha256"])) for name, sums in about["files"].items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        files = {}
    if not {PLAIN, INDEX} <= set(files) or not all(re.fullmatch(r"[a-z]+(-\d+)?\.[a-z]+", name) for name in files):
        raise UnusableError(f"{where} was altered: its manifest does not name its files.")
    sizes = folder.sizes(_name(samples_seen))
    for name, expected in files.items():
        if name not in sizes:
            raise UnusableError(f"{where} is incomplete: its file {name} is missing.")
        if sizes[name] != expected.size:
            raise UnusableError(f"{where} is incomplete: {name} has {sizes[name]:,} bytes of {expected.size:,}.")
    return Checkpoint(folder, samples_seen, about, files)


def file_path(samples_seen: int, file: str) -> str:
    """Return the path of a checkpoint's file in the run's folder."""
    return f"{_name(samples_seen)}/{file}"


def _in_threads(action: Any, files: Mapping[str, FileSum]) -> None:
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(action, files))


def _set_aside(folder: RunFolder, samples_seen: int) -> None:
    """Rename a checkpoint's files, so that a person can inspect them and scaler ignores them."""
    name = _name(samples_seen)
    try:
        folder.rename(f"{name}.json", f"{name}.json.bad")
        folder.rename_folder(name, f"{name}.bad")
    except RunError as error:
        raise RunError(
            f"run {folder.run_id}: checkpoint {samples_seen} cannot be used, and cannot be set aside. {error.problem}",
            f"Rename {folder.path(name)}.json and the folder {folder.path(name)}, or repair the storage.",
        ) from error


def _numbers(names: Iterable[str]) -> list[int]:
    """Return the checkpoints to which names of manifests and folders belong, ascending."""
    stems = (name.removesuffix(".json") for name in names)
    return sorted({int(stem) for stem in stems if stem.isdigit()})


def _name(samples_seen: int) -> str:
    return f"{FOLDER}/{samples_seen:015d}"
