"""Submit a job: run it to its end and write its report."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from time import time
from typing import TYPE_CHECKING

from scaler.cluster.run_driver import (
    OnNotice,
    OnProgress,
    OnReport,
    require_runnable,
    run_to_end,
    sigterm_like_ctrl_c,
)
from scaler.errors import RunError
from scaler.job import Job, dump_job
from scaler.plan import Plan
from scaler.runs import RunFolder, RunState
from scaler.runs.lease import Lease
from scaler.runs.origin import Origin
from scaler.training.checkpoints.files import copy_checkpoint

if TYPE_CHECKING:
    from scaler.cluster.connection import Connection

OnFolder = Callable[[RunFolder], None]


def submit_plan(
    job: Job,
    plan: Plan,
    *,
    recipe_folder: Path,
    run_id: str | None = None,
    origin: Origin | None = None,
    address: str | None = None,
    verbose: bool = False,
    connection: "Connection | None" = None,
    on_start: OnFolder = lambda folder: None,
    on_progress: OnProgress = lambda progress: None,
    on_report: OnReport = lambda report: None,
    on_notice: OnNotice = lambda notice: None,
) -> RunFolder:
    """Run a job to its end and write its report, also when it fails or is stopped.

    Args:
        job: what was asked for.
        plan: its plan, for the number of workers that the job asks for.
        recipe_folder: the job file's folder; the recipe is looked for there first.
        run_id: of the run; None: a new id is made.
        origin: the checkpoint of another run that it begins from, as ``branch.find_origin`` returns it; None: it begins
            at its first sample.
        address: of a Ray cluster; None: an embedded one; ``none``: one worker in this process, without Ray.
        verbose: show Ray's log.
        connection: to the cluster, if several runs share it; None: the run connects, and disconnects at its end.
        on_start: called with the run's folder when it is made.
        on_progress: called a few times a second.
        on_report: called with the report when it is in the run's folder, also before an error is raised.
        on_notice: called with a sentence for the user.

    Returns:
        The run's folder; its state is ``succeeded``.

    Raises:
        RunError: another process runs the run of this id, or has run it since.
        ScalerError: what went wrong; if the run had started, its folder has a report of the steps so far.
        KeyboardInterrupt: Ctrl-C or SIGTERM; there is a report, and the run is marked stopped.
    """
    require_runnable(job, plan, recipe_folder=recipe_folder, address=address)
    if run_id is None:
        folder = RunFolder.create(job.storage, name=job.name, now=datetime.now(UTC))
    else:
        folder = RunFolder.make(job.storage, run_id=run_id)
    with sigterm_like_ctrl_c(), Lease.claim(folder) as lease:
        if folder.is_run():  # started by another process since this one looked
            raise RunError(
                f"run {folder.run_id} was started by another process at the same moment, and has ended.",
                "Submit again: the run is resumed if it is not finished.",
            )
        folder.write("job.yaml", dump_job(job))
        folder.write_json("plan.json", plan.to_dict())
        if origin is not None:
            copy_checkpoint(RunFolder(origin.uri), origin.samples_seen, folder)
        folder.set_state(
            RunState.STARTING,
            started_at=time(),
            place=folder.place,
            recipe_folder=str(recipe_folder),
            branched_from=None if origin is None else origin.to_dict(),
        )
        on_start(folder)
        run_to_end(
            job,
            plan,
            folder,
            lease,
            recipe_folder=recipe_folder,
            address=address,
            verbose=verbose,
            connection=connection,
            on_progress=on_progress,
            on_report=on_report,
            on_notice=on_notice,
        )
    return folder
