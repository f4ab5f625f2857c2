"""Record a command and every process below it, from Linux's /proc: when each starts, and its CPU time."""

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from time import sleep, time

WATCH_EVERY_S = 0.3
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Process:
    """The last sample of a process."""

    name: str
    started_at: float
    seen_at: float
    cpu_s: float  # its own, without its children


class ProcessWatch:
    """Records processes in a thread of its own, for the duration of a ``with`` block.

    Args:
        root: the command's process.
    """

    def __init__(self, root: int) -> None:
        self._root = root
        self._booted_at = time() - float(Path("/proc/uptime").read_text().split()[0])
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.seen: dict[int, Process] = {}

    def __enter__(self) -> "ProcessWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.is_set():
            self._look()
            sleep(WATCH_EVERY_S)

    def _look(self) -> None:
        now, ours = time(), {self._root} | set(self.seen)
        for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
            try:
                stat = Path(f"/proc/{pid}/stat").read_text()
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue
            fields = stat.rpartition(")")[2].split()  # from the third on: state, parent, ...
            if pid not in ours and int(fields[1]) not in ours:
                continue
            ours.add(pid)
            self.seen[pid] = Process(
                name=self._short(command) or stat[stat.index("(") + 1 : stat.rindex(")")],
                started_at=self._booted_at + int(fields[19]) / TICKS_PER_S,
                seen_at=now,
                cpu_s=(int(fields[11]) + int(fields[12])) / TICKS_PER_S,
            )

    @staticmethod
    def _short(command: str) -> str:
        """Return ``ray::RayTrainWorker``, ``gcs_server``, ``dashboard/agent.py``, ``scaler submit ...``."""
        parts = command.split()
        if not parts:
            return ""
        if parts[0].startswith("ray::"):
            return parts[0].partition(".")[0].rstrip(":")
        script = next((part for part in parts[1:] if part.endswith(".py") or "/bin/" in part), None)
        path = script if "python" in parts[0] and script else parts[0]
        return "/".join(Path(path).parts[-2:])
