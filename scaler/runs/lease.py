"""The lease of a run: a file that ensures that one process at a time runs it, the run driver.

    driver.json  {token, host, pid, namespace, born, place, beat}: the run driver, and the time of its last heartbeat
                 (epoch seconds). ``born`` distinguishes the process from a later one with the same pid; ``place``
                 distinguishes the folder from a copy of it

A run driver claims the run, writes a heartbeat every ``BEAT_S``, and releases the run at the end. A driver that was
killed releases nothing: its lease is stale after ``FRESH_S``, or at once on the machine where its process no longer
exists. A process that exists but is stopped or suspended keeps the lease on that machine. A driver that finds its lease
missing, or replaced by that of another driver, has lost the run for good: the other driver may have finished it.
The clocks of machines that share runs must agree to well within ``FRESH_S``.
"""

import os
import secrets
from collections.abc import Callable, Iterator, Mapping
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
UNSURE_S = 30.0  # after this long without a heartbeat, the lease is checked before anything is written
SETTLE_S = 1.0  # on storage without locks, a claim waits this long for the write of another claim


class Lease:
    """A claimed run; ``claim`` makes it. As a context manager, it writes heartbeats and releases the run at the end.

    Args:
        folder: the run's folder.
        token: identifies this claim.

    Attributes:
        before: the lease of an earlier driver that did not release the run; None: there was none.
    """

    def __init__(self, folder: RunFolder, token: str) -> None:
        self._folder, self._token = folder, token
        # Descriptor of a local folder; while it is open, no other folder gets the inode.
        self._opened: int | None = None
        with suppress(OSError):
            self._opened = os.open(folder.local_path, os.O_RDONLY) if folder.local_path is not None else None
        self.before: Mapping[str, Any] | None = None
        self._ended = Event()
        self._beating = Lock()
        self._beat_at = (0.0, 0.0)  # by the monotonic clock, and by the wall clock, which counts while a machine sleeps
        self._problem: tuple[str, str] | None = None  # a problem and its remedy

    @classmethod
    def claim(cls, folder: RunFolder) -> Self:
        """Return the lease of a run that no process runs. Of several processes that claim a run at once, one gets it.

        Raises:
            RunError: another process runs it.
        """
        lease = cls(folder, secrets.token_hex(8))
        with _locked(folder) as is_locked:
            require_free(folder)
            lease.before = read_lease(folder)
            lease._write()
        if not is_locked:
            sleep(SETTLE_S)
            now = read_lease(folder)
            if now is not None and now["token"] != lease._token:  # another claim wrote after this one
                require_free(folder)
                return cls.claim(folder)
        return lease

    def __enter__(self) -> Self:
        Thread(target=self._keep, name="scaler-lease", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def beat(self) -> None:
        """Write a heartbeat, or find out that another process runs the run now, or that its folder was removed.

        Raises:
            RunError: the storage cannot be read or written now, so it is unknown who holds the lease.
        """
        with self._beating, _locked(self._folder):
            if self._ended.is_set() or self._problem is not None:
                return
            raw = self._folder.read_if_there(FILE)
            now = _parsed(raw)
            if now is not None and now["token"] == self._token:
                self._write()
            elif now is not None:
                self._problem = (
                    f"was taken over by process {now['pid']} on {now['host']}",
                    "The run continues there; this process writes nothing more to it.",
                )
            elif raw is None and not self._is_same_folder():
                self._problem = "has lost its folder", f"Something removed {self._folder.path('')}."
            else:
                self._problem = (
                    f"was taken over: its {FILE} was {'removed' if raw is None else 'replaced'}",
                    "Another process resumed the run, or the file was changed; this process writes nothing more to it.",
                )

    def look(self) -> bool:
        """Write a heartbeat, and return whether this process still holds the run, as far as the storage can be read."""
        # Any exception, because filesystems have their own; a storage that cannot be read cannot be written either.
        with suppress(Exception):
            self.beat()
        return not self.is_lost

    def require_held(self) -> None:
        """Raise unless this process holds the run.

        While heartbeats are written, this does no I/O. A process that was stopped, or whose machine slept, reads the
        lease first.

        Raises:
            RunError: the run was taken over, or its folder was removed.
        """
        steady, wall = self._beat_at
        if max(monotonic() - steady, abs(time() - wall)) > UNSURE_S:
            self.look()
        if self._problem is not None:
            raise RunError(f"run {self._folder.run_id} {self._problem[0]}.", self._problem[1])

    @property
    def is_lost(self) -> bool:
        """Whether the run was taken over or removed; then this process must not write to its folder."""
        return self._problem is not None

    def held_folder(self) -> RunFolder:
        """Return the run's folder for writers in this process: writes raise once the lease is lost."""
        return _HeldFolder(self._folder, self)

    def release(self) -> None:
        """Release the run, if this process still holds it."""
        self._ended.set()
        with suppress(OSError, RunError), self._beating, _locked(self._folder):
            now = read_lease(self._folder)
            if now is not None and now["token"] == self._token:
                self._folder.remove(FILE)
        if self._opened is not None:
            os.close(self._opened)
            self._opened = None

    def _is_same_folder(self) -> bool:
        """Return whether the claimed folder still exists; a writer may have made a new one in its place."""
        if not self._folder.exists():
            return False
        if self._opened is None or self._folder.local_path is None:
            return True
        with suppress(OSError):
            return os.path.samestat(os.fstat(self._opened), os.stat(self._folder.local_path))
        return False

    def _keep(self) -> None:
        # Errors of the storage do not end this: it may work again before the lease is stale.
        while not self._ended.wait(BEAT_S) and self.look():
            pass

    def _write(self) -> None:
        at = monotonic(), time()
        who = {"token": self._token, **processes.this_process()}
        self._folder.write_json(FILE, {**who, "place": self._folder.place, "beat": at[1]})
        self._beat_at = at


class _HeldFolder(RunFolder):
    """A run's folder that checks the lease before every write."""

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
    """Raise if a process runs the run.

    Raises:
        RunError: a process runs it, or a silent process of this machine still holds it.
    """
    now = read_lease(folder)
    if now is None:
        return
    is_there = processes.is_there(now)
    ago = time() - now["beat"]
    who = f"process {now['pid']} on {now['host']}"
    if is_there is not False and abs(ago) < FRESH_S:
        raise RunError(
            f"run {folder.run_id} is being run by {who}, seen {max(0, round(ago))} s ago.",
            f"Stop it first (Ctrl-C there), or wait {FRESH_S:.0f} s after it has ended.",
        )
    if is_there and now.get("place", folder.place) == folder.place:
        raise RunError(
            f"run {folder.run_id} is held by {who}, which has been silent for {max(0, round(ago))} s and still exists.",
            f"End it first: kill -9 {now['pid']}\nIf that process is not scaler, remove {folder.path(FILE)}.",
        )


def wait_while_silent(folder: RunFolder, on_notice: Callable[[str], None]) -> None:
    """Wait until the lease of a silent driver on another machine has expired; return at once if a driver is active.

    A driver that was killed keeps its lease for ``FRESH_S``. An active driver writes a heartbeat every ``BEAT_S``, so
    this takes at most that long before ``Lease.claim`` refuses the run.
    """
    first = read_lease(folder)
    if first is None or processes.is_there(first) is not None or abs(time() - first["beat"]) >= FRESH_S:
        return
    on_notice(
        f"Run {folder.run_id} was run by process {first['pid']} on {first['host']}: "
        f"waiting until that has been silent for {FRESH_S:.0f} s."
    )
    while abs(time() - first["beat"]) < FRESH_S:
        sleep(1.0)
        if read_lease(folder) != first:
            return


@dataclass(frozen=True, kw_only=True, slots=True)
class Driver:
    """The process that ran a run last, from the run's lease."""

    host: str  # name of its machine
    pid: int  # its process id there
    beat: float  # moment of its last heartbeat

    def __str__(self) -> str:
        """Return the process and the time of its last heartbeat.

        Example:
            >>> print(Driver(host="node-3", pid=417, beat=1767225600.0))
            process 417 on node-3, last seen 2026-01-01 00:00:00 UTC
        """
        try:
            seen = f"{datetime.fromtimestamp(self.beat, UTC):%Y-%m-%d %H:%M:%S} UTC"
        except (ValueError, OverflowError, OSError):  # the file was altered
            seen = "at no known time"
        return f"process {self.pid} on {self.host}, last seen {seen}"


def present_state(folder: RunFolder) -> tuple[RunState, Driver | None]:
    """Return the state of a run, and for a lost run its last driver, if that is known.

    The state is the one that was last written; ``LOST`` where that state is not final and no process runs the run.

    Raises:
        RunError: the run's status cannot be read.
    """
    state = folder.state()
    if state.is_end:
        return state, None
    now = _parsed(folder.read_if_there(FILE))
    if now is None:  # the run may have ended after its state was read, so the state is read again
        return folder.state() if folder.state().is_end else RunState.LOST, None
    there = processes.is_there(now)
    # False: the folder is a copy of one that another process runs.
    is_of_this = now.get("place", folder.place) == folder.place
    if is_of_this and (there or (there is None and abs(time() - now["beat"]) < FRESH_S)):
        return state, None
    return RunState.LOST, Driver(host=now["host"], pid=now["pid"], beat=now["beat"])


def read_lease(folder: RunFolder) -> Mapping[str, Any] | None:
    """Return the lease in the folder; None where there is none, or where its file does not hold a lease."""
    with suppress(RunError):  # released at this moment, or altered
        return _parsed(folder.read_if_there(FILE))
    return None


def _parsed(raw: bytes | None) -> Mapping[str, Any] | None:
    try:
        found = parse_json(raw or b"{}")
    except ValueError:
        return None
    kinds = {"token": str, "host": str, "pid": int, "beat": int | float}
    is_lease = isinstance(found, dict) and all(isinstance(found.get(key), kind) for key, kind in kinds.items())
    return found if is_lease and found["pid"] > 0 else None  # to os.kill, pids 0 and -1 mean groups of processes


@contextmanager
def _locked(folder: RunFolder) -> Iterator[bool]:
    """Lock a lease against other processes of this machine; yields whether the storage has locks."""
    path = folder.local_path
    descriptor = None
    if path is not None and os.name == "posix":
        from fcntl import LOCK_EX, flock

        with suppress(OSError):  # some network filesystems cannot lock folders
            descriptor = os.open(path, os.O_RDONLY)
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
