"""stdout and stderr that cannot fail: a display that is gone or full does not end a run.

A stream may be closed (``>&-``, a daemon), full (``/dev/full``, a log on a full disk), or gone (a pipe whose reader has
left, a terminal that was closed). The run goes on, and its exit code says how it ended.
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
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # may pass: later text is tried again
# Commands whose exit code says how a run ended, or that it keeps its limits; what they print can be had again.
ABOUT_RUNS = ("submit", "resume", "check")


class GuardedFile(io.FileIO):
    """A file descriptor that takes every write, and remembers the first that was refused.

    Attributes:
        refused: why; None: everything was written.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number, "w", closefd=False)
        self.refused: OSError | None = None

    def write(self, data: "io.ReadableBuffer") -> int:  # type: ignore[name-defined]
        """Write what the file takes."""
        size = memoryview(data).nbytes
        while True:
            try:
                written: int | None = super().write(data)
            except OSError as error:
                self.refused = self.refused or error
                if error.errno not in FULL:  # it is gone for good, also for child processes and C code
                    _lead_nowhere(self.fileno())
                return size
            if written is not None:
                return written
            select.select([], [self], [])  # a pipe that does not block, and is full now


def guard_streams() -> None:
    """Have this process's stdin, stdout and stderr be open, and stdout and stderr take every write."""
    for number, name in enumerate(NAMES):
        try:
            os.fstat(number)
        except OSError:  # else the next file that is opened would get this number, and what C code prints
            _lead_nowhere(number)
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
    """Return the exit code of a command, after what was refused of its result was reported on stderr.

    Args:
        code: the command's own.
        arguments: of the command line.
    """
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    refused = raw.refused if isinstance(raw, GuardedFile) else None
    if refused is None or refused.errno == errno.EPIPE or code != 0:  # EPIPE: the reader has what it wanted, as head
        return code
    print(f"Error: stdout cannot be written: {refused.strerror}.", file=sys.stderr)
    if next((word for word in arguments if not word.startswith("-")), "") in ABOUT_RUNS:
        print("  scaler report RUN prints the report again.", file=sys.stderr)
        return code
    print("  Send the output to a file or a program that takes it.", file=sys.stderr)
    return JobFileError.exit_code


@contextmanager
def open_streams() -> Iterator[None]:
    """Replace a stdout or stderr that is None or closed by one that leads nowhere, for the length of a block."""
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


def _lead_nowhere(number: int) -> None:
    """Make a file descriptor one of ``/dev/null``."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != number:
        os.dup2(nowhere, number)
        os.close(nowhere)
