"""How far an experiment is."""

from scaler.errors import RunError
from scaler.experiment.folder import ExperimentFolder
from scaler.report.experiment.progress import GONE, IMPOSSIBLE, LEFT, WAITING, ExperimentStatus
from scaler.runs import RunState
from scaler.runs.find import run_with_id
from scaler.runs.lease import present_state


def experiment_status(folder: ExperimentFolder) -> ExperimentStatus:
    """Return how far an experiment is.

    Raises:
        RunError: the folder cannot be read.
    """
    experiment, rows, _ = folder.read_cells()
    states: dict[str, int] = {}
    running = []
    for row in rows:
        state = IMPOSSIBLE if row.problem else WAITING
        if row.run_id is not None:
            run = run_with_id(row.run_id, storage=folder.storage)
            try:
                state = GONE if run is None else present_state(run)[0].value
            except RunError:
                state = "unreadable"
        if row.ended in ("stopped", "replaced"):
            state = LEFT
        if state in (RunState.RUNNING, RunState.STARTING) and row.run_id is not None:
            running.append(row.run_id)
        states[state] = states.get(state, 0) + 1
    return ExperimentStatus(name=experiment.name, cells=len(rows), states=states, running=tuple(running))
