"""The run folder, wherever it lies. One class knows the names in it.

    runs/<run_id>/  job.yaml  job-<attempt>.yaml  plan.json  status.json  driver.json  events.jsonl  metrics/*.parquet
                    checkpoints/  logs/  tensorboard/  report.json  report.html  report.md

The folder may lie on any filesystem that fsspec reaches (``s3://``, ``gs://``, a plain path). Documents are written
beside and moved; logs append whole lines; every file has one writer.
"""

import json
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Self, Unpack

from fsspec.implementations.local import LocalFileSystem

from scaler.errors import RunError
from scaler.masking import mask_text
from scaler.runs.filesystems import (
    SEE_TO_IT,
    has_folders,
    inside,
    located,
    make_folder,
    not_made,
    reach,
    storage_errors,
)
from scaler.runs.parsing import parse_json
from scaler.runs.status import StatusValues


class RunState(StrEnum):
    """Where a run is: ``STARTING -> RUNNING -> one of the ends``.

    ``LOST`` is never written: readers say it of a run without an end whose driver is gone.
    """

    STARTING = "starting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"
    LOST = "lost"

    @property
    def is_end(self) -> bool:
        """Whether nothing will follow."""
        return self in (RunState.SUCCEEDED, RunState.FAILED, RunState.STOPPED)


IDS = 100  # how many ids are tried for a new run
DOCUMENT_BYTES = 2**26  # a document of ours is far smaller; a larger file was put there to hurt
LOG_BYTES = 2**30
BLOCK_BYTES = 4096  # what a small file occupies


def new_run_id(name: str, now: datetime) -> str:
    """Return ``<name>-<YYYYmmdd-HHMMSS>-<4 hex>``, in UTC; a time without a zone is taken as UTC."""
    if now.tzinfo is not None:
        now = now.astimezone(UTC)
    return f"{name}-{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


