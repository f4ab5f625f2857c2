"""Notice how a script ends: by itself, by an exception, by Ctrl-C or by SIGTERM."""

import atexit
import signal
import sys
import threading
from collections.abc import Callable
from types import TracebackType


def end_with_the_script(finish: Callable[[BaseException | None], object]) -> Callable[[], None]:
    """Call ``finish`` when the script ends, with what ended it; None: it came to its end.

    SIGTERM, with which torchrun ends its processes, ends the script as ``sys.exit`` does, unless the script has a
    handler of its own.

    Returns:
        A function that undoes this, for a script that calls ``finish`` itself.
    """
    found: list[BaseException] = []
    before = sys.excepthook

    def note(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        found.append(error)
        before(kind, error, trace)

    def terminate(number: int, frame: object) -> None:
        error = SystemExit(128 + number)
        found.append(error)
        raise error

    def at_exit() -> None:
        finish(found[0] if found else None)

    def undo() -> None:
        atexit.unregister(at_exit)
        if sys.excepthook is note:
            sys.excepthook = before
        if is_main and signal.getsignal(signal.SIGTERM) is terminate:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    is_main = threading.current_thread() is threading.main_thread()
    sys.excepthook = note
    atexit.register(at_exit)
    if is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, terminate)
    return undo
