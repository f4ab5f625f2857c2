"""End a worker that has done one thing for too long.

A hung worker makes all others wait, and nothing fails. Ray Train's health check asks a thread beside the training, so
it finds a frozen process, but not a loss that never returns. The watchdog checks the training itself.
"""

import faulthandler
import os
import sys
import sysconfig
import threading
from collections.abc import Callable
from time import monotonic
from types import FrameType
from typing import Any

from scaler.metrics.events import WAITING
from scaler.training.activity import Activity

EXIT_CODE = 70  # of the process; the event says why
# Factor of the time-out for a worker that waits for others, so that the hung worker is found first.
PATIENCE_FOR_OTHERS = 2.0
REPORT_S = 5.0
MOST_CHECK_S = 5.0

OnHang = Callable[[float, str, str], None]
"""Called with the seconds, what the thread was doing and where, as in ``WorkerHung``."""


class Watchdog:
    """Watches the calling thread from another thread.

    Args:
        timeout_s: the most seconds for one activity; waiting for other workers may take twice as long. None: no limit.
        on_hang: called with the seconds, the activity and the place in the code; it has ``REPORT_S`` to return.
        end: ends the process.
    """

    def __init__(self, timeout_s: float | None, *, on_hang: OnHang, end: Callable[[int], Any] = os._exit) -> None:
        self._on_hang, self._end = on_hang, end
        self._watched = threading.get_ident()
        self._activity = Activity()
        self._stopped = threading.Event()
        if timeout_s is not None:
            threading.Thread(target=self._run, args=(timeout_s,), name="scaler-watchdog", daemon=True).start()

    def now(self, doing: str) -> None:
        """Set the activity of the watched thread; used before its ``Training`` exists."""
        self._activity.begin(doing)

    def follow(self, activity: Activity) -> None:
        """Read the activity of a training from now on."""
        self._activity = activity

    def stop(self) -> None:
        """Stop watching."""
        self._stopped.set()

    def _run(self, timeout_s: float) -> None:
        while not self._stopped.wait(min(MOST_CHECK_S, timeout_s / 10)):
            doing, since = self._activity.current, self._activity.since
            seconds = monotonic() - since
            if seconds > timeout_s * (PATIENCE_FOR_OTHERS if doing == WAITING else 1.0):
                self._hung(doing, seconds)
                return

    def _hung(self, doing: str, seconds: float) -> None:
        where = innermost_place(sys._current_frames().get(self._watched))
        print(f"scaler: {doing} for {seconds:.1f} s in {where}; all threads:", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(2, all_threads=True)  # stderr's descriptor leads to the worker's log
        report = threading.Thread(target=self._on_hang, args=(seconds, doing, where), daemon=True)
        report.start()
        report.join(REPORT_S)
        if not self._stopped.is_set():
            self._end(EXIT_CODE)


def innermost_place(frame: FrameType | None) -> str:
    """Return where a thread is, as ``file:line in function``.

    That is the innermost frame of its stack that belongs neither to Python, nor to an installed library, nor to scaler;
    without such a frame, the innermost one.
    """
    if frame is None:
        return "a thread that has ended"
    frames: list[FrameType] = []
    at: FrameType | None = frame
    while at is not None:
        frames.append(at)
        at = at.f_back
    place = next((inner for inner in frames if not _is_library(inner)), frame)
    return f"{os.path.basename(place.f_code.co_filename)}:{place.f_lineno} in {place.f_code.co_name}"


def _is_library(frame: FrameType) -> bool:
    folders = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    ours = str(frame.f_globals.get("__name__", "")).startswith("scaler.")
    return ours or frame.f_code.co_filename.startswith((*folders, "<"))
