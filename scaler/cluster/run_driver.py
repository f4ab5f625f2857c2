"""Run a claimed run to its end and write its report."""

import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any

from scaler.cluster.address import TORCHRUN
from scaler.cluster.progress import Progress, ProgressTracker
from scaler.cluster.progress_file import progress_dict
from scaler.errors import JobFileError, RecipeError, RunError, ScalerError, TrainingError
from scaler.job import Job
from scaler.job.mesh import workers_step
from scaler.job.runtime_env import job_environment, not_used_text
from scaler.masking import mask_text
from scaler.metrics.events import Event, Resumed
from scaler.metrics.record import Record
from scaler.metrics.trackers import require_installed
from scaler.plan import Plan
from scaler.plan.make import require_every_size
from scaler.report.run.model import Report
from scaler.report.run.write import write_report
from scaler.runs import RunFolder, RunState
from scaler.runs.control import RunControl, StopRequest
from scaler.runs.filesystems import patiently
from scaler.runs.lease import Lease
from scaler.runs.processes import stop_signals
from scaler.training.recipe.lookup import require_function, require_importable, require_optimizer

if TYPE_CHECKING:
    from scaler.cluster.connection import Connection

NO_CLUSTER = ("none", TORCHRUN)
INTERRUPTED = 130  # exit code of a command whose run was stopped

OnProgress = Callable[[Progress], None]
OnReport = Callable[[Report], None]
OnNotice = Callable[[str], None]
StopRequested = Callable[[], StopRequest | None]


def require_runnable(job: Job, plan: Plan, *, recipe_folder: Path, address: str | None) -> None:
    """Refuse a job that cannot run, before anything is started or written.

    Raises:
        RecipeError: the recipe's source shows that it cannot be imported.
        JobFileError: the recipe or a part of ``runtime_env`` does not exist, a tracker is not installed, a size that
            the run may get has no plan, or more than one worker is asked for without Ray.
        ClusterError: no cluster accepts this process at the address, or this machine is too small for the job.
    """
    with job_environment(job.runtime_env, folder=recipe_folder):
        require_function(job.recipe_function, folder=recipe_folder)
        if address in (None, *NO_CLUSTER):
            require_importable(job.recipe_function, folder=recipe_folder, arguments=job.recipe_args)
            for name in _optimizers(job):
                require_optimizer(name, folder=recipe_folder)
    require_installed(job.tracking)
    _require_cluster(job, address)
    require_every_size(job, plan)
    if address == "none" and plan.world_size != 1:
        raise JobFileError(
            f"--address none runs one worker, and the job asks for {plan.world_size}.", "Add --workers 1."
        )


