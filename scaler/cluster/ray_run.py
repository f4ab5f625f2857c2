"""Run a plan on Ray Train, and watch it from the driver."""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from scaler.cluster.connection import Connection
from scaler.cluster.free_resources import require_free_resources
from scaler.cluster.gpus import with_gpus
from scaler.cluster.head import EMBEDDED_PATIENCE_S, PATIENCE_S, HeadWatch
from scaler.cluster.messages import Trouble
from scaler.cluster.progress import Progress
from scaler.cluster.ray_errors import head_lost, ray_errors
from scaler.cluster.review import Review, is_due
from scaler.cluster.run_failure import final_error, raise_final
from scaler.cluster.versions import installed_versions
from scaler.errors import ClusterError, RunError
from scaler.job import Job
from scaler.metrics.events import Resumed
from scaler.plan import Plan
from scaler.runs import RunFolder, RunState
from scaler.runs.control import StopRequest

if TYPE_CHECKING:
    from scaler.cluster.collector import CollectorStatus

POLL_S = 0.2
REVIEW_POLL_S = 0.05  # the workers wait for the decision
RAY_TRAIN_FOLDER = "ray_train"  # Ray Train needs a folder; scaler writes nothing there, and removes it
# After Ctrl-C, workers may take this long to save and stop. Many on one machine share its CPUs.
STOP_S, STOP_A_WORKER_S = 20.0, 0.5
STATUS_S = 10.0  # the collector may take this long to return its status
CLOSE_S = 30.0  # at the end, the collector may take this long to write what is left
LEAVE_S = 5.0  # the same, if the head is gone; the collector does not need the head


def run_on_ray(
    job: Job,
    plan: Plan,
    folder: RunFolder,
    connection: Connection,
    *,
    on_progress: Callable[[Progress], None],
    stop_requested: Callable[[], StopRequest | None] = lambda: None,
    on_notice: Callable[[str], None] = lambda notice: None,
    on_wait: Callable[[str | None], None] = lambda what: None,
    resumed: Resumed | None = None,
) -> bool:
    """Run a plan on the connected Ray cluster, from the newest checkpoint if there is one.

    Args:
        job: what was asked for.
        plan: its plan.
        folder: the run's folder.
        connection: to the cluster; its group, if it has one, trains the run.
        on_progress: called a few times a second.
        stop_requested: returns the request to stop the run, if there is one.
        on_notice: called with a sentence for the user.
        on_wait: called with what the run waits for before it can train, and with None when it does not wait any more.
        resumed: the event ``resumed``, for a run that is resumed.

    Returns:
        Whether training is complete; False when Ctrl-C or a request stopped it.

    Raises:
        ClusterError: the cluster is too small for the job, or its resources were in use for too long, or it was lost.
        TrainingError: training failed; the error has the worker's message.
        RunError: the run's folder cannot be written.
        KeyboardInterrupt: Ctrl-C or a request to stop before training began, a second Ctrl-C, or a request to stop at
            once.
    """
    import ray

    patience_s = EMBEDDED_PATIENCE_S if connection.is_embedded else PATIENCE_S
    head = HeadWatch(ray.get_runtime_context().gcs_address, patience_s=patience_s)
    with ray_errors(folder.run_id), head:
        return _run(
            job,
            plan,
            folder,
            connection,
            head,
            on_progress=on_progress,
            stop_requested=stop_requested,
            on_notice=on_notice,
            on_wait=on_wait,
            resumed=resumed,
        )


def _run(
    job: Job,
    plan: Plan,
    folder: RunFolder,
    connection: Connection,
    head: HeadWatch,
    *,
    on_progress: Callable[[Progress], None],
    stop_requested: Callable[[], StopRequest | None],
    on_notice: Callable[[str], None],
    on_wait: Callable[[str | None], None],
    resumed: Resumed | None,
) -> bool:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from scaler.cluster.collector import Collector

    def look() -> None:
        if head.silent_s is not None:
            raise head_lost(head.gcs_address, seconds=head.silent_s, run_id=folder.run_id)
        if stop_requested() is not None:
            raise KeyboardInterrupt

    job = with_gpus(job, [node["Resources"] for node in ray.nodes() if node["Alive"]])  # type: ignore[no-untyped-call]
    job = job.model_copy(update={"recipe": connection.recipe})
    if connection.group is None:
        require_free_resources(job, embedded=connection.is_embedded, on_wait=on_wait, on_poll=look)
    this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # If its process dies, Ray starts it again and repeats the calls that were not answered.
    options = {"num_cpus": 0, "scheduling_strategy": this_node, "max_restarts": -1, "max_task_retries": -1}
    opening = [resumed] if resumed is not None else []
    tracking = job.tracking.seen_from(Path.cwd())
    collector: Any = ray.remote(Collector).options(**options).remote(folder, opening, tracking)

    def fit() -> bool:
        from scaler.cluster.attempt import Assignment

        assignment = Assignment(
            job=job.model_dump(),
            plan=plan.to_dict(),
            folder=folder,
            recipe_folder=connection.recipe_folder,
            collector=collector,
            driver=installed_versions(),
            embedded=connection.is_embedded,
            places=connection.review.places if connection.review is not None else (),
        )
        if connection.group is not None:
            return connection.group.train(assignment, job)
        from scaler.cluster.trainer import make_trainer

        trainer = make_trainer(job, assignment, embedded=connection.is_embedded, folder_name=RAY_TRAIN_FOLDER)
        result: Any = trainer.fit()  # annotated as the result of Ray Train's first version
        return bool(result.return_value)

    state = RunState.FAILED
    try:
        finished = _watch(
            _InThread(fit), collector, job, folder, head, on_progress, stop_requested, on_notice, connection.review
        )
        state = RunState.SUCCEEDED if finished else RunState.STOPPED
        return finished
    except KeyboardInterrupt:
        state = RunState.STOPPED
        raise
    finally:
        if connection.group is not None:
            connection.group.abandon()
        with suppress(ray.exceptions.RayError):  # the cluster is lost; the exception that ends this block says so
            ray.get(collector.close.remote(state), timeout=CLOSE_S if head.silent_s is None else LEAVE_S)
            folder.remove_folder(RAY_TRAIN_FOLDER)


