"""The lease of a run: at any moment one process drives it, and the others can tell.

    driver.json  {token, host, pid, namespace, born, place, beat}: who drives the run, and when it last said so (epoch
                 seconds); ``born`` tells a process from a later one of its number, ``place`` a copy from its original

Whoever begins to drive a run claims it, says every ``BEAT_S`` that it is still there, and gives it back at the end. A
driver that was killed gives nothing back: its lease is stale after ``FRESH_S``, or at once on the machine where its
process is gone; a process that is there, stopped or asleep, holds its run there for as long. A driver that finds its
lease gone, or another's, has lost it for good: somebody has gone on with the run, and may have finished it. Clocks of
machines that share runs must agree to well within ``FRESH_S``.
"""

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Event, Lock, Thread
from time import monotonic, sleep, time
from typing import Any, Self

from scaler.errors import RunError
from scaler.runs import processes
from scaler.runs.folder import RunFolder, RunState
from scaler.runs.parsing import parse_json

FILE = "driver.json"
BEAT_S = 10.0
FRESH_S = 60.0
UNSURE_S = 30.0  # after so long without a beat, the lease is looked at before anything is written
SETTLE_S = 1.0  # where no lock can be had: how long a claimer waits for another one's write


class Lease:
    """A claimed run; made by ``claim``. As a context manager it beats, and gives the run back at the end.

    Args:
        folder: the run's folder.
        token: what only this claim has.

    Attributes:
        before: the lease of a driver that gave nothing back, if the run had one.
    """

    def __init__(self, folder: RunFolder, token: str) -> None:
        self._folder, self._token = folder, token
        self._opened: int | None = None  # the folder, where it is local; while it is open, no other gets its inode
        with suppress(OSError):
            self._opened = os.open(folder.local_path, os.O_RDONLY) if folder.local_path is not None else None
        self.before: Mapping[str, Any] | None = None
        self._ended = Event()
        self._beating = Lock()
        self._beat_at = (0.0, 0.0)  # by the clock that never jumps, and by the one that goes on while a machine sleeps
        self._problem: tuple[str, str] | None = None  # and its remedy

    @classmethod
    def claim(cls, folder: RunFolder) -> Self:
        """Take a run that nobody drives. Of several who try at one moment, one gets it.

        Raises:
            RunError: somebody drives it.
        """
        lease = cls(folder, secrets.token_hex(8))
        with _alone(folder) as is_alone:
            require_free(folder)
            lease.before = read_lease(folder)
            lease._write()
        if not is_alone:
            sleep(SETTLE_S)
            now = read_lease(folder)
            if now is not None and now["token"] != lease._token:  # another wrote after this one
                require_free(folder)
                return cls.claim(folder)
        return lease

    def __enter__(self) -> Self:
        Thread(target=self._keep, name="scaler-lease", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def beat(self) -> None:
        """Say that this process is still there; or notice that the run is another's now, or gone.

        Raises:
            RunError: the storage cannot be read or written just now; nothing is known of the lease then.
        """
        with self._beating, _alone(self._folder):
            if self._ended.is_set() or self._problem is not None:
                return
            raw = self._folder.read_if_there(FILE)
            now = _parsed(raw)
            if now is not None and now["token"] == self._token:
                self._write()
            elif now is not None:
                self._problem = (
                    f"was taken over by process {now['pid']} on {now['host']}",
                    "It goes on there; this process has let go of it.",
                )
            elif raw is None and not self._is_same_folder():
                self._problem = "has lost its folder", f"Something removed {self._folder.path('')}."
            else:
                self._problem = (
                    f"was taken over: its {FILE} is {'gone' if raw is None else 'another'}",
                    "Another process went on with it, or somebody changed that file; this process has let go of it.",
                )

    def look(self) -> bool:
        """Beat, and return whether the run is still this process's, as far as the storage tells."""
        with suppress(Exception):  # any filesystem's own; what cannot be read now cannot be written either
            self.beat()
        return not self.is_lost

    def require_held(self) -> None:
        """Do nothing while the run is this process's. Costs nothing while the lease beats.

        A process that was stopped, or whose machine slept, looks before it goes on.

        Raises:
            RunError: it was taken over, or its folder is gone.
        """
        steady, wall = self._beat_at
        if max(monotonic() - steady, abs(time() - wall)) > UNSURE_S:
            self.look()
        if self._problem is not None:
            raise RunError(f"run {self._folder.run_id} {self._problem[0]}.", self._problem[1])

    @property
    def is_lost(self) -> bool:
        """Whether the run is another's now, or gone: then nothing may be written to its folder any more."""
        return self._problem is not None

    def held_folder(self) -> RunFolder:
        """Return the run's folder for whoever writes in this process: it takes nothing once the lease is lost."""
        return _HeldFolder(self._folder, self)

    def release(self) -> None:
        """Give the run back, if it is still this process's."""
        self._ended.set()
        with suppress(OSError, RunError), self._beating, _alone(self._folder):
            now = read_lease(self._folder)
            if now is not None and now["token"] == self._token:
                self._folder.remove(FILE)
        if self._opened is not None:
            os.close(self._opened)
            self._opened = None

    def _is_same_folder(self) -> bool:
        """Whether the folder is there, and is not one that a writer made anew after it was removed."""
        if not self._folder.exists():
            return False
        if self._opened is None or self._folder.local_path is None:
            return True
        with suppress(OSError):
            return os.path.samestat(os.fstat(self._opened), os.stat(self._folder.local_path))
        return False

    def _keep(self) -> None:
        while not self._ended.wait(BEAT_S) and self.look():  # storage that fails now may be back in time
            pass

    def _write(self) -> None:
        at = monotonic(), time()
        who = {"token": self._token, **processes.this_process()}
        self._folder.write_json(FILE, {**who, "place": self._folder.place, "beat": at[1]})
        self._beat_at = at


class _HeldFolder(RunFolder):
    """A run's folder that looks at the lease before every write."""

    def __init__(self, folder: RunFolder, lease: Lease) -> None:
        super().__init__(folder.uri)
        object.__setattr__(self, "_lease", lease)

    def __reduce__(self) -> tuple[type[RunFolder], tuple[str]]:  # type: ignore[override]
        return RunFolder, (self.uri,)

    def write(self, name: str, content: str | bytes) -> None:
        self._require_held()
        super().write(name, content)

    def remove(self, name: str) -> None:
        self._require_held()
        super().remove(name)

    def remove_folder(self, name: str) -> None:
        self._require_held()
        super().remove_folder(name)

    def _append(self, name: str, data: bytes) -> None:
        self._require_held()
        super()._append(name, data)

    def _require_held(self) -> None:
        lease: Lease = self._lease  # type: ignore[attr-defined]
        lease.require_held()


def require_free(folder: RunFolder) -> None:
    """Do nothing when nobody drives the run.

    Raises:
        RunError: somebody does, or a process of this machine still could.
    """
    now = read_lease(folder)
    if now is None:
        return
    is_there = processes.is_there(now)
    ago = time() - now["beat"]
    who = f"process {now['pid']} on {now['host']}"
    if is_there is not False and abs(ago) < FRESH_S:
        raise RunError(
            f"run {folder.run_id} is being driven by {who}, seen {max(0, round(ago))} s ago.",
            f"Stop it first (Ctrl-C there), or wait {FRESH_S:.0f} s after it is gone.",
        )
    if is_there and now.get("place", folder.place) == folder.place:
        raise RunError(
            f"run {folder.run_id} is held by {who}, which has been silent for {max(0, round(ago))} s and still exists.",
            f"End it first: kill -9 {now['pid']}\nShould that be no scaler, remove {folder.path(FILE)}.",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Driver:
    """The process that drove a run last, as its lease has it."""

    host: str
    pid: int
    beat: float  # epoch seconds

    def __str__(self) -> str:
        """Return who it was and when it was last seen.

        Example:
            >>> print(Driver(host="node-3", pid=417, beat=1767225600.0))
            process 417 on node-3, last seen 2026-01-01 00:00:00 UTC
        """
        try:
            seen = f"{datetime.fromtimestamp(self.beat, UTC):%Y-%m-%d %H:%M:%S} UTC"
        except (ValueError, OverflowError, OSError):  # altered
            seen = "at no known time"
        return f"process {self.pid} on {self.host}, last seen {seen}"


def present_state(folder: RunFolder) -> tuple[RunState, Driver | None]:
    """Return the state of a run, and the driver that is gone if that is why it is lost.

    The state is the one last written; ``LOST`` where that is no end and nobody drives the run any more.

    Raises:
        RunError: the run's status cannot be read.
    """
    state = folder.state()
    if state.is_end:
        return state, None
    now = _parsed(folder.read_if_there(FILE))
    if now is None:
        return folder.state() if folder.state().is_end else RunState.LOST, None  # it may have ended between the two
    there = processes.is_there(now)
    is_of_this = now.get("place", folder.place) == folder.place  # else the folder is a copy of one that is driven
    if is_of_this and (there or (there is None and abs(time() - now["beat"]) < FRESH_S)):
        return state, None
    return RunState.LOST, Driver(host=now["host"], pid=now["pid"], beat=now["beat"])


def read_lease(folder: RunFolder) -> Mapping[str, Any] | None:
    """Return the lease that is in the folder; None where there is none, or none that makes sense."""
    with suppress(RunError):  # given back this moment, or altered
        return _parsed(folder.read_if_there(FILE))
    return None


def _parsed(raw: bytes | None) -> Mapping[str, Any] | None:
    try:
        found = parse_json(raw or b"{}")
    except ValueError:
        return None
    kinds = {"token": str, "host": str, "pid": int, "beat": int | float}
    is_lease = isinstance(found, dict) and all(isinstance(found.get(key), kind) for key, kind in kinds.items())
    return found if is_lease and found["pid"] > 0 else None  # kill 0 and kill -1 mean many processes


@contextmanager
def _alone(folder: RunFolder) -> Iterator[bool]:
    """Keep others on this machine from looking at a lease while it changes; yields whether that could be had."""
    place = folder.local_path
    descriptor = None
    if place is not None and os.name == "posix":
        from fcntl import LOCK_EX, flock

        with suppress(OSError):  # some network filesystems lock no folders
            descriptor = os.open(place, os.O_RDONLY)
            try:
                flock(descriptor, LOCK_EX)
            except OSError:
                os.close(descriptor)
                descriptor = None
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)
