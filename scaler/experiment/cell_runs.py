"""Find the runs of an experiment's cells in the storage: a run belongs to a cell if it has the cell's job."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress

from scaler.errors import ScalerError
from scaler.experiment.matrix import Cell
from scaler.job import Job, read_job
from scaler.job.changes import job_values
from scaler.runs import RunFolder, RunState, list_runs
from scaler.runs.origin import Origin

_NO_PART_OF_TRAINING = ("name", "storage", "tracking")


def find_cell_runs(cells: Sequence[Cell], *, storage: str) -> Mapping[int, RunFolder]:
    """Return the run of each cell that has one, by the cell's number: one that succeeded, else the newest one.

    A run that was resumed with another job, or began from a checkpoint of another run, belongs to no cell.

    Args:
        cells: of an experiment.
        storage: where runs are.

    Raises:
        RunError: the storage cannot be read.
    """
    found: dict[int, RunFolder] = {}
    succeeded: set[int] = set()
    wanted = {fingerprint(cell.job): cell.number for cell in cells if cell.job is not None}
    for folder in list_runs(storage):
        number = wanted.get(_fingerprint_of(folder) or "")
        if number is None or number in succeeded:
            continue
        found[number] = folder
        if folder.state() is RunState.SUCCEEDED:
            succeeded.add(number)
    return found


class JobRuns:
    """Finds the run of a job in the storage again and again; each run's job is read once.

    Args:
        storage: where runs are.
    """

    def __init__(self, storage: str) -> None:
        self._storage = storage
        self._known: dict[str, str] = {}

    def all(self) -> Sequence[RunFolder]:
        """Return all runs, the oldest first."""
        return list_runs(self._storage)

    def find(self, job: Job) -> RunFolder | None:
        """Return the run of a job: one that succeeded, else the newest one; None: there is none.

        Raises:
            RunError: the storage cannot be read.
        """
        wanted, found = fingerprint(job), None
        for folder in self.all():
            if folder.run_id not in self._known and (text := _fingerprint_of(folder)) is not None:
                self._known[folder.run_id] = text
            if self._known.get(folder.run_id) == wanted:
                found = folder
                if folder.state() is RunState.SUCCEEDED:
                    return folder
        return found


def fingerprint(job: Job) -> str:
    """Return a text that two jobs share if they train the same."""
    values = {key: value for key, value in job_values(job).items() if key not in _NO_PART_OF_TRAINING}
    return json.dumps(values, sort_keys=True)


def _fingerprint_of(folder: RunFolder) -> str | None:
    """Return the fingerprint of a run's job; None: it has several jobs, did not begin at 0, or cannot be read."""
    with suppress(ScalerError):
        names = list(folder.job_names().values())
        if len(names) == 1 and Origin.of(folder) is None:
            return fingerprint(read_job(folder.read(names[0]), source=folder.path(names[0])))
    return None
