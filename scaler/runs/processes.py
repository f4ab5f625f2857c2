"""Identify processes across machines and restarts: by host, process id, PID namespace and start time."""

import os
import signal
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


def this_process() -> dict[str, Any]:
    """Return ``{host, pid, namespace, born}`` of this process; ``born`` is the result of the function."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "namespace": _namespace(), "born": born(pid)}


def is_there(process: Mapping[str, Any]) -> bool | None:
    """Return whether a process exists; None for a process of another host or PID namespace.

    Args:
        process: what ``this_process`` returned in that process.
    """
    if (process["host"], process.get("namespace")) != (socket.gethostname(), _namespace()):
        return None
    try:
        os.kill(process["pid"], 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it exists and is another user's
        pass
    then, now = process.get("born"), born(process["pid"])
    return then is None or now is None or then == now


def stop_signals() -> tuple[signal.Signals, ...]:
    """Return the signals other than SIGINT that ask a process to stop: SIGTERM, and SIGHUP unless nohup ignores it."""
    hangs_up = hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return (signal.SIGTERM, signal.SIGHUP) if hangs_up else (signal.SIGTERM,)


def born(pid: int) -> str | None:
    """Return the boot id of this machine and the start time of a process in clock ticks since the boot.

    The pair differs from that of any other process that had or will have the same process id. ``gone`` for a zombie;
    None where ``/proc`` does not have it.
    """
    with suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        if fields[0] in ("Z", "X"):
            return "gone"
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {fields[19]}"
    return None


def _namespace() -> str | None:
    """Return the PID namespace of this process: two containers with one host name may each have a process 7."""
    with suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return None


def torchrun_rank() -> int | None:
    """Return this process's rank among those that torchrun has started; None: torchrun has not started it."""
    return int(os.environ["RANK"]) if "TORCHELASTIC_RUN_ID" in os.environ and "RANK" in os.environ else None


def torchrun_size() -> int:
    """Return how many processes torchrun has started."""
    return int(os.environ["WORLD_SIZE"])
