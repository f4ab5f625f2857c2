"""Write what a worker prints to a log in the run's folder."""

import os
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

from scaler.runs import RunFolder


class WorkerLog:
    """Sends this process's stdout and stderr to ``logs/rank-N.log`` in the run's folder.

    If the run's folder is on this machine, the log grows while the worker prints. If it is in remote storage, the log
    is written when the worker ends.
    """

    def __init__(self, folder: RunFolder, *, rank: int) -> None:
        self._folder, self._name = folder, f"logs/rank-{rank}.log"
        self._saved: list[tuple[int, int]] = []
        self._path = Path()

    def __enter__(self) -> None:
        local = self._folder.local_path
        self._path = (local or Path(tempfile.mkdtemp())) / self._name
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for number in (1, 2):
            self._saved.append((number, os.dup(number)))
            os.dup2(file, number)
        os.close(file)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            traceback.print_exception(error)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for number, saved in self._saved:
            os.dup2(saved, number)
            os.close(saved)
        if self._folder.local_path is None:
            self._folder.write(self._name, self._path.read_bytes())
            shutil.rmtree(self._path.parent.parent)
