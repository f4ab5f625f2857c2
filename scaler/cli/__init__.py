"""The command line. Each command has a file: it parses its options, calls one function and prints.

stdout gets the result; everything else goes to stderr. Importing this package loads almost nothing, so that Ctrl-C is
handled before the first import that takes time. The commands are listed in ``group``.
"""

import os
import signal
import sys
from importlib import import_module

TYPE_CHECKING = False  # importing it from typing would take milliseconds
if TYPE_CHECKING:
    from scaler.cli.group import COMMANDS, cli

__all__ = ["COMMANDS", "cli", "main", "run"]

INTERRUPTED = 130


class ExitAtOnce:
    """A signal handler that ends this process without a traceback, while there is nothing to clean up.

    Args:
        code: the exit code.
        message: printed to stderr.
    """

    def __init__(self, code: int, message: bytes = b"") -> None:
        self._code, self._message = code, message

    def __call__(self, number: int, frame: object) -> None:
        """End the process."""
        try:
            os.write(2, self._message)
        finally:  # also if stderr cannot be written
            os._exit(self._code)


def main() -> None:
    """Run the command line and exit with its code: 0 done, 1 bug, 2 usage, 3 cluster, 4 job, 5 run, 130 interrupted."""
    ctrl_c = signal.getsignal(signal.SIGINT)
    is_handled = ctrl_c is signal.default_int_handler  # else SIGINT is ignored, as in a background job of a shell
    if is_handled:
        signal.signal(signal.SIGINT, ExitAtOnce(INTERRUPTED, b"\nInterrupted.\n"))
    try:
        from scaler.cli.group import run
        from scaler.cli.streams import exit_code, guard_streams
    except ModuleNotFoundError as error:
        from scaler.cli.missing_package import EXIT_CODE, missing_package_text

        if (text := missing_package_text(error)) is None:
            raise
        sys.stderr.write(f"{text}\n")
        sys.exit(EXIT_CODE)

    arguments = sys.argv[1:]
    guard_streams()
    try:
        code = exit_code(run(arguments), arguments)
    except KeyboardInterrupt:  # a second Ctrl-C, while the first was being reported
        code = INTERRUPTED
    if is_handled:  # only the interpreter's exit is left
        signal.signal(signal.SIGINT, ExitAtOnce(code))
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run the command line in this process, and return its exit code."""
    from scaler.cli.group import run

    return run(arguments)


def raise_on_ctrl_c() -> None:
    """Make Ctrl-C raise ``KeyboardInterrupt`` when a command begins; ``main`` made it end the process."""
    if isinstance(signal.getsignal(signal.SIGINT), ExitAtOnce):
        signal.signal(signal.SIGINT, signal.default_int_handler)


def __getattr__(name: str) -> object:
    if name in ("COMMANDS", "cli"):
        return getattr(import_module("scaler.cli.group"), name)
    raise AttributeError(f"module 'scaler.cli' has no attribute {name!r}")
