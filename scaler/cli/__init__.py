"""The command line: one file a command; each parses, calls one function, prints.

stdout carries the result; everything else goes to stderr. Importing this package loads almost nothing, so that Ctrl-C
is handled before the first import that takes time. The commands are in ``group``.
"""

import os
import signal
import sys
from importlib import import_module

TYPE_CHECKING = False  # typing's own takes milliseconds to import
if TYPE_CHECKING:
    from scaler.cli.group import COMMANDS, cli

__all__ = ["COMMANDS", "cli", "main", "run"]

INTERRUPTED = 130


class ExitAtOnce:
    """A signal handler that ends this process without a traceback, while there is nothing to clean up.

    Args:
        code: the exit code.
        message: for stderr.
    """

    def __init__(self, code: int, message: bytes = b"") -> None:
        self._code, self._message = code, message

    def __call__(self, number: int, frame: object) -> None:
        """End the process."""
        try:
            os.write(2, self._message)
        finally:  # also where there is no stderr
            os._exit(self._code)


def main() -> None:
    """Run the command line and exit: 0 done, 1 a bug, 2 usage, 3 cluster, 4 job, 5 run, 130 interrupted."""
    ctrl_c = signal.getsignal(signal.SIGINT)
    is_handled = ctrl_c is signal.default_int_handler  # else it is ignored, as in a shell's background job
    if is_handled:
        signal.signal(signal.SIGINT, ExitAtOnce(INTERRUPTED, b"\nInterrupted.\n"))
    from scaler.cli.group import run
    from scaler.cli.streams import exit_code, guard_streams

    arguments = sys.argv[1:]
    guard_streams()
    try:
        code = exit_code(run(arguments), arguments)
    except KeyboardInterrupt:  # a second one, while the first was reported
        code = INTERRUPTED
    if is_handled:  # what is left is the interpreter's own end
        signal.signal(signal.SIGINT, ExitAtOnce(code))
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run the command line in this process; return the exit code."""
    from scaler.cli.group import run

    return run(arguments)


def raise_on_ctrl_c() -> None:
    """Have Ctrl-C raise ``KeyboardInterrupt`` again, if ``main`` had it end the process: now a command begins."""
    if isinstance(signal.getsignal(signal.SIGINT), ExitAtOnce):
        signal.signal(signal.SIGINT, signal.default_int_handler)


def __getattr__(name: str) -> object:
    if name in ("COMMANDS", "cli"):
        return getattr(import_module("scaler.cli.group"), name)
    raise AttributeError(f"module 'scaler.cli' has no attribute {name!r}")
