"""One run on Ray Train, watched from the driver."""

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from scaler.cluster.embedded import require_resources
from scaler.cluster.head import EMBEDDED_PATIENCE_S, PATIENCE_S, HeadWatch
from scaler.cluster.messages import Trouble
from scaler.cluster.progress import Progress
from scaler.cluster.ray_errors import head_lost, ray_errors, run_error
from scaler.cluster.restart_signals import NoRoomError, first_line
from scaler.errors import ClusterError, JobFileError, PlanError, RecipeError, RunError, ScalerError, TrainingError
from scaler.job import Job
from scaler.metrics.events import WAITING, GroupEnded, Resumed, WorkerFailed, WorkerHung, of_type
from scaler.plan import Plan
from scaler.runs import RunFolder, RunState

if TYPE_CHECKING:
    from scaler.cluster.collector import Look

POLL_S = 0.2
RAY_TRAIN_FOLDER = "ray_train"  # Ray Train wants a place of its own; nothing of ours is there
ROOM_S = 20.0  # how long a job waits for others to leave a running cluster
STOP_S = 20.0  # how long workers get to stop by themselves after Ctrl-C
LOOK_S = 10.0  # the collector's answers to the driver: to a look, ...
CLOSE_S = 30.0  # when everything is to be written, ...
LEAVE_S = 5.0  # and without a head, which it does not need

_TOLD_BY_WORKERS: Mapping[str, type[ScalerError]] = {
    error.__name__: error for error in (ClusterError, JobFileError, PlanError, RecipeError, RunError, TrainingError)
}


def run_on_ray(
    job: Job,
    plan: Plan,
    folder: RunFolder,
    *,
    recipe_folder: str,
    on_progress: Callable[[Progress], None],
    embedded: bool = True,
    resumed: Resumed | None = None,
) -> bool:
    """Run a plan on the connected Ray cluster, from the newest checkpoint if there is one.

    Args:
        job: what was asked for.
        plan: its plan.
        folder: the run's folder.
        recipe_folder: where the job file lies, as the workers see it.
        on_progress: called a few times a second.
        embedded: whether the cluster ends with this process.
        resumed: the event of a run that goes on.

    Returns:
        Whether training is over; False when Ctrl-C stopped it.

    Raises:
        ClusterError: the cluster cannot hold the job, or went away.
        TrainingError: it failed; carries the worker's error.
        RunError: the run's folder does not take what is written to it.
        KeyboardInterrupt: Ctrl-C before training had begun, or a second one.
    """
    import ray

    head = HeadWatch(ray.get_runtime_context().gcs_address, patience_s=EMBEDDED_PATIENCE_S if embedded else PATIENCE_S)
    with ray_errors(folder.run_id), head:
        return _run(
            job,
            plan,
            folder,
            head,
            recipe_folder=recipe_folder,
            on_progress=on_progress,
            embedded=embedded,
            resumed=resumed,
        )


def _run(
    job: Job,
    plan: Plan,
    folder: RunFolder,
    head: HeadWatch,
    *,
    recipe_folder: str,
    on_progress: Callable[[Progress], None],
    embedded: bool,
    resumed: Resumed | None,
) -> bool:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from scaler.cluster.collector import Collector

    _require_room(job, embedded=embedded)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # Should its process die, Ray starts it again and repeats the calls that were not answered.
    lasting = {"num_cpus": 0, "scheduling_strategy": here, "max_restarts": -1, "max_task_retries": -1}
    opening = [resumed] if resumed is not None else []
    tracking = job.tracking.seen_from(Path.cwd())
    collector: Any = ray.remote(Collector).options(**lasting).remote(folder, opening, tracking)

    def fit() -> bool:
        from scaler.cluster.trainer import make_trainer
        from scaler.cluster.worker import Assignment

        assignment = Assignment(
            job=job.model_dump(),
            plan=plan.to_dict(),
            folder=folder,
            recipe_folder=recipe_folder,
            collector=collector,
        )
        result: Any = make_trainer(job, assignment, embedded=embedded).fit()  # annotated as the old API's
        return bool(result.return_value)

    state = RunState.FAILED
    try:
        finished = _watch(_InThread(fit), collector, job, folder, head, on_progress)
        state = RunState.SUCCEEDED if finished else RunState.STOPPED
        return finished
    except KeyboardInterrupt:
        state = RunState.STOPPED
        raise
    finally:
        with suppress(ray.exceptions.RayError):  # a cluster that is gone; what led here says so
            ray.get(collector.close.remote(state), timeout=CLOSE_S if head.silent_s is None else LEAVE_S)
            folder.remove_folder(RAY_TRAIN_FOLDER)


