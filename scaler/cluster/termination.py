"""Note SIGTERM in a worker: clusters send it before they take a machine away, and the group then saves and leaves.

Python runs a signal's handler on the main thread only, and training runs on another thread. So Ray Train's callback,
which runs on the main thread, sets the handler. Ray Train's controller unpickles the callback, so this module imports
nothing else of scaler.
"""

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from scaler.cluster.ray_internals import WorkerCallback


class _Noted:
    """A signal handler that remembers the first signal, and passes later ones to the previous handler."""

    def __init__(self, before: Callable[[int, FrameType | None], Any] | int | None) -> None:
        self.came = False
        self._before = before

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self.came:
            self.came = True
        elif callable(self._before):
            self._before(number, frame)
        else:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


class NoteTermination(WorkerCallback):
    """Makes each worker note SIGTERM."""

    def after_init_train_context(self) -> None:
        """Set the handler, on the worker's main thread."""
        signal.signal(signal.SIGTERM, _Noted(signal.getsignal(signal.SIGTERM)))


def has_been_terminated() -> bool:
    """Return whether this process got SIGTERM since ``NoteTermination`` set its handler; any thread may call it."""
    handler = signal.getsignal(signal.SIGTERM)
    return isinstance(handler, _Noted) and handler.came
