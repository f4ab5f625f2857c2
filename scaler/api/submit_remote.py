"""Submit a job to a Ray cluster over HTTP, and wait for its run there."""

import os
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from scaler.api.callbacks import OnNotice, OnReport
from scaler.cluster.ray_jobs import DriverLog, RemoteRun, end_error
from scaler.cluster.remote_submit import submit_remote
from scaler.errors import RunError
from scaler.job import Job
from scaler.job.located import JOB_FILE, JobLike, job_file, locate_job
from scaler.notebook import Run
from scaler.plan import make_plan
from scaler.plan.make import require_every_size
from scaler.runs import RunFolder, RunState
from scaler.runs.filesystems import inside

KEPT_LINES = 100  # of the driver's log, for its error


def start_remote(
    job: JobLike,
    *,
    address: str,
    run_id: str | None,
    workers: int | None,
    overrides: Sequence[str],
    storage: str | os.PathLike[str] | None = None,
    recipe_folder: str | os.PathLike[str] | None = None,
    options: Sequence[str] = (),
    on_notice: OnNotice,
) -> tuple[RemoteRun, Job]:
    """Start or resume a run on a cluster that is reached over HTTP; return the run and its job.

    The arguments are those of ``scaler.submit``; ``options`` are those of ``scaler submit`` for the driver's output.

    Raises:
        JobFileError: the job cannot be used; nothing was sent.
        ClusterError: the cluster cannot be reached, or does not take the job.
        RunError: the cluster runs the run already.
    """
    located = locate_job(job, overrides=overrides, workers=workers, storage=storage, recipe_folder=recipe_folder)
    planned = located.job
    # What only the recipe can tell is not asked here: its data and packages may be on the cluster only.
    if planned.train.num_samples is not None and not planned.groups and planned.layer_decay is None:
        require_every_size(planned, make_plan(planned))
    remote = submit_remote(
        planned,
        recipe_folder=located.recipe_folder,
        job_name=JOB_FILE if isinstance(job, Job) else job_file(Path(job)).name,
        address=address,
        run_id=run_id,
        options=tuple(options),
        on_notice=on_notice,
    )
    return remote, planned


def wait_for(remote: RemoteRun, job: Job, *, on_report: OnReport, on_notice: OnNotice) -> Run:
    """Wait until a run on a cluster ends, and return it with its report.

    Raises:
        RunError: it succeeded, but its folder cannot be read on this machine.
        ScalerError: the run failed, or its driver was killed.
        KeyboardInterrupt: the run was stopped.
    """
    lines = deque(DriverLog(remote, on_notice), maxlen=KEPT_LINES)
    end = remote.submission()
    folder = readable_folder(remote, job)
    run = None if folder is None else Run(folder)
    if run is not None:
        on_report(run.report)
    if end.state is RunState.STOPPED:
        raise KeyboardInterrupt
    if end.state is not RunState.SUCCEEDED:
        raise end_error(remote, end, lines)
    if run is None:
        raise RunError(
            f"run {remote.run_id} succeeded, and its folder {end.folder_uri} cannot be read on this machine.",
            f"Its report is in the driver's log: scaler logs {remote.run_id} --driver --address {remote.shown}",
        )
    return run


def readable_folder(remote: RemoteRun, job: Job) -> RunFolder | None:
    """Return the folder of a run on a cluster, if this machine can read it."""
    with suppress(RunError):
        folder = RunFolder(inside(job.storage, remote.run_id))
        return folder if folder.is_run() else None
    return None
