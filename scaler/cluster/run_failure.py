"""Turn the failure of a run on Ray Train into an error of scaler, from Ray's exception and the run's events."""

from collections.abc import Mapping, Sequence

from scaler.cluster.messages import Trouble
from scaler.cluster.ray_errors import run_error
from scaler.cluster.restart_signals import NoCapacityError, WorkersLost, first_line
from scaler.errors import ClusterError, JobFileError, PlanError, RecipeError, RunError, ScalerError, TrainingError
from scaler.job import Job
from scaler.metrics.events import WAITING, GroupEnded, WorkerFailed, WorkerHung, of_type
from scaler.runs import RunFolder
from scaler.runs.logs import log_name

_RAISED_BY_WORKERS: Mapping[str, type[ScalerError]] = {
    error.__name__: error for error in (ClusterError, JobFileError, PlanError, RecipeError, RunError, TrainingError)
}


def raise_final(troubles: Sequence[Trouble], folder: RunFolder) -> None:
    """Raise the first failure that would happen again after a restart.

    A restart may help a worker that only lost its peers, or the process that loads its data.

    Args:
        troubles: events of the kinds in ``messages.Trouble``.
        folder: the run's folder.

    Raises:
        ScalerError: the failure, with the worker's traceback and log.
    """
    for trouble in troubles:
        if isinstance(trouble, WorkerFailed) and not trouble.by_peer:
            raise _from_worker(trouble, folder)


def final_error(error: BaseException, troubles: Sequence[Trouble], job: Job, folder: RunFolder) -> ScalerError:
    """Return the error of a run that Ray Train gave up.

    Args:
        error: what Ray Train, or the group, raised.
        troubles: events of the kinds in ``messages.Trouble``, the newest last.
        job: the run's job.
        folder: the run's folder.
    """
    from scaler.cluster.ray_internals import (
        ControllerError,
        WorkerGroupError,
        WorkerGroupStartupFailedError,
        WorkerGroupStartupTimeoutError,
    )

    if isinstance(error, WorkersLost):
        return _lost_workers(error.failures, troubles, job, folder)
    if isinstance(error, WorkerGroupError):
        return _lost_workers(error.worker_failures, troubles, job, folder)
    if isinstance(error, ControllerError):
        cause = error.controller_failure
        if isinstance(cause, (NoCapacityError, WorkerGroupStartupFailedError, WorkerGroupStartupTimeoutError)):
            workers = job.scale.min_workers
            return ClusterError(
                f"the cluster had no capacity for {'a worker' if workers == 1 else f'{workers} workers'} for too long.",
                f"Continue when nodes are free: scaler resume {folder.run_id}. "
                "resources.wait_s is how many seconds a run waits for nodes.",
            )
    if isinstance(error, ScalerError):
        return error
    return run_error(error, run_id=folder.run_id)


def _from_worker(failure: WorkerFailed, folder: RunFolder) -> ScalerError:
    """Return a worker's failure as an exception of this process, with the worker's traceback."""
    log = _log(folder, failure.rank)
    error_class = _RAISED_BY_WORKERS.get(failure.error)
    if error_class is not None:
        where = (
            f" on the node {failure.node}" if failure.node is not None and failure.node not in failure.problem else ""
        )
        source = f"Reported by rank {failure.rank}{where}; its log: {log}"
        return error_class(failure.problem, "\n".join(filter(None, [failure.remedy, source])))
    return RecipeError(
        f"rank {failure.rank} failed: {failure.problem}", f"{failure.traceback.rstrip()}\nIts log: {log}"
    )


def _lost_workers(
    failures: Mapping[int, Exception], troubles: Sequence[Trouble], job: Job, folder: RunFolder
) -> TrainingError:
    """Return the error of workers that were lost more often than the job allows; names the ranks and the reason."""
    allowed = f"more often than failures.max_restarts = {job.failures.max_restarts} allows"
    newest = max((trouble.attempt for trouble in troubles if trouble.attempt is not None), default=None)
    last = [trouble for trouble in troubles if trouble.attempt == newest]
    hung = of_type(last, WorkerHung)
    hung.sort(key=lambda trouble: trouble.doing == WAITING)  # a worker that waits for a hung one is not the cause
    if hung:
        rank, where, doing = hung[0].rank, hung[0].where, hung[0].doing
        return TrainingError(
            f"rank {rank} hung ({doing} for {hung[0].seconds:.0f} s, {where}), {allowed}.",
            f"If that may take longer, raise failures.hang_timeout_s.\nLog: {_log(folder, rank)}",
        )
    ended = of_type(last, GroupEnded)
    reported = {trouble.rank for trouble in of_type(last, WorkerFailed)}
    silent = [rank for rank in sorted(failures) if rank not in reported]
    ranks = ended[-1].ranks if ended else silent or sorted(failures)
    subject = f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
    logs = "\n".join(f"Log: {_log(folder, rank)}" for rank in ranks)
    if ended and (twice_at := ended[-1].twice_at) is not None:
        return TrainingError(
            f"{subject} died ({ended[-1].message}) in the step after sample {twice_at:,}, as in the attempt before: "
            "after another restart the same would happen.",
            "Look at what is special about that step: memory, or collectives of the loss on shares of different sizes "
            f"(train.last_batch: drop leaves a short step out).\n{logs}",
        )
    why = f" ({ended[-1].message})" if ended else ""
    first = first_line(next(iter(failures.values())))
    return TrainingError(f"{subject} died{why}, {allowed}.", f"Ray's message: {first}\n{logs}")


def _log(folder: RunFolder, rank: int) -> str:
    return folder.path(log_name(rank))
