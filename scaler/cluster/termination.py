"""SIGTERM to a worker, as clusters send it before they take a machine: the group saves and makes room.

Python runs a signal's handler on the main thread only, and training runs beside it; so the handler is set by a hook
that Ray Train calls there. It is unpickled in Ray Train's controller, so this module imports nothing else of ours.
"""

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from ray.train.v2._internal.execution.callback import WorkerCallback


class _Noted:
    """A handler that remembers the first signal and passes a second one on."""

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
    """Has each worker note SIGTERM."""

    def after_init_train_context(self) -> None:
        """Set the handler, on the worker's main thread."""
        signal.signal(signal.SIGTERM, _Noted(signal.getsignal(signal.SIGTERM)))


def has_been_terminated() -> bool:
    """Whether this process was sent SIGTERM since ``NoteTermination`` set its handler; any thread may ask."""
    handler = signal.getsignal(signal.SIGTERM)
    return isinstance(handler, _Noted) and handler.came
