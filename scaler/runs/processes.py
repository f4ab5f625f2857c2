"""Processes, told apart for good: by host, number, and what tells a process from a later one of its number."""

import os
import signal
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


def this_process() -> dict[str, Any]:
    """Return ``{host, pid, namespace, born}`` of this process, as plain values."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "namespace": _namespace(), "born": born(pid)}


def is_there(process: Mapping[str, Any]) -> bool | None:
    """Return whether a process exists; None where that cannot be told from here.

    Args:
        process: what ``this_process`` returned in it.
    """
    if (process["host"], process.get("namespace")) != (socket.gethostname(), _namespace()):
        return None
    try:
        os.kill(process["pid"], 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        pass
    then, now = process.get("born"), born(process["pid"])
    return then is None or now is None or then == now


def stop_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that ask a process to stop, beside Ctrl-C's: SIGTERM, and SIGHUP unless nohup ignores it."""
    hangs_up = hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return (signal.SIGTERM, signal.SIGHUP) if hangs_up else (signal.SIGTERM,)


def born(pid: int) -> str | None:
    """Return what tells a process from a later one of its number: the machine's start, and its own in ticks since then.

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