def run_to_end(
    job: Job,
    plan: Plan,
    folder: RunFolder,
    lease: Lease,
    *,
    recipe_folder: Path,
    address: str | None,
    verbose: bool,
    connection: "Connection | None" = None,
    resumed: Resumed | None = None,
    on_progress: OnProgress,
    on_report: OnReport,
    on_notice: OnNotice = lambda notice: None,
) -> None:
    """Train from the newest checkpoint, if there is one, and write the report, also after an error.

    Args:
        job: what was asked for.
        plan: its plan.
        folder: the run's folder, with job, plan and status.
        lease: the lease of the run. It is checked whenever there is progress and before the end is written; without
            Ray, before each write.
        recipe_folder: the job file's folder.
        address: of a Ray cluster; None: an embedded one; ``none``: one worker in this process, without Ray;
            ``torchrun``: rank 0 of its processes.
        verbose: show Ray's log.
        connection: to the cluster, if several runs share it; None: the run connects, and disconnects at its end.
        resumed: the event ``resumed``, for a run that is resumed.
        on_progress: called a few times a second.
        on_report: called with the report when it is in the run's folder, also before an error is raised.
        on_notice: called with a sentence for the user.

    Raises:
        ScalerError: what went wrong; the run's folder has a report of the steps so far.
        RunError: as above; or another process took the run over, and this process wrote nothing more.
        KeyboardInterrupt: Ctrl-C or SIGTERM; there is a report, and the run is marked stopped.
    """
    is_running = False
    shown = Progress()
    control = RunControl(lease.held_folder())

    def take_progress(progress: Progress) -> None:
        nonlocal is_running, shown
        lease.require_held()
        if progress != shown:
            shown = progress
            control.show(partial(progress_dict, progress, **_length(plan, progress)))
        if progress.attempt is not None and not is_running:
            with suppress(RunError):  # the storage may be away; the next call tries again
                folder.set_state(RunState.RUNNING)
                is_running = True
        on_progress(progress)

    def take_wait(what: str | None) -> None:
        if what is not None:
            on_notice(f"Waiting: {what}")
        control.show(partial(progress_dict, shown, **_length(plan, shown), waiting_for=what))

    is_written = False

    def write_end(error: BaseException) -> None:
        """Write the state and the report of a run that an error ended; further calls do nothing."""
        nonlocal is_written
        if is_written:
            return
        is_written = True
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)  # while Ray starts, it exits on SIGTERM
        if stopped and isinstance(error.__context__, RecipeError | TrainingError):
            # torchrun sends SIGTERM when a process has failed, here while this very failure was being handled.
            error, stopped = error.__context__, False
        if lease.look():
            failure = None if stopped else _failure_text(error)
            code = INTERRUPTED if stopped else error.exit_code if isinstance(error, ScalerError) else 1
            with suppress(RunError):  # an error of the storage must not hide why the run ended
                folder.set_state(
                    RunState.STOPPED if stopped else RunState.FAILED, ended_at=time(), failure=failure, exit_code=code
                )
            with suppress(RunError):
                on_report(write_report(folder))

    try:
        if address in (None, *NO_CLUSTER) and (unused := not_used_text(job.runtime_env)):
            on_notice(unused)
        with control:
            if address in NO_CLUSTER:
                finished = _run_in_process(
                    job,
                    plan,
                    lease.held_folder(),
                    recipe_folder=recipe_folder,
                    resumed=resumed,
                    on_progress=take_progress,
                    stop_requested=lambda: control.stop,
                )
            else:
                finished = _run_on_ray(
                    job,
                    plan,
                    folder,
                    recipe_folder=recipe_folder,
                    address=address,
                    verbose=verbose,
                    connection=connection,
                    resumed=resumed,
                    on_progress=take_progress,
                    on_notice=on_notice,
                    on_wait=take_wait,
                    on_error=write_end,
                    stop_requested=lambda: control.stop,
                )
        lease.look()
        lease.require_held()
    except BaseException as error:
        write_end(error)
        if isinstance(error, SystemExit):
            raise KeyboardInterrupt from error
        raise
    end, code = (RunState.SUCCEEDED, 0) if finished else (RunState.STOPPED, INTERRUPTED)
    ended_at = time()
    patiently(lambda: folder.set_state(end, ended_at=ended_at, exit_code=code))
    on_report(patiently(lambda: write_report(folder)))
    if not finished:
        raise KeyboardInterrupt


