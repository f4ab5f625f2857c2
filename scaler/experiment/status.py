"""How far an experiment is."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from scaler.errors import RunError
from scaler.experiment.folder import ExperimentFolder
from scaler.runs import RunState
from scaler.runs.find import run_with_id
from scaler.runs.lease import present_state

WAITING, IMPOSSIBLE, GONE = "waiting", "impossible", "gone"
LEFT = "stopped by the search"


@dataclass(frozen=True, kw_only=True, slots=True)
class ExperimentStatus:
    """The states of an experiment's cells.

    Args:
        name: of the experiment.
        cells: number of cells.
        states: number of cells by state of their run; ``waiting``: no run yet; ``impossible``: it cannot run;
            ``gone``: its run was removed; ``stopped by the search``: it needs no more training.
        running: run ids of the cells that run now.
    """

    name: str
    cells: int
    states: Mapping[str, int]
    running: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the status as JSON has it."""
        return asdict(self)

    def line(self) -> str:
        """Return the status as one line.

        Example:
            >>> states = {"succeeded": 3, "waiting": 1}
            >>> ExperimentStatus(name="digits-scaling", cells=4, states=states, running=()).line()
            'digits-scaling  3 of 4 cells succeeded, 1 waiting'
        """
        done = self.states.get(RunState.SUCCEEDED.value, 0)
        rest = "".join(f", {count} {state}" for state, count in self.states.items() if state != RunState.SUCCEEDED)
        return f"{self.name}  {done} of {self.cells} cells succeeded{rest}"

    def text(self) -> str:
        """Return the status, and what to type next."""
        lines = [self.line(), *(f"Running: {run_id}" for run_id in self.running)]
        done = sum(self.states.get(state, 0) for state in (RunState.SUCCEEDED.value, IMPOSSIBLE, LEFT))
        unfinished = self.cells - done
        if unfinished and not self.running:
            lines.append("Continue it with the command that started it: finished cells are not run again.")
        return "\n".join([*lines, f"Report: scaler experiment report {self.name}"])


def experiment_status(folder: ExperimentFolder) -> ExperimentStatus:
    """Return how far an experiment is.

    Raises:
        RunError: the folder cannot be read.
    """
    experiment, rows, about = folder.read_cells()
    states: dict[str, int] = {}
    running = []
    for row in rows:
        state = IMPOSSIBLE if row.problem else WAITING
        if row.run_id is not None:
            run = run_with_id(row.run_id, storage=about.storage)
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
