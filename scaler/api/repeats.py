"""Find an error that a run repeats: whatever starts the run again would pay for it again."""

from collections.abc import Sequence
from shlex import quote

from scaler.cluster.resume import read_stored
from scaler.errors import ClusterError, RunError, TrainingError
from scaler.job import Job
from scaler.job.changes import job_changes
from scaler.metrics.events import Event, Resumed, WorkerFailed
from scaler.metrics.reader import read_events
from scaler.runs import RunFolder, RunState
from scaler.runs.find import typed_name

_OF_THE_CLUSTER = (ClusterError.__name__, RunError.__name__)  # may pass, on another node or when storage is back


def require_no_repeat(folder: RunFolder, job: Job) -> None:
    """Refuse to start a run again that has failed twice in a row with the same error of its recipe.

    The first time, the run is started again: the error may have come from a download, or from a node. A changed job is
    started again, too.

    Args:
        folder: the run's folder.
        job: to start the run with.

    Raises:
        TrainingError: the run would fail with the same error again.
        RunError: the run's folder cannot be read.
    """
    if folder.state() is not RunState.FAILED:
        return
    problem = repeated_problem(read_events(folder))
    if problem is None or job_changes(read_stored(folder).job, job):
        return
    raise TrainingError(
        f"run {folder.run_id} has failed twice with the same error, and is not started again: {problem}",
        f"The traceback: scaler status {quote(typed_name(folder))}\n"
        "When the cause is removed, start it with --even-if-stopped.",
    )


def repeated_problem(events: Sequence[Event]) -> str | None:
    """Return the message of an error of the recipe that ended the last two starts of a run; None: there is none.

    Args:
        events: of the run, in order. ``resumed`` begins a start; if it changed the job, earlier starts do not count.
    """
    starts: list[dict[tuple[str, str], None]] = [{}]
    for event in events:
        if isinstance(event, Resumed):
            starts = [{}] if event.changes else [*starts, {}]
        elif isinstance(event, WorkerFailed) and not event.by_peer and event.error not in _OF_THE_CLUSTER:
            starts[-1][event.error, event.problem] = None
    before, last = ([{}, *starts])[-2:]
    return next((problem for error, problem in last if (error, problem) in before), None)