@contextmanager
def sigterm_like_ctrl_c() -> Iterator[None]:
    """Make SIGTERM, and SIGHUP of a closed terminal, do what Ctrl-C does, for the length of a ``with`` block.

    Ray sets its own handler of SIGTERM when it starts, so this context is entered again after that. Under nohup,
    SIGHUP stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        handler = signal.getsignal(signal.SIGINT)
        if not callable(handler):  # a shell's background job ignores Ctrl-C, but not SIGTERM
            raise KeyboardInterrupt
        handler(signal.SIGINT, frame)

    before = {number: signal.signal(number, interrupt) for number in stop_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _optimizers(job: Job) -> set[str]:
    """Return the names of the optimizers of a job."""
    given = [job.reference.optimizer, *(each.optimizer for each in job.reference.optimizers.values() if each.optimizer)]
    return {each.name for each in given} | {each.beside.name for each in given if each.beside is not None}


def _failure_text(error: BaseException) -> str:
    """Return the text of an error for the report."""
    text = str(error) if isinstance(error, ScalerError) else f"a bug in scaler: {type(error).__name__}: {error}"
    return mask_text(text)


def _require_cluster(job: Job, address: str | None) -> None:
    """Refuse a running cluster that does not accept this process, or a job that this machine is too small for."""
    from scaler.cluster.capacity import local_cpus, require_memory, require_resources
    from scaler.cluster.connection import can_fork
    from scaler.training.memory import free_memory_gib

    if address == TORCHRUN:
        return  # its processes are there
    if address is not None and address not in NO_CLUSTER:
        from scaler.cluster.running import require_reachable

        require_reachable(address)
        return  # ``ray_run`` compares the job with the cluster
    cpus, asked = job.resources.cpus_per_worker, job.resources.gpus_per_worker
    gpus = 0.0 if asked == "auto" else asked  # auto: ``ray_run`` compares the job with the GPUs that Ray found
    node = {"CPU": local_cpus()}
    if gpus > 0:
        from scaler.training.device import gpus_here  # loads torch

        node["GPU"] = float(gpus_here())
    if address is None or gpus > 0:  # one worker in this process needs no CPU of its own
        cpus = cpus if address is None else 0.0
        require_resources(
            workers=job.scale.min_workers,
            cpus_per_worker=cpus,
            gpus_per_worker=gpus,
            nodes=[node],
            owner="this machine has",
            step=workers_step(job),
        )
    if address is None:
        forks, free_gib = can_fork(job), free_memory_gib()
        require_memory(workers=job.scale.min_workers, forks=forks, free_gib=free_gib, step=workers_step(job))


def _run_on_ray(
    job: Job,
    plan: Plan,
    folder: RunFolder,
    *,
    recipe_folder: Path,
    address: str | None,
    verbose: bool,
    connection: "Connection | None",
    resumed: Resumed | None,
    on_progress: OnProgress,
    on_notice: OnNotice,
    on_wait: Callable[[str | None], None],
    on_error: Callable[[BaseException], None],
    stop_requested: StopRequested,
) -> bool:
    from scaler.cluster.connection import connect
    from scaler.cluster.ray_run import run_on_ray

    with ExitStack() as stack:
        if connection is None:
            connection = stack.enter_context(
                connect(job, recipe_folder=recipe_folder, address=address, verbose=verbose, on_notice=on_notice)
            )
        stack.enter_context(sigterm_like_ctrl_c())
        try:
            return run_on_ray(
                job,
                plan,
                folder,
                connection,
                on_progress=on_progress,
                stop_requested=stop_requested,
                on_notice=on_notice,
                on_wait=on_wait,
                resumed=resumed,
            )
        except BaseException as error:
            on_error(error)  # before Ray is shut down: when its head is gone, that takes long
            raise


def _run_in_process(
    job: Job,
    plan: Plan,
    folder: RunFolder,
    *,
    recipe_folder: Path,
    resumed: Resumed | None,
    on_progress: OnProgress,
    stop_requested: StopRequested,
) -> bool:
    """Train with one worker in this process, without Ray, so that a debugger works; or as rank 0 of torchrun's."""
    from scaler.training.in_process import train_in_process

    tracker = ProgressTracker()

    def take(records: Sequence[Record], events: Sequence[Event]) -> None:
        tracker.add(records, events)
        on_progress(tracker.progress())

    with job_environment(job.runtime_env, folder=recipe_folder):
        return train_in_process(
            job,
            plan,
            folder,
            recipe_folder=recipe_folder,
            on_hand_over=take,
            resumed=resumed,
            stop_requested=stop_requested,
        )


def _length(plan: Plan, progress: Progress) -> Mapping[str, Any]:
    """Return the length of a run, and the tokens that a sample has now, for ``progress.json``."""
    now = plan.phase_at(progress.samples_seen)
    return {"total_samples": plan.end_progress, "tokens_per_sample": now.tokens_per_sample}
