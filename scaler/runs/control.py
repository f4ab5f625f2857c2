"""Follow and stop a run through its folder alone: how far it is, and the request to stop it.

    progress.json  how far the run is; the run driver writes it every ``WRITE_S`` while it changes
    stop.json      the request to stop; ``scaler stop`` writes it, and a resume removes it

So no reader needs the run driver's memory, its machine or its cluster: whoever can read the folder can follow the run,
and whoever can write it can stop the run.
"""

import getpass
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from threading import Event, Thread
from time import time
from types import TracebackType
from typing import Any, Self

from scaler.runs.folder import RunFolder
from scaler.runs.parsing import parse_json

PROGRESS = "progress.json"
STOP = "stop.json"
WRITE_S = 1.0  # from one look at the folder to the next, beside the time that the storage takes


@dataclass(frozen=True, kw_only=True, slots=True)
class StopRequest:
    """Somebody asked the run to stop."""

    requested_at: float  # moment of the request, in epoch seconds
    by: str  # user@host
    now: bool  # stop at once, without a checkpoint; false: save a checkpoint first


def request_stop(folder: RunFolder, *, now: bool = False) -> StopRequest:
    """Ask the process that runs a run to stop it.

    Args:
        folder: the run's.
        now: end the run at once; False: the workers save a checkpoint first.

    Raises:
        RunError: the folder cannot be written.
    """
    request = StopRequest(requested_at=time(), by=_who(), now=now)
    folder.write_json(STOP, asdict(request))
    return request


def read_stop(folder: RunFolder) -> StopRequest | None:
    """Return the request to stop a run; None: nobody asked for it since the run was started or resumed.

    Raises:
        RunError: the folder cannot be read.
    """
    raw = folder.read_if_there(STOP)
    if raw is None:
        return None
    found: Any = None
    with suppress(ValueError):
        found = parse_json(raw)
    values = found if isinstance(found, dict) else {}  # an altered file is still a request
    at, by = values.get("requested_at"), values.get("by")
    return StopRequest(
        requested_at=float(at) if isinstance(at, int | float) else 0.0,
        by=by if isinstance(by, str) else "unknown",
        now=values.get("now") is True,
    )


class RunControl:
    """Writes ``progress.json`` and reads ``stop.json`` in a thread, for the length of a ``with`` block.

    Storage may be slow, or away for a time: errors are ignored here, and the next look tries again. What must be
    written is written elsewhere, with its errors.

    Args:
        folder: the run's folder; its writes raise once another process runs the run.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._newest: Callable[[], Mapping[str, Any]] | None = None
        self._written: Callable[[], Mapping[str, Any]] | None = None
        self._over = Event()
        self._thread = Thread(target=self._keep, name="scaler-control", daemon=True)
        self.stop: StopRequest | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def show(self, progress: Callable[[], Mapping[str, Any]]) -> None:
        """Take the newest progress.

        Args:
            progress: returns the content of ``progress.json``; it is called when the file is written, in the thread.
        """
        self._newest = progress

    def _keep(self) -> None:
        while not self._over.wait(WRITE_S):
            self._look()
        self._look()

    def _look(self) -> None:
        # Any exception, because filesystems have their own; a lost lease ends the run elsewhere.
        with suppress(Exception):
            self.stop = self.stop if self.stop is not None and self.stop.now else read_stop(self._folder)
        newest = self._newest
        if newest is not None and newest is not self._written:
            with suppress(Exception):
                self._folder.write_json(PROGRESS, newest())
                self._written = newest


def clear_stop(folder: RunFolder) -> None:
    """Remove the request to stop a run, because the run is resumed.

    Raises:
        RunError: the folder cannot be written.
    """
    folder.remove(STOP)


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container's user id may have no name
        user = str(os.getuid()) if hasattr(os, "getuid") else "unknown"
    return f"{user}@{socket.gethostname()}"
