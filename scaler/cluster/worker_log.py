"""Write what a worker prints to a log in the run's folder."""

import os
import shutil
import sys
import tempfile
import traceback
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from time import monotonic

from scaler.runs import RunFolder
from scaler.runs.logs import log_name

UPLOAD_S = 10.0  # in remote storage, the log is this old at most ...
UPLOAD_SHARE = 0.05  # ... unless writing it takes longer than this share of the time


class WorkerLog:
    """Sends this process's stdout and stderr to ``logs/rank-N.log`` in the run's folder.

    The log has what the worker of this rank printed in all attempts. If the run's folder is on this machine, the log
    grows while the worker prints. In remote storage, where files cannot grow, it is written again while it grows.
    """

    def __init__(self, folder: RunFolder, *, rank: int) -> None:
        self._folder, self._name = folder, log_name(rank)
        self._saved: list[tuple[int, int]] = []
        self._path = Path()
        self._ended = Event()
        self._uploads = Thread(target=self._keep_uploading, name="scaler-log", daemon=True)
        self._uploaded = 0  # bytes of the log in remote storage

    def __enter__(self) -> None:
        local = self._folder.local_path
        self._path = (local or Path(tempfile.mkdtemp())) / self._name
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if local is None:
            earlier = self._folder.read_if_there(self._name, most=None) or b""
            self._path.write_bytes(earlier)
            self._uploaded = len(earlier)
            self._uploads.start()
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
            self._ended.set()
            self._uploads.join()
            self._upload()
            shutil.rmtree(self._path.parent.parent)

    def _keep_uploading(self) -> None:
        took_s = 0.0
        while not self._ended.wait(max(UPLOAD_S, took_s / UPLOAD_SHARE)):
            began = monotonic()
            with suppress(Exception):  # each filesystem has its own errors; the upload at the end raises them
                sys.stdout.flush()
                self._upload()
            took_s = monotonic() - began

    def _upload(self) -> None:
        data = self._path.read_bytes()
        if len(data) != self._uploaded:
            self._folder.write(self._name, data)
            self._uploaded = len(data)
