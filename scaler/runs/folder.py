"""The run folder, wherever it lies, and the list of runs. One class knows the names in it.

    runs/<run_id>/  job.yaml  plan.json  status.json  events.jsonl  metrics/*.parquet  checkpoints/  logs/  tensorboard/
                    report.json  report.html  report.md

The folder may lie on any filesystem that fsspec reaches (``s3://``, ``gs://``, a plain path). Documents are written
beside and moved; logs append whole lines; every file has one writer.
"""

import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

import fsspec
from fsspec.implementations.local import LocalFileSystem

from scaler.errors import RunError


class RunState(StrEnum):
    """Where a run is in its life: ``STARTING -> RUNNING -> one of the ends``."""

    STARTING = "starting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"

    @property
    def is_end(self) -> bool:
        """Whether nothing will follow."""
        return self in (RunState.SUCCEEDED, RunState.FAILED, RunState.STOPPED)


def new_run_id(name: str, now: datetime) -> str:
    """Return ``<name>-<YYYYmmdd-HHMMSS>-<4 hex>``."""
    return f"{name}-{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def _inside(base: str, name: str) -> str:
    """Return the URI or path of something in ``base``, which may be a bare ``memory://``."""
    return base + name if base.endswith("://") else f"{base.rstrip('/')}/{name}"