@dataclass(frozen=True)
class RunFolder:
    """One run's folder.

    Args:
        uri: where it lies: a path, or a URI that fsspec knows. It can be pickled and opened on another machine.
    """

    uri: str
    _fs: Any = field(init=False, repr=False, compare=False)
    _root: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        filesystem, root = reach(self.uri)
        object.__setattr__(self, "_fs", filesystem)
        object.__setattr__(self, "_root", root.rstrip("/"))

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:
        return type(self), (self.uri,)

    @classmethod
    def create(cls, storage: str, *, name: str, now: datetime) -> Self:
        """Make a new run's folder below ``storage``.

        Raises:
            RunError: the storage cannot be written.
        """
        base = located(storage)
        reach(base)
        for _ in range(IDS):  # two runs of one name in one second may draw the same four digits
            folder = cls(inside(base, new_run_id(name, now)))
            if make_folder(folder._fs, folder._root, storage=storage, uri=base):
                return folder
        raise not_made(storage, f"{IDS} runs of this second are there already")

    @property
    def run_id(self) -> str:
        """The folder's own name."""
        return self._root.rsplit("/", 1)[-1]

    @property
    def local_path(self) -> Path | None:
        """The folder on this machine, or None when it lies elsewhere."""
        return Path(self._root) if isinstance(self._fs, LocalFileSystem) else None

    @property
    def place(self) -> str:
        """Where the folder lies, the same from wherever one looks: a path without links, or a URI without password."""
        return mask_text(self.uri.rstrip("/")) if self.local_path is None else os.path.realpath(self.local_path)

    def path(self, name: str) -> str:
        """What a person can open: a path relative to here where there is one, else a URI, without its password."""
        if self.local_path is None:
            return mask_text(f"{self.uri.rstrip('/')}/{name}" if name else self.uri)
        full = self.local_path / name if name else self.local_path
        return str(full.relative_to(Path.cwd())) if full.is_relative_to(Path.cwd()) else str(full)

    # Documents: whole, replaced at once.

    def write(self, name: str, content: str | bytes) -> None:
        """Write a document beside its place, then move it there: a reader sees the old one or the new one.

        Raises:
            RunError: the storage does not take it; the old one is still there.
        """
        data = content.encode() if isinstance(content, str) else content
        target = self._at(name)
        parent, _, last = target.rpartition("/")
        beside = f"{parent}/.{last}.{secrets.token_hex(4)}.part"  # hidden: readers of a whole folder pass it over
        with self._told(name, "written"):
            try:
                if has_folders(self._fs):
                    self._fs.makedirs(parent, exist_ok=True)
                with self._fs.open(beside, "wb") as file:
                    file.write(data)
                if self.local_path is not None:
                    self._fs.mv(beside, target)
                else:  # fsspec's own mv reads [ and * in a path as patterns
                    self._fs.cp_file(beside, target)
                    self._fs.rm_file(beside)
            except OSError:
                with suppress(OSError):  # on a full disk its place is needed
                    self._fs.rm_file(beside)
                raise

    def read(self, name: str, *, most: int | None = DOCUMENT_BYTES) -> bytes:
        """Return a document.

        Args:
            name: its name.
            most: how many bytes it may have; None: any number.

        Raises:
            RunError: there is none, or it cannot be read.
        """
        data = self.read_if_there(name, most=most)
        if data is None:
            raise RunError(
                f"run {self.run_id} has no {name} in {self.path('')}.",
                "It is written when the run starts; scaler list shows the runs that there are.",
            )
        return data

    def read_if_there(self, name: str, *, most: int | None = DOCUMENT_BYTES) -> bytes | None:
        """Return a document; None when there is none.

        Raises:
            RunError: it cannot be read, is no file, or is larger than ``most`` bytes; whether it is there is then not
                known.
        """
        path = self._at(name)
        try:
            with self._told(name, "read"):
                size = self._require_file(name, path)
                with self._fs.open(path, "rb") as file:
                    size = getattr(file, "size", None) if size is None else size
                    if most is not None and size is not None and size > most:
                        raise RunError(
                            f"run {self.run_id}: {name} has {size:,} bytes, and at most {most:,} are read.",
                            f"Look at {self.path(name)}: scaler does not write files of that size.",
                        )
                    data: bytes = file.read()
                    return data
        except FileNotFoundError:
            return None

    def size(self, name: str) -> int:
        """Return the size of a file in bytes.

        Raises:
            RunError: there is no such file, or the storage does not tell.
        """
        path = self._at(name)
        try:
            with self._told(name, "read"):
                return int(self._fs.size(path))
        except FileNotFoundError:
            raise RunError(f"run {self.run_id} has no {name} in {self.path('')}.", SEE_TO_IT) from None

    def _require_file(self, name: str, path: str) -> int | None:
        """Refuse what is not a file: a pipe would be waited for for ever. Return its size; None: it is elsewhere."""
        if self.local_path is None:
            return None
        about = os.stat(path)
        if not stat.S_ISREG(about.st_mode):
            raise RunError(
                f"run {self.run_id}: {name} is not a file, but a folder, a pipe or a device.",
                f"Look at {self.path(name)}: scaler did not put it there.",
            )
        return about.st_size

    @contextmanager
    def _told(self, name: str, doing: str) -> Iterator[None]:
        """Say what the storage refused; that a file is not there is for the caller of a reader to tell."""
        what = f"run {self.run_id}: {name} cannot be {doing} in {self.path('')}"
        remedy = "Make room there, or see to the storage." if doing == "written" else SEE_TO_IT
        try:
            with storage_errors(what, uri=self.uri, remedy=remedy):
                yield
        except FileNotFoundError as error:
            if doing != "written":
                raise
            raise RunError(f"{what}: {error.strerror or type(error).__name__}.", remedy) from error

    def _at(self, name: str) -> str:
        """The path of something in the folder, and never of anything outside.

        Raises:
            ValueError: the name is absolute, or has ``..`` in it.
            RunError: a link in the folder leads elsewhere.
        """
        if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/") or "\0" in name:
            raise ValueError(f"{name!r} is no name in a run's folder")
        path = f"{self._root}/{name}" if name else self._root
        if self.local_path is not None and "\0" not in path and self._leads_out(path):
            raise RunError(
                f"run {self.run_id}: {name} is a link that leads out of the run's folder.",
                "Who made this folder may want something else to be read or written; look at it.",
            )
        return path

    def _leads_out(self, path: str) -> bool:
        """Whether a local path leads out of the folder, by a link in it."""
        real, root = os.path.realpath(path), os.path.realpath(self._root or "/")
        return real != root and not real.startswith(f"{root.rstrip('/')}/")

    def write_json(self, name: str, values: Mapping[str, Any]) -> None:
        """Write a JSON document."""
        self.write(name, json.dumps(values, indent=1, allow_nan=False) + "\n")

    def read_json(self, name: str) -> dict[str, Any]:
        """Return a JSON document.

        Raises:
            RunError: there is none, or it is not JSON.
        """
        try:
            values = parse_json(self.read(name))
        except ValueError as error:
            raise RunError(f"run {self.run_id}: {name} is not JSON: {error}.", "The file was altered.") from None
        if not isinstance(values, dict):
            raise RunError(f"run {self.run_id}: {name} holds no keys and values.", "The file was altered.")
        return values

    def exists(self, name: str = "") -> bool:
        """Whether there is such a file, or the folder itself.

        Raises:
            RunError: the storage does not tell.
        """
        path = self._at(name)
        if self.local_path is not None:
            return os.path.exists(path)
        try:  # fsspec's own exists() of some filesystems takes every error for a no
            with self._told(name or "the folder", "read"):
                self._fs.info(path)
        except FileNotFoundError:
            return False
        return True

    def names(self, folder: str) -> list[str]:
        """Return the names in one of the run's folders, sorted; none when it is not there."""
        path = self._at(folder)
        try:
            with self._told(folder or "the folder", "read"):
                found = self._fs.ls(path, detail=False)
        except FileNotFoundError:
            return []
        return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in found)

    def rename(self, name: str, to: str) -> None:
        """Give a file another name; one that is not there is no error.

        Raises:
            RunError: the storage does not let it.
        """
        path, target = self._at(name), self._at(to)
        try:
            with self._told(name, "renamed"):
                self._fs.cp_file(path, target)
                self._fs.rm_file(path)
        except FileNotFoundError:
            return

    def remove(self, name: str) -> None:
        """Remove a file; one that is gone already is no error."""
        path = self._at(name)
        try:
            with self._told(name, "removed"):
                self._fs.rm_file(path)
        except FileNotFoundError:
            return

    def remove_folder(self, name: str) -> None:
        """Remove one of the run's folders and what is in it; one that is gone already is no error."""
        if not name:
            raise ValueError("a run's folder is not removed whole")
        if self.exists(name):
            with self._told(name, "removed"):
                self._fs.rm(self._at(name), recursive=True)

    # Logs: whole lines, appended.

    def append_json(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows to a log, a line of JSON each.

        Raises:
            RunError: the storage does not take them.
        """
        lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        if lines:
            self._append(name, lines.encode())

    def end_line(self, name: str) -> None:
        """End a line that a killed writer left cut off, so that the next row has a line of its own."""
        if self.exists(name) and not self.read(name, most=LOG_BYTES).endswith(b"\n"):
            self._append(name, b"\n")

    def _append(self, name: str, data: bytes) -> None:
        """Append to a file. Object stores cannot, and some pretend to: there the whole is written anew."""
        if self.local_path is None:
            self.write(name, (self.read_if_there(name, most=LOG_BYTES) or b"") + data)
            return
        path = Path(self._at(name))
        with self._told(name, "written"):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                self._require_file(name, str(path))
            with path.open("ab", buffering=0) as file:
                end = file.tell()
                try:
                    while data:
                        data = data[file.write(data) :]
                except OSError:  # half a row, and then the same row again, would both be lost
                    with suppress(OSError):
                        file.truncate(end)
                    raise

    def rows(self, name: str) -> Iterator[dict[str, Any]]:
        """Yield the rows of a log; a line that was cut off by a kill is passed over."""
        lines = (self.read_if_there(name, most=LOG_BYTES) or b"").split(b"\n")
        for number, line in enumerate(lines):
            if line and number != len(lines) - 1:
                try:
                    row = parse_json(line)
                except ValueError:  # cut off, and ended by a later writer
                    continue
                if isinstance(row, dict):
                    yield row

    # Names that more than one room uses.

    def is_run(self) -> bool:
        """Whether the folder is a run's, readable or not."""
        if self.local_path is None:
            return self.exists("status.json")
        return os.path.lexists(f"{self._root}/status.json")  # also a link, which is not followed

    def set_state(self, state: RunState, **values: Unpack[StatusValues]) -> None:
        """Write the run's status; ``values`` replace or join those already there, and None takes one away.

        ``run_id`` is always the folder's name, also of a copy that has another than its original.
        """
        before = self.read_json("status.json") if self.exists("status.json") else {}
        mine = {"run_id": self.run_id, "state": state}
        status = {"schema_version": 1, **mine, **before, **values, **mine}
        known = {key: value for key, value in status.items() if value is not None}
        try:
            self.write_json("status.json", known)
        except RunError as error:
            if self.local_path is None or not before or not isinstance(error.__cause__, OSError):
                raise
            self._overwrite_status(known)

    def _overwrite_status(self, known: Mapping[str, Any]) -> None:
        """Write the status over the old one, in the room that this has: on a full disk there is no other.

        Raises:
            RunError: it cannot be written there either.
        """
        path = self._at("status.json")
        with self._told("status.json", "written"):
            self._require_file("status.json", path)
            with open(path, "r+b") as file:
                room = max(len(file.read()), BLOCK_BYTES)
                data = json.dumps(known).encode()
                if len(data) > room and isinstance(known.get("failure"), str):
                    data = json.dumps({**known, "failure": known["failure"][: BLOCK_BYTES // 8]}).encode()
                file.seek(0)
                file.write(data)
                file.truncate()

    def state(self) -> RunState:
        """Return the run's state as last written."""
        state = self.read_json("status.json").get("state")
        written = [known for known in RunState if known is not RunState.LOST]
        if state not in written:
            raise RunError(
                f"run {self.run_id}: status.json has the state {str(state)[:60]}, not one of {', '.join(written)}.",
                "The file was altered.",
            )
        return RunState(state)

    def job_names(self) -> dict[int, str]:
        """Return the run's job files by the attempt that each holds from, ascending; ``job.yaml`` holds from 0."""
        found = {0: "job.yaml"}
        for name in self.names(""):
            if match := re.fullmatch(r"job-(\d+)\.yaml", name):
                found[int(match[1])] = name
        return dict(sorted(found.items()))

    def filesystem(self, folder: str) -> tuple[Any, str]:
        """Return the fsspec filesystem and the path of one of the run's folders on it, for readers of many files."""
        return self._fs, self._at(folder)
