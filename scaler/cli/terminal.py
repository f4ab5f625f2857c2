"""Print results to stdout, and everything else to stderr."""

import sys
from typing import TextIO

from rich.console import Console, RenderableType

PIPE_WIDTH = 100


def show(renderable: RenderableType, *, aside: bool = False) -> None:
    """Print without blanks at the ends of lines: a result to stdout, or with ``aside`` another text to stderr."""
    stream = sys.stderr if aside else sys.stdout
    console = _console(stream)
    with console.capture() as captured:
        console.print(renderable)
    stream.write("".join(f"{line.rstrip()}\n" for line in captured.get().rstrip().split("\n")))


def err() -> Console:
    """Return the console on stderr, for everything that is not the result."""
    return _console(sys.stderr)


def _console(stream: TextIO) -> Console:
    """Return a console as wide as its terminal, or 100 columns wide in a pipe."""
    return Console(file=stream, highlight=False, markup=False, width=None if stream.isatty() else PIPE_WIDTH)
