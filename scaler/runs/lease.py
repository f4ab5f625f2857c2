"""The lease of a run: at any moment one process drives it, and the others can tell.

    driver.json  {token, host, pid, namespace, born, place, beat}: who drives the run, and when it last said so (epoch
                 seconds); ``born`` tells a process from a later one of its number, ``place`` a copy from its original

Whoever begins to drive a run claims it, says every ``BEAT_S`` that it is still there, and gives it back at the end. A
driver that was killed gives nothing back: its lease is stale after ``FRESH_S``, or at once on the machine where its
process is gone; a process that is there, stopped or asleep, holds its run there for as long. A driver that finds its
lease gone, or another's, has lost it for good: somebody has gone on with the run, and may have finished it. Clocks of
machines that share runs must agree to well within ``FRESH_S``.
"""

import json
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Lock, Thread
from time import monotonic, sleep, time
from typing import Any, Self

from scaler.errors import RunError
from scaler.runs.folder import RunFolder

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
            elif raw is None and not self._folder.exists():
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

    def _keep(self) -> None:
        while not self._ended.wait(BEAT_S) and self.look():  # storage that fails now may be back in time
            pass

    def _write(self) -> None:
        who = {"token": self._token, "host": socket.gethostname(), "pid": os.getpid(), "namespace": _namespace()}
        at = monotonic(), time()
        self._folder.write_json(FILE, {**who, "born": _born(os.getpid()), "place": self._folder.place, "beat": at[1]})
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
    is_there = _is_there(now)
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


def read_lease(folder: RunFolder) -> Mapping[str, Any] | None:
    """Return the lease that is in the folder; None where there is none, or none that makes sense."""
    with suppress(RunError):  # given back this moment, or altered
        return _parsed(folder.read_if_there(FILE))
    return None


def _parsed(raw: bytes | None) -> Mapping[str, Any] | None:
    try:
        found = json.loads(raw or b"{}")
    except ValueError:
        return None
    kinds = {"token": str, "host": str, "pid": int, "beat": int | float}
    is_lease = isinstance(found, dict) and all(isinstance(found.get(key), kind) for key, kind in kinds.items())
    return found if is_lease and found["pid"] > 0 else None  # kill 0 and kill -1 mean many processes


def _is_there(lease: Mapping[str, Any]) -> bool | None:
    """Whether the process of a lease exists; None where that cannot be told from here."""
    if (lease["host"], lease.get("namespace")) != (socket.gethostname(), _namespace()):
        return None
    try:
        os.kill(lease["pid"], 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        pass
    born, now = lease.get("born"), _born(lease["pid"])
    return born is None or now is None or born == now


def _born(pid: int) -> str | None:
    """What tells a process from a later one of its number: the machine's start, and its own in ticks since then.

    ``gone`` for one that has ended and that nobody has asked for its exit code; None where nothing tells.
    """
    with suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        if fields[0] in ("Z", "X"):
            return "gone"
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {fields[19]}"
    return None


def _namespace() -> str | None:
    """Where this process's number is its name: containers of one host name may each have a process 7."""
    with suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return None


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