class _InThread:
    """Calls a function in another thread, so that this thread can show progress and answer Ctrl-C.

    It does not use ``Thread.join``, which after an interrupt may report a running thread as ended.
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
        """Wait up to ``within_s``; return whether the function has returned or raised."""
        return self._ended.wait(within_s)

    def outcome(self) -> bool | BaseException:
        """Return what the function returned, or what it raised."""
        return self._error if self._error is not None else self._value


def _watch(
    fit: _InThread,
    collector: Any,
    job: Job,
    folder: RunFolder,
    head: HeadWatch,
    on_progress: Callable[[Progress], None],
    stop_requested: Callable[[], StopRequest | None],
    on_notice: Callable[[str], None],
    review: Review | None,
) -> bool:
    """Watch a run to its end.

    The first Ctrl-C, or a request to stop, asks the workers to stop. A second Ctrl-C ends the run, and so do workers
    that have not stopped after ``stop_s``.
    """
    import ray

    stopping_since: float | None = None
    progress = Progress()
    troubles: Sequence[Trouble] = ()
    noticed: set[str] = set()
    ended = False
    reviewed = 0  # in samples seen
    while not ended:
        try:
            ended = fit.ended(within_s=POLL_S if review is None else REVIEW_POLL_S)
            if head.silent_s is not None:
                raise _without_head(fit, collector, head, folder)
            status: CollectorStatus | None = None
            # A time-out: the collector writes to slow storage, or is being started again.
            with suppress(ray.exceptions.GetTimeoutError):
                status = ray.get(collector.status.remote(), timeout=STATUS_S)
            if status is not None:
                progress, troubles = status.progress, status.troubles
                for notice in status.notices:
                    if notice not in noticed:
                        noticed.add(notice)
                        on_notice(notice)
            on_progress(progress)
            raise_final(troubles, folder)
            at = progress.evaluated_at or 0
            if review is not None and not ended and is_due(review.places, before=reviewed, now=at):
                reviewed, decision = at, review.decide(at, progress.evals)
                if decision == "stop":
                    stopping_since = monotonic()
                    ray.get(collector.request_leave.remote("stop", f"{review.reason}, at {at:,} samples"))
                ray.get(collector.decide.remote(at, decision))
            if status is not None and status.storage:
                raise RunError(
                    f"run {folder.run_id}: its folder cannot be written: {status.storage}.",
                    f"{status.storage_remedy}\nThen continue: scaler resume {folder.run_id}",
                )
            stop = stop_requested()
            if stop is not None and (stop.now or stopping_since is None):
                raise KeyboardInterrupt
            if stopping_since is not None and monotonic() - stopping_since > stop_s(progress):
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            stop = stop_requested()
            if stopping_since is not None or progress.attempt is None or (stop is not None and stop.now):
                raise
            stopping_since = monotonic()
            why = "Ctrl-C" if stop is None else f"scaler stop of {stop.by}"
            ray.get(collector.request_leave.remote("stop", why))
    outcome = fit.outcome()
    if isinstance(outcome, BaseException):
        if status is None:  # the newest troubles say why the run ended
            with suppress(ray.exceptions.GetTimeoutError):
                troubles = ray.get(collector.status.remote(), timeout=STATUS_S).troubles
            raise_final(troubles, folder)
        raise final_error(outcome, troubles, job, folder)
    return outcome


def stop_s(progress: Progress) -> float:
    """Return how many seconds the workers of a run may take to save a checkpoint and stop.

    Example:
        >>> stop_s(Progress(world_size=64))
        52.0
    """
    return STOP_S + STOP_A_WORKER_S * (progress.world_size or 0)


def _without_head(fit: _InThread, collector: Any, head: HeadWatch, folder: RunFolder) -> ClusterError:
    """Make the workers save and stop, for which they do not need the head; return the error that ends the run."""
    import ray

    silent_s = head.silent_s or 0.0
    with suppress(ray.exceptions.RayError):
        ray.get(collector.request_leave.remote("stop", "the head of the cluster is gone"), timeout=LEAVE_S)
        fit.ended(within_s=STOP_S)
    return head_lost(head.gcs_address, seconds=silent_s, run_id=folder.run_id)
