"""The folder of one run: its status, its job files and its path. This class knows the names of the files in it.

    runs/<run_id>/  job.yaml  job-<attempt>.yaml  plan.json  status.json  driver.json  progress.json  stop.json
                    events.jsonl  metrics/*.parquet  checkpoints/  logs/  tensorboard/
                    report.json  report.html  report.md

``scaler.runs.files`` and ``scaler.runs.large_files`` read and write the files. Every file has one writer.
"""

import json
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self, Unpack

from scaler.errors import RunError
from scaler.runs.filesystems import inside, located, make_folder, not_made, reach
from scaler.runs.large_files import LargeFiles
from scaler.runs.status import StatusValues


class RunState(StrEnum):
    """The state of a run.

        pending -> starting -> running -> succeeded | failed | stopped
                      |           |
                      +-----------+--> lost        (a resume leads from the last three, and from lost, to starting)

    ``status.json`` never has ``PENDING`` and ``LOST``: readers derive them.
    """

    PENDING = "pending"  # a cluster has accepted the job, and its driver has not made the run's folder yet
    STARTING = "starting"  # its driver connects to the cluster, waits for resources, or starts the workers
    RUNNING = "running"  # the workers have started; also while they are replaced after a failure
    SUCCEEDED = "succeeded"  # trained to the end of the plan
    FAILED = "failed"  # an error ended it
    STOPPED = "stopped"  # Ctrl-C, SIGTERM or ``scaler stop`` ended it
    LOST = "lost"  # no process runs it, and none wrote its end

    @property
    def is_end(self) -> bool:
        """Whether the state is final, unless the run is resumed."""
        return self in (RunState.SUCCEEDED, RunState.FAILED, RunState.STOPPED)


MAX_IDS = 100  # ids that are tried for a new run
BLOCK_BYTES = 4096  # disk space that a small file takes


def new_run_id(name: str, now: datetime) -> str:
    """Return ``<name>-<YYYYmmdd-HHMMSS>-<4 hex>``, in UTC; a time without a time zone is taken as UTC."""
    if now.tzinfo is not None:
        now = now.astimezone(UTC)
    return f"{name}-{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


@dataclass(frozen=True)
class RunFolder(LargeFiles):
    """The folder of one run.

    Args:
        uri: of the folder: a path, or a URI that fsspec knows. The value can be pickled, and used on another machine.
    """

    @classmethod
    def create(cls, storage: str, *, name: str, now: datetime) -> Self:
        """Make the folder of a new run below ``storage``.

        Raises:
            RunError: the storage cannot be written.
        """
        base = located(storage)
        reach(base)
        for _ in range(MAX_IDS):  # two runs of one job in one second may draw the same four digits
            folder = cls(inside(base, new_run_id(name, now)))
            if make_folder(folder._fs, folder._root, storage=storage, uri=base):
                return folder
        raise not_made(storage, f"{MAX_IDS} runs of this second exist already")

    @classmethod
    def make(cls, storage: str, *, run_id: str) -> Self:
        """Make the folder of a run with a given id; one that exists is no error.

        Raises:
            RunError: the storage cannot be written.
        """
        base = located(storage)
        folder = cls(inside(base, run_id))
        make_folder(folder._fs, folder._root, storage=storage, uri=base)
        return folder

    def is_run(self) -> bool:
        """Return whether the folder is a run's; the status need not be readable."""
        if self.local_path is None:
            return self.exists("status.json")
        return os.path.lexists(f"{self._root}/status.json")  # also for a symbolic link, which is not followed

    def set_state(self, state: RunState, **values: Unpack[StatusValues]) -> None:
        """Write the run's state and other values into its status.

        Args:
            state: the new state.
            values: keys of the status, set to these values; None removes a key. ``run_id`` is always the folder's
                name, also in a renamed copy of a folder.

        Raises:
            RunError: it cannot be written.
        """
        before = self.read_json("status.json") if self.exists("status.json") else {}
        mine = {"run_id": self.run_id, "state": state}
        status = {"schema_version": 1, **mine, **before, **values, **mine}
        known = {key: value for key, value in status.items() if value is not None}
        try:
            self.write_json("status.json", known)
        except RunError as error:
            if self.local_path is None or not before or not isinstance(error.__cause__, OSError):
                raise
            self._overwrite_status(known)

    def _overwrite_status(self, known: Mapping[str, Any]) -> None:
        """Write the status into the disk space of the old one, for a full disk.

        Raises:
            RunError: it cannot be written.
        """
        path = self._at("status.json")
        with self._errors("status.json", "written"):
            self._require_file("status.json", path)
            with open(path, "r+b") as file:
                space = max(len(file.read()), BLOCK_BYTES)
                data = json.dumps(known).encode()
                if len(data) > space and isinstance(known.get("failure"), str):
                    data = json.dumps({**known, "failure": known["failure"][: BLOCK_BYTES // 8]}).encode()
                file.seek(0)
                file.write(data)
                file.truncate()

    def state(self) -> RunState:
        """Return the state that was last written.

        Raises:
            RunError: the status cannot be read, or has no such state.
        """
        state = self.read_json("status.json").get("state")
        written = [known for known in RunState if known not in (RunState.PENDING, RunState.LOST)]
        if state not in written:
            raise RunError(
                f"run {self.run_id}: status.json has the state {str(state)[:60]}, not one of {', '.join(written)}.",
                "The file was altered.",
            )
        return RunState(state)

    def job_names(self) -> dict[int, str]:
        """Return the names of the job files by the first attempt that used each, ascending; ``job.yaml``: attempt 0."""
        found = {0: "job.yaml"}
        for name in self.names(""):
            if match := re.fullmatch(r"job-(\d+)\.yaml", name):
                found[int(match[1])] = name
        return dict(sorted(found.items()))
