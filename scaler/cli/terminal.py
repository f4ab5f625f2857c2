"""Where things are printed: results to stdout, everything else to stderr."""

import sys
from typing import TextIO

from rich.console import Console, RenderableType

PIPE_WIDTH = 100


def show(renderable: RenderableType, *, aside: bool = False) -> None:
    """Print a result to stdout, or what stands beside it to stderr, without blanks at the ends of lines."""
    stream = sys.stderr if aside else sys.stdout
    console = _console(stream)
    with console.capture() as captured:
        console.print(renderable)
    stream.write("".join(f"{line.rstrip()}\n" for line in captured.get().rstrip().split("\n")))


def err() -> Console:
    """Return the console of everything that is not the result."""
    return _console(sys.stderr)


def _console(stream: TextIO) -> Console:
    """A console as wide as its terminal; 100 columns in a pipe, which has no width."""
    return Console(file=stream, highlight=False, markup=False, width=None if stream.isatty() else PIPE_WIDTH)
