"""The files of a run's folder, on any filesystem that fsspec reaches: documents and logs.

A document is replaced as a whole. In an object store, one request replaces it. Elsewhere, the new content is written
to a hidden file beside it, which is then renamed. So a reader sees the old content or the new one. A log grows: rows
are appended to it as whole lines.
"""

import json
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from fsspec.implementations.local import LocalFileSystem

from scaler.errors import RunError
from scaler.masking import mask_text
from scaler.runs.filesystems import CHECK_STORAGE, has_folders, reach, storage_errors
from scaler.runs.parsing import parse_json

DOCUMENT_BYTES = 2**26  # largest document that is read; the documents that scaler writes are far smaller
LOG_BYTES = 2**30  # largest log or file of records that is read


@dataclass(frozen=True)
class RunFiles:
    """The files of one run's folder.

    Args:
        uri: of the folder: a path, or a URI that fsspec knows. The value can be pickled, and used on another machine.
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

    @property
    def run_id(self) -> str:
        """The folder's own name."""
        return self._root.rsplit("/", 1)[-1]

    @property
    def local_path(self) -> Path | None:
        """The folder's path on this machine; None where the folder is in remote storage."""
        return Path(self._root) if isinstance(self._fs, LocalFileSystem) else None

    @property
    def place(self) -> str:
        """The folder's address: an absolute path without symbolic links, or a URI without its password."""
        return mask_text(self.uri.rstrip("/")) if self.local_path is None else os.path.realpath(self.local_path)

    def path(self, name: str) -> str:
        """Return the path or URI of a file, to show to a person. A path inside the current folder is relative to it.

        A password in the URI is masked.
        """
        if self.local_path is None:
            return mask_text(f"{self.uri.rstrip('/')}/{name}" if name else self.uri)
        full = self.local_path / name if name else self.local_path
        return str(full.relative_to(Path.cwd())) if full.is_relative_to(Path.cwd()) else str(full)

    # Documents: replaced as a whole.

    def write(self, name: str, content: str | bytes) -> None:
        """Write a document; an existing one is replaced.

        Raises:
            RunError: it cannot be written; the old document is unchanged.
        """
        data = content.encode() if isinstance(content, str) else content
        target = self._at(name)
        if not has_folders(self._fs):  # an object store, where a write replaces the whole object or nothing
            with self._errors(name, "written"):
                self._fs.pipe_file(target, data)
            return
        parent, _, last = target.rpartition("/")
        beside = f"{parent}/.{last}.{secrets.token_hex(4)}.part"  # hidden, so that readers of the whole folder skip it
        with self._errors(name, "written"):
            try:
                self._fs.makedirs(parent, exist_ok=True)
                with self._fs.open(beside, "wb") as file:
                    file.write(data)
                if self.local_path is not None:
                    self._fs.mv(beside, target)
                else:  # fsspec's own mv takes [ and * in a path for patterns
                    self._fs.cp_file(beside, target)
                    self._fs.rm_file(beside)
            except OSError:
                with suppress(OSError):  # an incomplete file takes space that a full disk needs
                    self._fs.rm_file(beside)
                raise

    def read(self, name: str, *, most: int | None = DOCUMENT_BYTES) -> bytes:
        """Return the content of a document.

        Args:
            name: path in the folder.
            most: the largest size that is read, in bytes; None: any.

        Raises:
            RunError: there is no such document, or it cannot be read.
        """
        data = self.read_if_there(name, most=most)
        if data is None:
            raise RunError(
                f"run {self.run_id} has no {name} in {self.path('')}.",
                "It is written when the run starts; scaler list shows the existing runs.",
            )
        return data

    def read_if_there(self, name: str, *, most: int | None = DOCUMENT_BYTES, start: int = 0) -> bytes | None:
        """Return the content of a document; None: there is no such document.

        Args:
            name: path in the folder.
            most: the largest size that is read, in bytes; None: any.
            start: position of the first byte that is returned.

        Raises:
            RunError: it cannot be read, is not a file, or is larger than ``most`` bytes.
        """
        path = self._at(name)
        try:
            with self._errors(name, "read"):
                size = self._require_file(name, path)
                if size is None:
                    return self._read_remote(name, path, most=most, start=start)
                if most is not None and size > most:
                    raise self._too_large(name, size, most)
                with self._fs.open(path, "rb") as file:
                    file.seek(start)
                    data: bytes = file.read()
                    return data
        except FileNotFoundError:
            return None

    def _read_remote(self, name: str, path: str, *, most: int | None, start: int) -> bytes:
        """Return the content of a file from ``start`` on, in one request unless it is empty or too large."""
        if most is None and start == 0:
            whole: bytes = self._fs.cat_file(path)
            return whole
        try:
            data: bytes = self._fs.cat_file(path, start=start, end=None if most is None else most + 1)
        except FileNotFoundError:
            raise
        except Exception:  # object stores refuse a range that begins at the end of a file
            if self._fs.info(path)["size"] <= start:
                return b""
            raise
        if most is not None and start + len(data) > most:
            raise self._too_large(name, self._fs.info(path)["size"], most)
        return data

    def _too_large(self, name: str, size: int, most: int) -> RunError:
        return RunError(
            f"run {self.run_id}: {name} has {size:,} bytes, and at most {most:,} are read.",
            f"Look at {self.path(name)}: scaler does not write files of that size.",
        )

    def size(self, name: str) -> int:
        """Return the size of a file in bytes.

        Raises:
            RunError: there is no such file, or its size cannot be read.
        """
        path = self._at(name)
        try:
            with self._errors(name, "read"):
                return int(self._fs.size(path))
        except FileNotFoundError:
            raise RunError(f"run {self.run_id} has no {name} in {self.path('')}.", CHECK_STORAGE) from None

    def _require_file(self, name: str, path: str) -> int | None:
        """Return a file's size, None in remote storage; refuse a pipe, whose read would never end, and a folder."""
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
    def _errors(self, name: str, doing: str) -> Iterator[None]:
        """Turn errors of the storage into ``RunError``; for reads, ``FileNotFoundError`` is left to the caller."""
        what = f"run {self.run_id}: {name} cannot be {doing} in {self.path('')}"
        remedy = "Free space there, or check the storage." if doing == "written" else CHECK_STORAGE
        try:
            with storage_errors(what, uri=self.uri, remedy=remedy):
                yield
        except FileNotFoundError as error:
            if doing != "written":
                raise
            raise RunError(f"{what}: {error.strerror or type(error).__name__}.", remedy) from error

    def _at(self, name: str) -> str:
        """Return the path of a file in the folder, on the folder's filesystem.

        Raises:
            ValueError: the name is absolute, or has ``..`` in it.
            RunError: a symbolic link in the folder leads out of it.
        """
        if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/") or "\0" in name:
            raise ValueError(f"{name!r} is no name in a run's folder")
        path = f"{self._root}/{name}" if name else self._root
        if self.local_path is not None and "\0" not in path and self._leads_out(path):
            raise RunError(
                f"run {self.run_id}: {name} is a link that leads out of the run's folder.",
                "Look at the link: through it, scaler would read or write a file outside the folder.",
            )
        return path

    def _leads_out(self, path: str) -> bool:
        """Return whether a local path leads out of the folder through a symbolic link."""
        real, root = os.path.realpath(path), os.path.realpath(self._root or "/")
        return real != root and not real.startswith(f"{root.rstrip('/')}/")

    def write_json(self, name: str, values: Mapping[str, Any]) -> None:
        """Write a JSON document."""
        self.write(name, json.dumps(values, indent=1, allow_nan=False) + "\n")

    def read_json(self, name: str) -> dict[str, Any]:
        """Return the keys and values of a JSON document.

        Raises:
            RunError: there is no such document, or it is not a JSON object.
        """
        try:
            values = parse_json(self.read(name))
        except ValueError as error:
            raise RunError(f"run {self.run_id}: {name} is not JSON: {error}.", "The file was altered.") from None
        if not isinstance(values, dict):
            raise RunError(f"run {self.run_id}: {name} is not a JSON object.", "The file was altered.")
        return values

    def exists(self, name: str = "") -> bool:
        """Return whether a file exists; without a name, whether the folder does.

        Raises:
            RunError: the storage cannot be read.
        """
        path = self._at(name)
        if self.local_path is not None:
            return os.path.exists(path)
        try:  # exists() of some fsspec filesystems returns False on every error
            with self._errors(name or "the folder", "read"):
                self._fs.info(path)
        except FileNotFoundError:
            return False
        return True

    def names(self, folder: str) -> list[str]:
        """Return the names in one of the run's folders, sorted; an empty list where there is no such folder."""
        path = self._at(folder)
        try:
            with self._errors(folder or "the folder", "read"):
                found = self._fs.ls(path, detail=False)
        except FileNotFoundError:
            return []
        return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in found)

    def rename(self, name: str, to: str) -> None:
        """Give a file another name; a file that does not exist is no error.

        Raises:
            RunError: it cannot be renamed.
        """
        path, target = self._at(name), self._at(to)
        try:
            with self._errors(name, "renamed"):
                self._fs.cp_file(path, target)
                self._fs.rm_file(path)
        except FileNotFoundError:
            return

    def remove(self, name: str) -> None:
        """Remove a file; a file that does not exist is no error."""
        path = self._at(name)
        try:
            with self._errors(name, "removed"):
                self._fs.rm_file(path)
        except FileNotFoundError:
            return

    def remove_folder(self, name: str) -> None:
        """Remove one of the run's folders and its content; a folder that does not exist is no error."""
        if not name:
            raise ValueError("a run's folder is not removed whole")
        if self.exists(name):
            with self._errors(name, "removed"):
                self._fs.rm(self._at(name), recursive=True)

    # Logs: whole lines are appended.

    def append_json(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows to a log; each row is a line of JSON.

        Raises:
            RunError: they cannot be written.
        """
        lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        if lines:
            self._append(name, lines.encode())

    def end_line(self, name: str) -> None:
        """End the last line if a killed writer left it incomplete, so that the next row starts a new line."""
        if self.exists(name) and not self.read(name, most=LOG_BYTES).endswith(b"\n"):
            self._append(name, b"\n")

    def _append(self, name: str, data: bytes) -> None:
        """Append to a file. In remote storage, where appending is not reliable, the whole file is written again."""
        if self.local_path is None:
            self.write(name, (self.read_if_there(name, most=LOG_BYTES) or b"") + data)
            return
        path = Path(self._at(name))
        with self._errors(name, "written"):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                self._require_file(name, str(path))
            with path.open("ab", buffering=0) as file:
                end = file.tell()
                try:
                    while data:
                        data = data[file.write(data) :]
                except OSError:  # remove half a row: the same row, written again, would be joined to it
                    with suppress(OSError):
                        file.truncate(end)
                    raise

    def rows(self, name: str) -> Iterator[dict[str, Any]]:
        """Yield the rows of a log; a line that a killed writer left incomplete is skipped."""
        lines = (self.read_if_there(name, most=LOG_BYTES) or b"").split(b"\n")
        for number, line in enumerate(lines):
            if line and number != len(lines) - 1:
                try:
                    row = parse_json(line)
                except ValueError:  # an incomplete line, to which a later writer added the line break
                    continue
                if isinstance(row, dict):
                    yield row

    def filesystem(self, folder: str) -> tuple[Any, str]:
        """Return the fsspec filesystem of one of the run's folders and its path there, for readers of many files."""
        return self._fs, self._at(folder)
