"""The logs of a run: what each worker printed, in ``logs/rank-N.log`` of the run's folder."""

import re
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from scaler.runs.files import LOG_BYTES
from scaler.runs.filesystems import CONNECTIONS
from scaler.runs.folder import RunFolder

_NAME = re.compile(r"rank-(\d+)\.log")


def log_name(rank: int) -> str:
    """Return the name of a worker's log in the run's folder."""
    return f"logs/rank-{rank}.log"


def ranks_with_log(folder: RunFolder) -> list[int]:
    """Return the ranks that have a log, ascending. A run without Ray has no logs.

    Raises:
        RunError: the folder cannot be read.
    """
    return sorted(int(match[1]) for match in map(_NAME.fullmatch, folder.names("logs")) if match)


class LineReader:
    """Reads the lines of growing files in a run's folder: first what is there, later what was added.

    Args:
        folder: the run's.
        lines: number of lines of each file that the first read returns, from its end; None: all.
    """

    def __init__(self, folder: RunFolder, *, lines: int | None = None) -> None:
        self._folder, self._lines = folder, lines
        self._read: dict[str, int] = {}

    def new_lines(self, files: Mapping[str, str], *, final: bool) -> Mapping[str, list[str]]:
        """Return the lines of each file since the last call; a file without new lines is left out.

        Args:
            files: what each file is called, and its name in the folder.
            final: also return a last line that has no end yet.

        Raises:
            RunError: the folder cannot be read.
        """
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            lines = pool.map(lambda name: self._new_lines_of(name, final=final), files.values())
            return {title: of_file for title, of_file in zip(files, lines, strict=True) if of_file}

    def _new_lines_of(self, name: str, *, final: bool) -> list[str]:
        start = self._read.get(name, 0)
        data = self._folder.read_if_there(name, most=LOG_BYTES, start=start) or b""
        end = len(data) if final else data.rfind(b"\n") + 1
        lines = data[:end].decode(errors="replace").splitlines()
        if name not in self._read:
            lines = list(deque(lines, maxlen=self._lines))
        self._read[name] = start + end
        return lines
