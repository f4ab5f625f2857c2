"""Find the runs of an experiment's cells in the storage: a run belongs to a cell if it has the cell's job."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from scaler.errors import ScalerError
from scaler.experiment.matrix import Cell
from scaler.job import Job, dump_job, read_job
from scaler.job.changes import job_values
from scaler.job.stored import stored_keys, stored_lines
from scaler.runs import RunFolder, RunState, list_runs
from scaler.runs.lease import present_state
from scaler.runs.origin import Origin

_NO_PART_OF_TRAINING = ("name", "storage", "tracking")
_OPTIMIZER = "reference.optimizer."


@dataclass(frozen=True, kw_only=True, slots=True)
class CellRun:
    """The run of a cell.

    Args:
        folder: of the run.
        state: of the run, as it was read.
    """

    folder: RunFolder
    state: RunState


def find_cell_runs(cells: Sequence[Cell], *, storage: str) -> Mapping[int, CellRun]:
    """Return the run of each cell that has one, by the cell's number: one that succeeded, else the newest one.

    A run that was resumed with another job, or began from a checkpoint of another run, belongs to no cell.

    Args:
        cells: of an experiment.
        storage: where runs are.

    Raises:
        RunError: the storage cannot be read.
    """
    found: dict[int, CellRun] = {}
    wanted = _Wanted({cell.number: cell.job for cell in cells if cell.job is not None})
    for folder in list_runs(storage):
        number = wanted.number_of(folder)
        if number is None or (number in found and found[number].state is RunState.SUCCEEDED):
            continue
        found[number] = CellRun(folder=folder, state=present_state(folder)[0])
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


class _Wanted:
    """The jobs of the cells.

    Args:
        jobs: by the cell's number.
    """

    def __init__(self, jobs: Mapping[int, Job]) -> None:
        self._texts = {number: dump_job(job) for number, job in jobs.items()}
        self._by_text = {_text(text): number for number, text in self._texts.items()}
        self._outlines: dict[frozenset[str], set[str]] = {}  # of the cells, by the keys that are compared
        self._by_fingerprint = {fingerprint(job): number for number, job in jobs.items()}

    def number_of(self, folder: RunFolder) -> int | None:
        """Return the cell that a run belongs to; None: no cell's, or its job cannot be read.

        A run with several jobs, or one that began from a checkpoint of another run, is no cell's.

        The YAML of a job is read only if it differs from a cell's in the options of the optimizer alone, or lacks keys
        that the scaler that wrote it did not have.
        """
        with suppress(ScalerError, UnicodeDecodeError):
            names = list(folder.job_names().values())
            if len(names) != 1:
                return None
            raw = folder.read(names[0])
            text = raw.decode()
            found = self._by_text.get(_text(text))
            if found is None and self._may_be_a_cell(text):
                found = self._by_fingerprint.get(fingerprint(read_job(raw, source=folder.path(names[0]))))
            return found if found is None or Origin.of(folder) is None else None
        return None

    def _may_be_a_cell(self, text: str) -> bool:
        """Return whether a dumped job agrees with a cell's in the keys that it has."""
        keys = frozenset(key for key in stored_keys(text) if not key.startswith((*_NO_PART_OF_TRAINING, _OPTIMIZER)))
        if keys not in self._outlines:
            self._outlines[keys] = {stored_lines(each, keep=keys.__contains__) for each in self._texts.values()}
        return stored_lines(text, keep=keys.__contains__) in self._outlines[keys]


def _text(text: str) -> str:
    """Return the lines of a dumped job that change the training."""
    return stored_lines(text, keep=lambda key: not key.startswith(_NO_PART_OF_TRAINING))
