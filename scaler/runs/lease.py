"""The lease of a run: at any moment one process drives it, and the others can tell.

    driver.json  {token, host, pid, namespace, beat}: who drives the run, and when it last said so (epoch seconds)

Whoever begins to drive a run claims it, says every ``BEAT_S`` that it is still there, and gives it back at the end. A
driver that was killed gives nothing back: its lease is stale after ``FRESH_S``, or at once on the machine where its
process is gone. Clocks of machines that share runs must agree to well within ``FRESH_S``.
"""

import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from threading import Event, Thread
from time import sleep, time
from typing import Any, Self

from scaler.errors import RunError
from scaler.runs.folder import RunFolder

FILE = "driver.json"
BEAT_S = 10.0
FRESH_S = 60.0
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
        """Say that this process is still there; or notice that the run is another's now, or gone."""
        with _alone(self._folder):
            now = read_lease(self._folder)
            if now is not None and now["token"] != self._token:
                self._problem = (
                    f"was taken over by process {now['pid']} on {now['host']}",
                    "It goes on there; this process has let go of it.",
                )
            elif now is None and not self._folder.exists():
                self._problem = "has lost its folder", f"Something removed {self._folder.path('')}."
            else:
                self._write()

    def require_held(self) -> None:
        """Do nothing while the run is this process's.

        Raises:
            RunError: it was taken over, or its folder is gone.
        """
        if self._problem is not None:
            raise RunError(f"run {self._folder.run_id} {self._problem[0]}.", self._problem[1])

    @property
    def is_lost(self) -> bool:
        """Whether the run is another's now, or gone: then nothing may be written to its folder any more."""
        return self._problem is not None

    def release(self) -> None:
        """Give the run back, if it is still this process's."""
        self._ended.set()
        with suppress(OSError, RunError), _alone(self._folder):
            now = read_lease(self._folder)
            if now is not None and now["token"] == self._token:
                self._folder.remove(FILE)

    def _keep(self) -> None:
        while not self._ended.wait(BEAT_S) and self._problem is None:
            with suppress(Exception):  # storage that fails now may be back in time; if not, the lease goes stale
                self.beat()

    def _write(self) -> None:
        who = {"token": self._token, "host": socket.gethostname(), "pid": os.getpid(), "namespace": _namespace()}
        self._folder.write_json(FILE, {**who, "beat": time()})


def require_free(folder: RunFolder) -> None:
    """Do nothing when nobody drives the run.

    Raises:
        RunError: somebody does.
    """
    now = read_lease(folder)
    if now is None or not _is_alive(now):
        return
    ago = max(0, round(time() - now["beat"]))
    raise RunError(
        f"run {folder.run_id} is being driven by process {now['pid']} on {now['host']}, seen {ago} s ago.",
        f"Stop it first (Ctrl-C there), or wait {FRESH_S:.0f} s after it is gone.",
    )


def read_lease(folder: RunFolder) -> Mapping[str, Any] | None:
    """Return the lease that is in the folder; None where there is none, or none that makes sense."""
    if not folder.exists(FILE):
        return None
    try:
        found = folder.read_json(FILE)
    except RunError:  # given back this moment, or altered
        return None
    kinds = {"token": str, "host": str, "pid": int, "beat": int | float}
    return found if all(isinstance(found.get(key), kind) for key, kind in kinds.items()) else None


def _is_alive(lease: Mapping[str, Any]) -> bool:
    if abs(time() - lease["beat"]) >= FRESH_S:
        return False
    if (lease["host"], lease.get("namespace")) != (socket.gethostname(), _namespace()):
        return True
    try:
        os.kill(lease["pid"], 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # another user's
        return True
    return True


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
