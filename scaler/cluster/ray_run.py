"""One run on Ray Train, watched from the driver."""

import threading
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

from scaler.cluster.embedded import require_resources
from scaler.cluster.progress import Progress
from scaler.errors import ClusterError, JobFileError, PlanError, RecipeError, ScalerError, TrainingError
from scaler.job import Job
from scaler.plan import Plan
from scaler.runs import RunFolder

POLL_S = 0.2
RAY_TRAIN_FOLDER = "ray_train"  # Ray Train wants a place of its own; nothing of ours is there
STOP_S = 20.0  # how long workers get to stop by themselves after Ctrl-C

_TOLD_BY_WORKERS: Mapping[str, type[ScalerError]] = {
    error.__name__: error for error in (JobFileError, PlanError, RecipeError, TrainingError)
}


def run_on_ray(
    job: Job,
    plan: Plan,
    folder: RunFolder,
    *,
    recipe_folder: str,
    on_progress: Callable[[Progress], None],
    embedded: bool = True,
) -> bool:
    """Run a plan on the connected Ray cluster.

    ``Trainer.fit`` waits in a thread of its own, so that this one can show progress and answer Ctrl-C.

    Args:
        job: what was asked for.
        plan: its plan.
        folder: the run's folder.
        recipe_folder: where the job file lies, as the workers see it.
        on_progress: called a few times a second.
        embedded: whether the cluster ends with this process.

    Returns:
        Whether training is over; False when Ctrl-C stopped it.

    Raises:
        ClusterError: the cluster cannot hold the job.
        TrainingError: it failed; carries the worker's error.
        KeyboardInterrupt: Ctrl-C before training had begun, or a second one.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from scaler.cluster.collector import Collector

    resources = job.resources
    require_resources(
        workers=job.scale.min_workers,
        cpus_per_worker=resources.cpus_per_worker,
        gpus_per_worker=resources.gpus_per_worker,
        there=_resources_there(),
    )
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    collector: Any = ray.remote(Collector).options(num_cpus=0, scheduling_strategy=here).remote(folder)
    outcome: list[BaseException | bool] = []
    ended = threading.Event()  # not Thread.join, which an interrupt can leave believing that the thread has ended

    def fit() -> None:
        try:
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
            outcome.append(bool(result.return_value))
        except BaseException as error:  # handed to the thread that watches
            outcome.append(error)
        finally:
            ended.set()

    threading.Thread(target=fit, name="ray-train-fit", daemon=True).start()
    stopping_since: float | None = None
    progress = Progress()
    try:
        while not ended.is_set():
            try:
                ended.wait(POLL_S)
                progress, failures = ray.get(collector.look.remote())
                on_progress(progress)
                _raise_final(failures, folder)
                if stopping_since is not None and monotonic() - stopping_since > STOP_S:
                    raise KeyboardInterrupt
            except KeyboardInterrupt:
                if stopping_since is not None or progress.attempt is None:
                    raise
                stopping_since = monotonic()
                ray.get(collector.request_stop.remote())
        progress, failures = ray.get(collector.look.remote())
        on_progress(progress)
        if isinstance(outcome[0], BaseException):
            _raise_final(failures, folder)
            raise _translated(outcome[0], failures, folder)
        return outcome[0]
    finally:
        ray.get(collector.close.remote(), timeout=30)
        folder.remove_folder(RAY_TRAIN_FOLDER)


def _resources_there() -> Mapping[str, float]:
    import ray

    there: Mapping[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return there


def _raise_final(failures: list[Mapping[str, Any]], folder: RunFolder) -> None:
    """Raise the first failure that a restart would meet again; a worker that only lost its peers is not one."""
    for failure in failures:
        if not failure["by_peer"]:
            raise _from_worker(failure, folder)


def _from_worker(failure: Mapping[str, Any], folder: RunFolder) -> ScalerError:
    """A worker's failure as an exception of this process, with the worker's traceback."""
    log = folder.path(f"logs/rank-{failure['rank']}.log")
    told = _TOLD_BY_WORKERS.get(failure["error"])
    if told is not None:
        where = f"Rank {failure['rank']} said so; its log: {log}"
        return told(failure["problem"], "\n".join(filter(None, [failure["remedy"], where])))
    return RecipeError(
        f"rank {failure['rank']} failed: {failure['problem']}",
        f"{failure['traceback'].rstrip()}\nIts log: {log}",
    )


def _translated(error: BaseException, failures: list[Mapping[str, Any]], folder: RunFolder) -> ScalerError:
    """Ray Train's own error, in our words."""
    from ray.train.v2.api.exceptions import WorkerGroupError

    if isinstance(error, WorkerGroupError):
        ranks = sorted(error.worker_failures)
        lost = [rank for rank in ranks if rank not in {failure["rank"] for failure in failures}] or ranks
        names = ", ".join(str(rank) for rank in lost)
        logs = "\n".join(f"Log: {folder.path(f'logs/rank-{rank}.log')}" for rank in lost)
        first = str(next(iter(error.worker_failures.values()))).strip().splitlines()[0]
        return TrainingError(
            f"rank{'s' if len(lost) > 1 else ''} {names} died, more often than failures.max_restarts allows.",
            f"Ray says: {first}\n{logs}",
        )
    if isinstance(error, ScalerError):
        return error
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return ClusterError(
        f"Ray Train gave up: {lines[-1] if lines else type(error).__name__}", "--verbose shows Ray's log."
    )