class _InThread:
    """Calls a function in a thread of its own, so that this one can show progress and answer Ctrl-C.

    Not ``Thread.join``: an interrupt can leave it believing that the thread has ended.
    """

    def __init__(self, function: Callable[[], bool]) -> None:
        self._function = function
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self._value = False
        threading.Thread(target=self._run, name="ray-train-fit", daemon=True).start()

    def _run(self) -> None:
        try:
            self._value = self._function()
        except BaseException as error:
            self._error = error
        finally:
            self._ended.set()

    def ended(self, *, within_s: float) -> bool:
        """Wait a little; return whether it has returned or raised."""
        return self._ended.wait(within_s)

    def outcome(self) -> bool | BaseException:
        """Return what it returned, or what it raised."""
        return self._error if self._error is not None else self._value


def _watch(
    fit: _InThread,
    collector: Any,
    job: Job,
    folder: RunFolder,
    head: HeadWatch,
    on_progress: Callable[[Progress], None],
) -> bool:
    """Watch a run to its end. The first Ctrl-C asks the workers to stop; a second one, or their silence, ends it."""
    import ray

    stopping_since: float | None = None
    progress = Progress()
    troubles: Sequence[Trouble] = ()
    ended = False
    while not ended:
        try:
            ended = fit.ended(within_s=POLL_S)
            if head.silent_s is not None:
                raise _without_head(fit, collector, head, folder)
            look: Look | None = None
            with suppress(ray.exceptions.GetTimeoutError):  # it writes to slow storage, or is being started again
                look = ray.get(collector.look.remote(), timeout=LOOK_S)
            if look is not None:
                progress, troubles = look.progress, look.troubles
            on_progress(progress)
            _raise_final(troubles, folder)
            if look is not None and look.storage:
                raise RunError(
                    f"run {folder.run_id}: its folder cannot be written: {look.storage}.",
                    "Make room, or see to storage.",
                )
            if stopping_since is not None and monotonic() - stopping_since > STOP_S:
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            if stopping_since is not None or progress.attempt is None:
                raise
            stopping_since = monotonic()
            ray.get(collector.request_leave.remote("stop", "Ctrl-C"))
    outcome = fit.outcome()
    if isinstance(outcome, BaseException):
        raise _translated(outcome, troubles, job, folder)
    return outcome


def _without_head(fit: _InThread, collector: Any, head: HeadWatch, folder: RunFolder) -> ClusterError:
    """Have the workers save and stop, which they can without the head; return the error that ends the run."""
    import ray

    silent_s = head.silent_s or 0.0
    with suppress(ray.exceptions.RayError):
        ray.get(collector.request_leave.remote("stop", "the head of the cluster is gone"), timeout=LEAVE_S)
        fit.ended(within_s=STOP_S)
    return head_lost(head.gcs_address, seconds=silent_s, run_id=folder.run_id)


