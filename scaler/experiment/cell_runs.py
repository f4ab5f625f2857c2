"""Find the runs of an experiment's cells in the storage: a run belongs to a cell if it has the cell's job."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from scaler.errors import ScalerError
from scaler.experiment.matrix import Cell
from scaler.job import Job, dump_job, read_job
from scaler.job.changes import job_values
from scaler.job.stored import stored_lines
from scaler.runs import RunFolder, RunState, list_runs
from scaler.runs.lease import present_state

_NO_PART_OF_TRAINING = ("name", "storage", "tracking")
_OPTIMIZER = "reference.optimizer."  # its options may be given or left to their defaults


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

    A run that was resumed with another job belongs to no cell.

    Args:
        cells: of an experiment.
        storage: where runs are.

    Raises:
        RunError: the storage cannot be read.
    """
    found: dict[int, CellRun] = {}
    jobs = {cell.number: cell.job for cell in cells if cell.job is not None}
    wanted = {fingerprint(job): number for number, job in jobs.items()}
    outlines = {_outline(dump_job(job)) for job in jobs.values()}
    for folder in list_runs(storage):
        number = wanted.get(_fingerprint_of(folder, outlines) or "")
        if number is None or (number in found and found[number].state is RunState.SUCCEEDED):
            continue
        found[number] = CellRun(folder=folder, state=present_state(folder)[0])
    return found


def fingerprint(job: Job) -> str:
    """Return a text that two jobs share if they train the same."""
    values = {key: value for key, value in job_values(job).items() if key not in _NO_PART_OF_TRAINING}
    return json.dumps(values, sort_keys=True)


def _outline(text: str) -> str:
    """Return lines of a dumped job that two jobs share if they train the same; it takes no reading of YAML."""
    return stored_lines(
        text, keep=lambda key: not key.startswith(_OPTIMIZER) and key.partition(".")[0] not in _NO_PART_OF_TRAINING
    )


def _fingerprint_of(folder: RunFolder, outlines: set[str]) -> str | None:
    """Return the fingerprint of a run's job; None: it is no cell's, it has several jobs, or it cannot be read."""
    with suppress(ScalerError, UnicodeDecodeError):
        names = list(folder.job_names().values())
        if len(names) == 1:
            raw = folder.read(names[0])
            if _outline(raw.decode()) in outlines:
                return fingerprint(read_job(raw, source=folder.path(names[0])))
    return None
