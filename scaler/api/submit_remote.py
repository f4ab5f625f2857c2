"""Submit a job to a Ray cluster over HTTP. The command line needs no more than this before the job is sent."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from scaler.cluster.ray_jobs import RemoteRun
from scaler.cluster.remote_submit import submit_remote
from scaler.errors import RunError
from scaler.job import Job
from scaler.job.located import JOB_FILE, JobLike, job_file, locate_job
from scaler.plan import make_plan, needs_parameters
from scaler.plan.make import require_every_size
from scaler.runs import RunFolder
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
    on_notice: Callable[[str], None],
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
    if planned.train.num_samples is not None and not needs_parameters(planned):
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


def readable_folder(remote: RemoteRun, job: Job) -> RunFolder | None:
    """Return the folder of a run on a cluster, if this machine can read it."""
    with suppress(RunError):
        folder = RunFolder(inside(job.storage, remote.run_id))
        return folder if folder.is_run() else None
    return None
