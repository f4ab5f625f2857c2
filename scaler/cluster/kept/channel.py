"""Calls from one process into another, over a pair of sockets of one machine."""

import os
import threading
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

START_S = 120.0  # a process that is not a fork imports torch first
GONE = 75  # exit code of a process whose other side is gone


class Caller:
    """Calls functions of the process at the other end. Threads may share it.

    If the other process is gone, this process ends at once.

    Args:
        connection: to a process that runs ``answer``.
    """

    def __init__(self, connection: "Connection[Any, Any]") -> None:
        self._connection, self._lock = connection, threading.Lock()

    def __call__(self, name: str, *arguments: Any, **keywords: Any) -> Any:
        """Call a function and return what it returns, or raise what it raises."""
        with self._lock:
            try:
                self._connection.send((name, arguments, keywords))
                error, value = self._connection.recv()
            except (OSError, EOFError):
                os._exit(GONE)
        if error is not None:
            raise error
        return value


def answer(
    connection: "Connection[Any, Any]", functions: Mapping[str, Callable[..., Any]], *, silent_s: float | None
) -> bool:
    """Call the functions that a ``Caller`` asks for, until its process has ended.

    Args:
        connection: to the process.
        functions: by name.
        silent_s: a process that asks for nothing for this many seconds is frozen; None: it may be silent for ever.
            Before its first call it may be silent for ``START_S``.

    Returns:
        Whether the process has ended; False: it is frozen.
    """
    patience_s = None if silent_s is None else max(silent_s, START_S)
    while True:
        try:
            if not connection.poll(patience_s):
                return False
            patience_s = silent_s
            name, arguments, keywords = connection.recv()
        except (OSError, EOFError):
            return True
        error, value = None, None
        try:
            value = functions[name](*arguments, **keywords)
        except Exception as raised:
            error = raised
        try:
            connection.send((error, value))
        except OSError:
            return True
