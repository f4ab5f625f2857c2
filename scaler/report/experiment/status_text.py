"""Render how far an experiment is."""

from shlex import quote

from scaler.report.experiment.progress import IMPOSSIBLE, LEFT, ExperimentStatus
from scaler.runs import RunState


def status_line(status: ExperimentStatus) -> str:
    """Return how far an experiment is, as one line.

    Example:
        >>> states = {"succeeded": 3, "waiting": 1}
        >>> status_line(ExperimentStatus(name="digits-scaling", cells=4, states=states, running=()))
        'digits-scaling  3 of 4 cells succeeded, 1 waiting'
    """
    done = status.states.get(RunState.SUCCEEDED.value, 0)
    rest = "".join(f", {count} {state}" for state, count in status.states.items() if state != RunState.SUCCEEDED)
    return f"{status.name}  {done} of {status.cells} cells succeeded{rest}"


def status_text(status: ExperimentStatus, *, storage: str = "runs") -> str:
    """Return how far an experiment is, and what to type next.

    Args:
        status: of the experiment.
        storage: of the experiment, as a person types it.

    Example:
        >>> made = ExperimentStatus(name="study", cells=2, states={"succeeded": 2}, running=())
        >>> print(status_text(made, storage="s3://bucket"))
        study  2 of 2 cells succeeded
        Report: scaler experiment report study --storage s3://bucket
    """
    lines = [status_line(status), *(f"Running: {run_id}" for run_id in status.running)]
    done = sum(status.states.get(state, 0) for state in (RunState.SUCCEEDED.value, IMPOSSIBLE, LEFT))
    if status.cells > done and not status.running:
        lines.append("Continue it with the command that started it: finished cells are not run again.")
    where = "" if storage == "runs" else f" --storage {quote(storage)}"
    return "\n".join([*lines, f"Report: scaler experiment report {status.name}{where}"])