def _require_room(job: Job, *, embedded: bool) -> None:
    """Refuse a job that the cluster cannot hold, now or, if others use it, within ``ROOM_S``."""
    import ray

    resources, workers = job.resources, job.scale.min_workers
    cpus, gpus = resources.cpus_per_worker, resources.gpus_per_worker
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    require_resources(workers=workers, cpus_per_worker=cpus, gpus_per_worker=gpus, nodes=nodes)
    began = monotonic()
    while not embedded:
        free: Mapping[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
        if workers * cpus <= free.get("CPU", 0.0) + 1e-9 and workers * gpus <= free.get("GPU", 0.0) + 1e-9:
            return
        if monotonic() - began > ROOM_S:
            raise ClusterError(
                f"{workers} workers need {workers * cpus:g} CPU and {workers * gpus:g} GPU, and of the cluster's only "
                f"{free.get('CPU', 0.0):g} CPU and {free.get('GPU', 0.0):g} GPU are free.",
                "Submit again when others have finished, or with fewer --workers.",
            )
        sleep(POLL_S)


def _raise_final(troubles: Sequence[Trouble], folder: RunFolder) -> None:
    """Raise the first failure that a restart would meet again; a worker that only lost its peers is not one."""
    for trouble in troubles:
        if isinstance(trouble, WorkerFailed) and not trouble.by_peer:
            raise _from_worker(trouble, folder)


def _from_worker(failure: WorkerFailed, folder: RunFolder) -> ScalerError:
    """A worker's failure as an exception of this process, with the worker's traceback."""
    log = folder.path(f"logs/rank-{failure.rank}.log")
    told = _TOLD_BY_WORKERS.get(failure.error)
    if told is not None:
        where = f"Rank {failure.rank} said so; its log: {log}"
        return told(failure.problem, "\n".join(filter(None, [failure.remedy, where])))
    return RecipeError(
        f"rank {failure.rank} failed: {failure.problem}",
        f"{failure.traceback.rstrip()}\nIts log: {log}",
    )


def _translated(error: BaseException, troubles: Sequence[Trouble], job: Job, folder: RunFolder) -> ScalerError:
    """Ray Train's own error, in our words."""
    from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError, WorkerGroupStartupTimeoutError
    from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

    if isinstance(error, WorkerGroupError):
        return _lost(error.worker_failures, troubles, job, folder)
    if isinstance(error, ControllerError):
        cause = error.controller_failure
        if isinstance(cause, (NoRoomError, WorkerGroupStartupFailedError, WorkerGroupStartupTimeoutError)):
            workers = job.scale.min_workers
            return ClusterError(
                f"the cluster had no room for {'a worker' if workers == 1 else f'{workers} workers'} for too long.",
                f"scaler resume {folder.run_id} goes on when it has; SCALER_WAIT_FOR_NODES_S is how long to wait.",
            )
    if isinstance(error, ScalerError):
        return error
    return run_error(error, run_id=folder.run_id)


def _lost(failures: Mapping[int, Exception], troubles: Sequence[Trouble], job: Job, folder: RunFolder) -> TrainingError:
    """Workers were lost once too often: who, and of what."""
    allowed = f"more often than failures.max_restarts = {job.failures.max_restarts} allows"
    newest = max((trouble.attempt for trouble in troubles if trouble.attempt is not None), default=None)
    last = [trouble for trouble in troubles if trouble.attempt == newest]
    hung = of_type(last, WorkerHung)
    hung.sort(key=lambda trouble: trouble.doing == WAITING)  # who waits for a hung one is not the cause
    if hung:
        rank, where, doing = hung[0].rank, hung[0].where, hung[0].doing
        return TrainingError(
            f"rank {rank} hung ({doing} for {hung[0].seconds:.0f} s, {where}), {allowed}.",
            f"If that may take longer, raise failures.hang_timeout_s.\nLog: {folder.path(f'logs/rank-{rank}.log')}",
        )
    ended = of_type(last, GroupEnded)
    told = {trouble.rank for trouble in of_type(last, WorkerFailed)}
    ranks = ended[-1].ranks if ended else [rank for rank in sorted(failures) if rank not in told] or sorted(failures)
    names = ", ".join(map(str, ranks))
    if ended and (twice_at := ended[-1].twice_at) is not None:
        logs = "\n".join(f"Log: {folder.path(f'logs/rank-{rank}.log')}" for rank in ranks)
        return TrainingError(
            f"rank{'s' if len(ranks) > 1 else ''} {names} died ({ended[-1].message}) in the step after sample "
            f"{twice_at:,}, as in the attempt before: another restart would die there, too.",
            "Look at what is special about that step: memory, or collectives of the loss on shares of different sizes "
            f"(train.last_batch: drop leaves a short step out).\n{logs}",
        )
    why = f" ({ended[-1].message})" if ended else ""
    logs = "\n".join(f"Log: {folder.path(f'logs/rank-{rank}.log')}" for rank in ranks)
    first = first_line(next(iter(failures.values())))
    return TrainingError(
        f"rank{'s' if len(ranks) > 1 else ''} {names} died{why}, {allowed}.", f"Ray says: {first}\n{logs}"
    )
