"""Say what a command does while it cannot show progress."""

from threading import Timer
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.status import Status

SLOW_S = 5.0


class Slow:
    """A line for a step that may take long; a context manager.

    In a terminal it is shown at once, and removed at the end. Elsewhere it is printed after ``SLOW_S`` seconds.

    Args:
        text: what the command does.
        console: shows the line.
    """

    def __init__(self, text: str, *, console: Console) -> None:
        self._status = Status(text, console=console) if console.is_terminal else None
        self._timer = Timer(SLOW_S, console.print, [text], {"soft_wrap": True})
        self._timer.daemon = True

    def __enter__(self) -> Self:
        if self._status is not None:
            self._status.start()
        else:
            self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """End the step; further calls do nothing."""
        if self._status is not None:
            self._status.stop()
        self._timer.cancel()
