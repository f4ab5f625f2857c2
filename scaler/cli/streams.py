"""Make stdout and stderr accept every write, so that an output that cannot be written does not end a run.

A stream may be closed (``>&-``, a daemon), full (``/dev/full``, a log on a full disk), or broken (a pipe whose reader
has exited, a terminal that was closed). The run continues, and its exit code reports how it ended.
"""

import errno
import io
import os
import select
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from scaler.errors import JobFileError

NAMES = ("stdin", "stdout", "stderr")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # may be temporary: later writes are tried again
# The exit code of these commands reports on a run, and their output can be printed again.
ABOUT_RUNS = ("submit", "resume", "check")


class GuardedFile(io.FileIO):
    """A file that accepts every write, and keeps the first error.

    Attributes:
        refused: the error of the first write that failed; None: every write succeeded.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number, "w", closefd=False)
        self.refused: OSError | None = None

    def write(self, data: "io.ReadableBuffer") -> int:  # type: ignore[name-defined]
        """Write, and return the number of bytes that were written; after an error, the size of ``data``."""
        size = memoryview(data).nbytes
        while True:
            try:
                written: int | None = super().write(data)
            except OSError as error:
                self.refused = self.refused or error
                if error.errno not in FULL:  # broken for good: replace it for child processes and C code too
                    _to_devnull(self.fileno())
                return size
            if written is not None:
                return written
            select.select([], [self], [])  # a non-blocking pipe that is full now


def guard_streams() -> None:
    """Open stdin, stdout and stderr where they are closed, and make stdout and stderr accept every write."""
    for number, name in enumerate(NAMES):
        try:
            os.fstat(number)
        except OSError:  # else the next file that is opened would get this number, and the output of C code
            _to_devnull(number)
        if number == 0:
            continue
        stream: TextIO | None = getattr(sys, name)
        buffer = io.BufferedWriter(GuardedFile(number))
        is_strict = stream is None or stream.errors in (None, "strict")
        guarded = io.TextIOWrapper(
            buffer,
            encoding=stream.encoding if stream is not None else "utf-8",
            errors="backslashreplace" if is_strict else stream.errors,  # type: ignore[union-attr]
            newline="\n",
            line_buffering=number == 2 or buffer.isatty(),
            write_through=bool(getattr(stream, "write_through", False)),
        )
        setattr(sys, name, guarded)


def exit_code(code: int, arguments: Sequence[str]) -> int:
    """Report on stderr if the result could not be written to stdout, and return the exit code of the process.

    Args:
        code: the command's exit code.
        arguments: of the command line.
    """
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    refused = raw.refused if isinstance(raw, GuardedFile) else None
    if refused is None or refused.errno == errno.EPIPE or code != 0:  # EPIPE: the reader has read enough, as head does
        return code
    print(f"Error: stdout cannot be written: {refused.strerror}.", file=sys.stderr)
    if next((word for word in arguments if not word.startswith("-")), "") in ABOUT_RUNS:
        print("  scaler report RUN prints the report again.", file=sys.stderr)
        return code
    print("  Send the output to a file that can be written, or to a program that reads it.", file=sys.stderr)
    return JobFileError.exit_code


@contextmanager
def open_streams() -> Iterator[None]:
    """Replace a stdout or stderr that is None or closed by ``/dev/null``, for the length of a ``with`` block."""
    before = {name: getattr(sys, name) for name in NAMES[1:]}
    missing = [name for name, stream in before.items() if stream is None or stream.closed]
    if not missing:
        yield
        return
    with open(os.devnull, "w") as nowhere:
        for name in missing:
            setattr(sys, name, nowhere)
        try:
            yield
        finally:
            for name in missing:
                setattr(sys, name, before[name])


def _to_devnull(number: int) -> None:
    """Make a file descriptor refer to ``/dev/null``."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != number:
        os.dup2(nowhere, number)
        os.close(nowhere)