def _reach(uri: str) -> tuple[Any, str]:
    """Return the filesystem of a URI or path, and the path on it."""
    try:
        filesystem, root = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError) as error:
        raise RunError(
            f"{uri}: cannot be reached: {error}.",
            "Use a folder or a URI of a kind that fsspec knows, and install what it asks for.",
        ) from None
    return filesystem, root


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
        filesystem, root = _reach(self.uri)
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
        base = storage if "://" in storage else str(Path(storage).absolute())
        _reach(base)
        folder = cls(_inside(base, new_run_id(name, now)))
        try:
            folder._fs.makedirs(folder._root, exist_ok=False)
        except OSError as error:
            raise RunError(
                f"storage = {storage}: no run can be made there: {error}.",
                "Set storage to a folder that can be written.",
            ) from error
        return folder

    @property
    def run_id(self) -> str:
        """The folder's own name."""
        return self._root.rsplit("/", 1)[-1]

    @property
    def local_path(self) -> Path | None:
        """The folder on this machine, or None when it lies elsewhere."""
        return Path(self._root) if isinstance(self._fs, LocalFileSystem) else None

    def path(self, name: str) -> str:
        """What a person can open: a path relative to here where there is one, else a URI."""
        if self.local_path is None:
            return f"{self.uri.rstrip('/')}/{name}" if name else self.uri
        full = self.local_path / name if name else self.local_path
        return str(full.relative_to(Path.cwd())) if full.is_relative_to(Path.cwd()) else str(full)

    # Documents: whole, replaced at once.

    def write(self, name: str, content: str | bytes) -> None:
        """Write a document beside its place, then move it there: a reader sees the old one or the new one."""
        data = content.encode() if isinstance(content, str) else content
        target = f"{self._root}/{name}"
        parent, _, last = target.rpartition("/")
        beside = f"{parent}/.{last}.{secrets.token_hex(4)}.part"  # hidden: readers of a whole folder pass it over
        self._fs.makedirs(parent, exist_ok=True)
        with self._fs.open(beside, "wb") as file:
            file.write(data)
        if self.local_path is not None:
            self._fs.mv(beside, target)
        else:  # fsspec's own mv reads [ and * in a path as patterns
            self._fs.cp_file(beside, target)
            self._fs.rm_file(beside)

    def read(self, name: str) -> bytes:
        """Return a document.

        Raises:
            RunError: there is none.
        """
        try:
            with self._fs.open(f"{self._root}/{name}", "rb") as file:
                data: bytes = file.read()
                return data
        except FileNotFoundError:
            raise RunError(
                f"run {self.run_id} has no {name} in {self.path('')}.",
                "It is written when the run starts; scaler list shows the runs that there are.",
            ) from None

    def write_json(self, name: str, values: Mapping[str, Any]) -> None:
        """Write a JSON document."""
        self.write(name, json.dumps(values, indent=1, allow_nan=False) + "\n")

    def read_json(self, name: str) -> dict[str, Any]:
        """Return a JSON document.

        Raises:
            RunError: there is none, or it is not JSON.
        """
        try:
            values = json.loads(self.read(name))
        except ValueError as error:
            raise RunError(f"run {self.run_id}: {name} is not JSON: {error}.", "The file was altered.") from None
        if not isinstance(values, dict):
            raise RunError(f"run {self.run_id}: {name} holds no keys and values.", "The file was altered.")
        return values

    def exists(self, name: str = "") -> bool:
        """Whether there is such a file, or the folder itself."""
        return bool(self._fs.exists(f"{self._root}/{name}" if name else self._root))

    def names(self, folder: str) -> list[str]:
        """Return the names in one of the run's folders, sorted; none when it is not there."""
        try:
            found = self._fs.ls(f"{self._root}/{folder}" if folder else self._root, detail=False)
        except FileNotFoundError:
            return []
        return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in found)

    def remove(self, name: str) -> None:
        """Remove a file; one that is gone already is no error."""
        try:
            self._fs.rm_file(f"{self._root}/{name}")
        except FileNotFoundError:
            return

    def remove_folder(self, name: str) -> None:
        """Remove one of the run's folders and what is in it; one that is gone already is no error."""
        if self.exists(name):
            self._fs.rm(f"{self._root}/{name}", recursive=True)

    # Logs: whole lines, appended.

    def append_json(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows to a log, a line of JSON each."""
        lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        if lines:
            self._append(name, lines.encode())

    def end_line(self, name: str) -> None:
        """End a line that a killed writer left cut off, so that the next row has a line of its own."""
        if self.exists(name) and not self.read(name).endswith(b"\n"):
            self._append(name, b"\n")

    def _append(self, name: str, data: bytes) -> None:
        """Append to a file. Object stores cannot, and some pretend to: there the whole is written anew."""
        if self.local_path is None:
            self.write(name, (self.read(name) if self.exists(name) else b"") + data)
        else:
            with self._fs.open(f"{self._root}/{name}", "ab") as file:
                file.write(data)

    def rows(self, name: str) -> Iterator[dict[str, Any]]:
        """Yield the rows of a log; a line that was cut off by a kill is passed over."""
        if not self.exists(name):
            return
        lines = self.read(name).split(b"\n")
        for number, line in enumerate(lines):
            if line and number != len(lines) - 1:
                try:
                    row = json.loads(line)
                except ValueError:  # cut off, and ended by a later writer
                    continue
                if isinstance(row, dict):
                    yield row

    # Names that more than one room uses.

    def set_state(self, state: RunState, **values: Any) -> None:
        """Write the run's status; ``values`` replace or join those already there."""
        before = self.read_json("status.json") if self.exists("status.json") else {}
        self.write_json("status.json", {"schema_version": 1, "run_id": self.run_id, **before, **values, "state": state})

    def state(self) -> RunState:
        """Return the run's state as last written."""
        state = self.read_json("status.json").get("state")
        if state not in list(RunState):
            raise RunError(
                f"run {self.run_id}: status.json has the state {state}, not one of {', '.join(RunState)}.",
                "The file was altered.",
            )
        return RunState(state)

    def filesystem(self, folder: str) -> tuple[Any, str]:
        """Return the fsspec filesystem and the path of one of the run's folders on it, for readers of many files."""
        return self._fs, f"{self._root}/{folder}"


def find_run(run: str, *, storage: str = "runs") -> RunFolder:
    """Return the run that a person names: a folder or URI, a run id below ``storage``, or ``last``.

    Raises:
        RunError: there is no such run; names those that there are.
    """
    if run == "last":
        found = list_runs(storage)
        if not found:
            raise RunError(f"there are no runs in {storage}.", "scaler submit JOB makes one.")
        return found[-1]
    for place in (run, _inside(storage, run)):
        folder = RunFolder(place if "://" in place else str(Path(place).absolute()))
        if folder.exists("status.json"):
            return folder
    near = [folder.run_id for folder in list_runs(storage)[-3:]]
    raise RunError(
        f"there is no run {run} here, nor in {storage}.",
        f"The newest there: {', '.join(reversed(near))}." if near else "scaler submit JOB makes one.",
    )


def list_runs(storage: str = "runs") -> Sequence[RunFolder]:
    """Return the runs below ``storage``, the oldest first."""
    base = storage if "://" in storage else str(Path(storage).absolute())
    filesystem, root = _reach(base)
    if not filesystem.exists(root):
        return []
    names = (path.rstrip("/").rsplit("/", 1)[-1] for path in filesystem.ls(root, detail=False))
    folders = [RunFolder(_inside(base, name)) for name in names]
    runs = [folder for folder in folders if folder.exists("status.json")]
    return sorted(runs, key=lambda folder: folder.run_id.rsplit("-", 3)[-3:])
