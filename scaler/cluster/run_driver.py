"""One stay at the wheel of a run: from a claimed folder to the end of training and its report."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import time
from typing import Any

import scaler
from scaler.cluster.progress import Progress, ProgressTracker
from scaler.errors import JobFileError, RunError, ScalerError
from scaler.job import Job
from scaler.masking import mask_text
from scaler.metrics.events import Event, Resumed
from scaler.metrics.record import Record
from scaler.metrics.trackers import require_installed
from scaler.plan import Plan
from scaler.plan.make import require_every_size
from scaler.report.run.model import Report
from scaler.report.run.write import write_report
from scaler.runs import RunFolder, RunState
from scaler.runs.lease import Lease
from scaler.runs.processes import stop_signals
from scaler.training.recipe.lookup import require_function
from scaler.training.recipe.module import shipped_recipe

NO_CLUSTER = "none"
MACHINE = "this machine has"

OnProgress = Callable[[Progress], None]
OnReport = Callable[[Report], None]
OnNotice = Callable[[str], None]


def require_runnable(job: Job, plan: Plan, *, recipe_folder: Path, address: str | None) -> None:
    """Refuse what cannot run, before anything is started or written.

    Raises:
        JobFileError: there is no such recipe, a tracker that is not installed, a size without a plan, or more than
            one worker without Ray.
        ClusterError: nobody listens at the address, or this machine is too small for the job.
    """
    require_function(job.recipe, folder=recipe_folder)
    require_installed(job.tracking)
    _require_cluster(job, address)
    require_every_size(job, plan)
    if address == NO_CLUSTER and plan.world_size != 1:
        raise JobFileError(
            f"--address none runs one worker, and the job asks for {plan.world_size}.", "Add --workers 1."
        )


def drive(
    job: Job,
    plan: Plan,
    folder: RunFolder,
    lease: Lease,
    *,
    recipe_folder: Path,
    address: str | None,
    verbose: bool,
    resumed: Resumed | None = None,
    on_progress: OnProgress,
    on_report: OnReport,
    on_notice: OnNotice = lambda notice: None,
) -> None:
    """Train, from the newest checkpoint where there is one, and write the report, whatever the end.

    Args:
        job: what was asked for.
        plan: its plan.
        folder: the run's folder, with job, plan and status.
        lease: of the run; kept up to here, and looked at whenever there is progress, before the end is written, and,
            without Ray, before each write.
        recipe_folder: where the job file lies.
        address: of a Ray cluster; None: an embedded one; ``none``: one worker in this process, without Ray.
        verbose: show Ray's log.
        resumed: the event of a run that goes on.
        on_progress: called a few times a second.
        on_report: called with the report when it is in the run's folder, also before an error is raised.
        on_notice: called with a sentence for the person who submits.

    Raises:
        ScalerError: what went wrong; the run's folder has the report of what there is.
        RunError: likewise; or another process took the run over, and nothing was written any more.
        KeyboardInterrupt: Ctrl-C or SIGTERM; likewise, and the run is marked stopped.
    """
    is_running = False

    def seen(progress: Progress) -> None:
        nonlocal is_running
        lease.require_held()
        if progress.attempt is not None and not is_running:
            folder.set_state(RunState.RUNNING)
            is_running = True
        on_progress(progress)

    is_written = False

    def ended_by(error: BaseException) -> None:
        """Write state and report of a run that an error ended; the first call counts."""
        nonlocal is_written
        if is_written:
            return
        is_written = True
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)  # Ray answers a SIGTERM while it starts by exiting
        if lease.look():
            failure = None if stopped else _told(error)
            with suppress(RunError):  # storage that is gone must not hide why the run ended
                folder.set_state(RunState.STOPPED if stopped else RunState.FAILED, ended_at=time(), failure=failure)
            with suppress(RunError):
                on_report(write_report(folder))

    try:
        if address == NO_CLUSTER:
            held = lease.held_folder()
            finished = _run_here(job, plan, held, recipe_folder=recipe_folder, resumed=resumed, on_progress=seen)
        else:
            finished = _run_on_ray(
                job,
                plan,
                folder,
                recipe_folder=recipe_folder,
                address=address,
                verbose=verbose,
                resumed=resumed,
                on_progress=seen,
                on_notice=on_notice,
                on_error=ended_by,
            )
        lease.look()
        lease.require_held()
    except BaseException as error:
        ended_by(error)
        if isinstance(error, SystemExit):
            raise KeyboardInterrupt from error
        raise
    folder.set_state(RunState.SUCCEEDED if finished else RunState.STOPPED, ended_at=time())
    on_report(write_report(folder))
    if not finished:
        raise KeyboardInterrupt


@contextmanager
def sigterm_like_ctrl_c() -> Iterator[None]:
    """Have SIGTERM, and SIGHUP of a terminal that is closed, do what Ctrl-C does, for the length of a ``with`` block.

    Ray takes SIGTERM for itself when it starts, so this is entered again after that. Under nohup SIGHUP stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        handler = signal.getsignal(signal.SIGINT)
        if not callable(handler):  # a shell's background job ignores Ctrl-C, and not SIGTERM
            raise KeyboardInterrupt
        handler(signal.SIGINT, frame)

    before = {number: signal.signal(number, interrupt) for number in stop_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _told(error: BaseException) -> str:
    """An error as the report says it."""
    told = str(error) if isinstance(error, ScalerError) else f"a bug in scaler: {type(error).__name__}: {error}"
    return mask_text(told)


def _require_cluster(job: Job, address: str | None) -> None:
    """Refuse a cluster that is not there, or an embedded one that cannot hold the job, before anything is started."""
    from scaler.cluster.embedded import cpus_here, require_reachable, require_resources

    if address is not None and address != NO_CLUSTER:
        require_reachable(address)
    if address not in (None, NO_CLUSTER):
        return  # ``_require_room`` asks the cluster
    cpus, gpus = job.resources.cpus_per_worker, job.resources.gpus_per_worker
    node = {"CPU": cpus_here()}
    if gpus > 0:
        from scaler.training.device import gpus_here  # loads torch

        node["GPU"] = float(gpus_here())
    if address is None or gpus > 0:  # one worker in this process shares its CPUs with whatever else runs here
        cpus = cpus if address is None else 0.0
        require_resources(
            workers=job.scale.min_workers, cpus_per_worker=cpus, gpus_per_worker=gpus, nodes=[node], where=MACHINE
        )


def _run_on_ray(
    job: Job,
    plan: Plan,
    folder: RunFolder,
    *,
    recipe_folder: Path,
    address: str | None,
    verbose: bool,
    resumed: Resumed | None,
    on_progress: OnProgress,
    on_notice: OnNotice,
    on_error: Callable[[BaseException], None],
) -> bool:
    from scaler.cluster.embedded import ray_cluster
    from scaler.cluster.ray_run import run_on_ray
    from scaler.cluster.shipment import Shipment, left_out_text, pack

    shipment = Shipment(recipe_folder=str(recipe_folder))
    if address is not None:
        # The nodes get the job's folder, this very scaler, and the recipe's package where it lies elsewhere.
        recipe, packages = shipped_recipe(job.recipe, folder=recipe_folder)
        job = job.model_copy(update={"recipe": recipe})
        shipment = pack(recipe_folder, storage=job.storage, packages=[Path(scaler.__file__).parent, *packages])
        if shipment.left_out:
            on_notice(left_out_text(shipment.left_out))
    with ray_cluster(address, verbose=verbose, runtime_env=shipment.runtime_env), sigterm_like_ctrl_c():
        try:
            return run_on_ray(
                job,
                plan,
                folder,
                recipe_folder=shipment.recipe_folder,
                on_progress=on_progress,
                embedded=address is None,
                resumed=resumed,
            )
        except BaseException as error:
            on_error(error)  # before Ray is shut down: with its head gone, that takes long
            raise


def _run_here(
    job: Job,
    plan: Plan,
    folder: RunFolder,
    *,
    recipe_folder: Path,
    resumed: Resumed | None,
    on_progress: OnProgress,
) -> bool:
    """One worker in this process: no Ray, so a debugger works."""
    from scaler.training.in_process import train_in_process

    tracker = ProgressTracker()

    def seen(records: Sequence[Record], events: Sequence[Event]) -> None:
        tracker.add(records, events)
        on_progress(tracker.look())

    return train_in_process(job, plan, folder, recipe_folder=recipe_folder, on_hand_over=seen, resumed=resumed)
