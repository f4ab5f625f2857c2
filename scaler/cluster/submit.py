"""From a job to a finished run: plan, run, report."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from time import time
from typing import Any

import scaler
from scaler.cluster.progress import Progress, ProgressTracker
from scaler.errors import JobFileError, RunError, ScalerError
from scaler.job import Job, dump_job
from scaler.metrics.record import Record
from scaler.plan import Plan
from scaler.plan.sizes import require_every_size
from scaler.report.model import Report
from scaler.report.write import write_report
from scaler.runs import RunFolder, RunState
from scaler.training.recipe import require_module

NO_CLUSTER = "none"

OnProgress = Callable[[Progress], None]


def submit(
    job: Job,
    plan: Plan,
    *,
    recipe_folder: Path,
    address: str | None = None,
    verbose: bool = False,
    on_start: Callable[[RunFolder], None] = lambda folder: None,
    on_progress: OnProgress = lambda progress: None,
    on_report: Callable[[Report], None] = lambda report: None,
) -> RunFolder:
    """Run a job to its end and write its report, also when it fails or is stopped.

    Args:
        job: what was asked for.
        plan: its plan, for the workers that it asks for.
        recipe_folder: where the job file lies; the recipe is looked for there first.
        address: of a Ray cluster; None: an embedded one; ``none``: one worker in this process, without Ray.
        verbose: show Ray's log.
        on_start: called with the run's folder when it is there.
        on_progress: called a few times a second.
        on_report: called with the report when it is in the run's folder, also before an error is raised.

    Returns:
        The run's folder; its state is ``succeeded``.

    Raises:
        ScalerError: what went wrong; the run's folder has the report of what there is.
        KeyboardInterrupt: Ctrl-C; likewise, and the run is marked stopped.
    """
    require_module(job.recipe, folder=recipe_folder)
    _require_cluster(job, address)
    require_every_size(job, plan)
    if address == NO_CLUSTER and plan.world_size != 1:
        raise JobFileError(
            f"--address none runs one worker, and the job asks for {plan.world_size}.", "Add --workers 1."
        )
    folder = RunFolder.create(job.storage, name=job.name, now=datetime.now())
    folder.write("job.yaml", dump_job(job))
    folder.write_json("plan.json", plan.to_dict())
    folder.set_state(RunState.STARTING, started_at=time(), recipe_folder=str(recipe_folder))
    on_start(folder)
    is_running = False

    def seen(progress: Progress) -> None:
        nonlocal is_running
        if progress.attempt is not None and not is_running:
            folder.set_state(RunState.RUNNING)
            is_running = True
        on_progress(progress)

    try:
        if address == NO_CLUSTER:
            finished = _run_here(job, plan, folder, recipe_folder=recipe_folder, on_progress=seen)
        else:
            finished = _run_on_ray(
                job, plan, folder, recipe_folder=recipe_folder, address=address, verbose=verbose, on_progress=seen
            )
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt)
        with suppress(OSError, RunError):  # storage that is gone must not hide why the run ended
            folder.set_state(
                RunState.STOPPED if stopped else RunState.FAILED,
                ended_at=time(),
                **({} if stopped else {"failure": _told(error)}),
            )
            on_report(write_report(folder))
        raise
    folder.set_state(RunState.SUCCEEDED if finished else RunState.STOPPED, ended_at=time())
    on_report(write_report(folder))
    if not finished:
        raise KeyboardInterrupt
    return folder


def _told(error: BaseException) -> str:
    """An error as the report says it."""
    return str(error) if isinstance(error, ScalerError) else f"a bug in scaler: {type(error).__name__}: {error}"


def _require_cluster(job: Job, address: str | None) -> None:
    """Refuse a cluster that is not there, or an embedded one that cannot hold the job, before anything is started."""
    from scaler.cluster.embedded import cpus_here, require_reachable, require_resources

    if address is not None and address != NO_CLUSTER:
        require_reachable(address)
    if address is None:
        cpus = job.resources.cpus_per_worker
        nodes = [{"CPU": cpus_here()}]
        require_resources(workers=job.scale.min_workers, cpus_per_worker=cpus, gpus_per_worker=0.0, nodes=nodes)


def _run_on_ray(
    job: Job,
    plan: Plan,
    folder: RunFolder,
    *,
    recipe_folder: Path,
    address: str | None,
    verbose: bool,
    on_progress: OnProgress,
) -> bool:
    from scaler.cluster.embedded import ray_cluster
    from scaler.cluster.ray_run import run_on_ray

    # The nodes of a running cluster get the job's folder, as their working directory, and this very scaler.
    ship = [recipe_folder, Path(scaler.__file__).parent] if address is not None else []
    with ray_cluster(address, verbose=verbose, ship=ship):
        return run_on_ray(
            job,
            plan,
            folder,
            recipe_folder="." if ship else str(recipe_folder),
            on_progress=on_progress,
            embedded=address is None,
        )


def _run_here(job: Job, plan: Plan, folder: RunFolder, *, recipe_folder: Path, on_progress: OnProgress) -> bool:
    """One worker in this process: no Ray, so a debugger works."""
    from scaler.training.here import train_here

    tracker = ProgressTracker()

    def seen(records: Sequence[Record], events: Sequence[Mapping[str, Any]]) -> None:
        tracker.add(records, events)
        on_progress(tracker.look())

    return train_here(job, plan, folder, recipe_folder=recipe_folder, on_hand_over=seen)
