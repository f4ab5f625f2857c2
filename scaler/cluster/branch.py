"""Start a new run from a checkpoint of another run, with another job."""

from pathlib import Path
from typing import TYPE_CHECKING

from scaler.cluster.run_driver import OnNotice, OnProgress, OnReport
from scaler.cluster.submit import OnFolder, submit_plan
from scaler.errors import JobFileError, RunError
from scaler.job import Job, read_job
from scaler.job.changes import job_changes, require_resumable
from scaler.plan import Plan
from scaler.runs import RunFolder
from scaler.runs.origin import Origin
from scaler.training.checkpoints.choose import no_checkpoint
from scaler.training.checkpoints.files import complete_checkpoints

if TYPE_CHECKING:
    from scaler.cluster.connection import Connection

# A resume cannot change these keys; a new run has its own name, folder and order of the data.
OF_THE_NEW_RUN = ("name", "storage", "train.seed")
SHOWN = 5  # checkpoints in an error


def branch_plan(
    source: RunFolder,
    samples_seen: int,
    job: Job,
    plan: Plan,
    *,
    recipe_folder: Path,
    run_id: str | None = None,
    address: str | None = None,
    verbose: bool = False,
    connection: "Connection | None" = None,
    on_start: OnFolder = lambda folder: None,
    on_progress: OnProgress = lambda progress: None,
    on_report: OnReport = lambda report: None,
    on_notice: OnNotice = lambda notice: None,
) -> RunFolder:
    """Train a new run from a checkpoint of another run, and write its report as ``submit_plan`` does.

    The new run has the checkpoint's weights, optimizer state, random state and place in the data. Learning rates and
    constants are those of its own plan, at the samples of the checkpoint. With ``train.stop_after`` it trains a part of
    its schedule. With another ``train.seed``, samples of the epoch that the checkpoint is in may be used twice.

    If the new run is interrupted, ``resume_plan`` continues it.

    Args:
        source: the folder of the other run; it is only read, and may be removed afterwards.
        samples_seen: of the checkpoint.
        job: of the new run.
        plan: its plan.
        recipe_folder: the job file's folder; the recipe is looked for there first.
        run_id: of the new run; None: a new id is made.
        address: as ``submit_plan`` takes it.
        verbose: show Ray's log.
        connection: to the cluster, if several runs share it.
        on_start: called with the new run's folder when it is made.
        on_progress: called a few times a second.
        on_report: called with the report when it is in the run's folder, also before an error is raised.
        on_notice: called with a sentence for the user.

    Returns:
        The new run's folder; its state is ``succeeded``.

    Raises:
        JobFileError: the job does not fit the checkpoint, or trains nothing beyond it.
        RunError: the other run has no such checkpoint, or cannot be read.
        ScalerError: as ``submit_plan`` raises it.
        KeyboardInterrupt: as ``submit_plan`` raises it.
    """
    return submit_plan(
        job,
        plan,
        origin=find_origin(source, samples_seen, job, plan),
        recipe_folder=recipe_folder,
        run_id=run_id,
        address=address,
        verbose=verbose,
        connection=connection,
        on_start=on_start,
        on_progress=on_progress,
        on_report=on_report,
        on_notice=on_notice,
    )


def find_origin(source: RunFolder, samples_seen: int, job: Job, plan: Plan) -> Origin:
    """Return the checkpoint of a run as the origin of another run, after checking that the other job fits it.

    Raises:
        JobFileError: the job does not fit the checkpoint, or trains nothing beyond it.
        RunError: the run has no such checkpoint, or cannot be read.
    """
    there = complete_checkpoints(source)
    if not there:
        raise no_checkpoint(source)
    if samples_seen not in there:
        found = ", ".join(f"{samples:,}" for samples in there[-SHOWN:])
        raise RunError(
            f"run {source.run_id} has no checkpoint at {samples_seen:,} samples.", f"It has checkpoints at {found}."
        )
    before = Plan.from_dict(source.read_json("plan.json"))
    name = list(source.job_names().values())[-1]
    changes = job_changes(read_job(source.read(name), source=source.path(name)), job)
    require_resumable([change for change in changes if change.key not in OF_THE_NEW_RUN], what="a branch of a run")
    if plan.num_samples != before.num_samples:
        raise JobFileError(
            f"the training set has {plan.num_samples:,} samples, and had {before.num_samples:,} in run "
            f"{source.run_id}.",
            "samples_seen counts passes over it. Use the same training set.",
        )
    units = plan.units
    if samples_seen >= plan.end_samples and not plan.is_measured:
        raise JobFileError(
            f"the job ends at {units.place(plan.end_samples)} {units.many}, and the checkpoint has seen "
            f"{units.place(samples_seen)}.",
            "Give a later end: train.stop_after, epochs, samples, tokens or steps.",
        )
    earlier = Origin.of(source)
    reacts = {*before.reacts, *(earlier.reacts if earlier is not None else ())}
    return Origin(run_id=source.run_id, uri=source.uri, samples_seen=samples_seen, reacts=sorted(reacts))
