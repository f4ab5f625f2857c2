"""Train a run to its end, wherever it begins: at its first sample, from another run's checkpoint, or from its own."""

from collections.abc import Callable
from pathlib import Path

from scaler.cluster.branch import branch_plan
from scaler.cluster.connection import Connection
from scaler.cluster.resume import read_stored, resume_plan
from scaler.cluster.run_driver import OnNotice, OnProgress, OnReport
from scaler.cluster.submit import submit_plan
from scaler.job import Job
from scaler.plan import Plan
from scaler.runs import RunFolder


def train_run(
    job: Job,
    plan: Plan,
    *,
    unfinished: RunFolder | None,
    origin: tuple[RunFolder, int] | None = None,
    recipe_folder: Path,
    address: str | None,
    connection: Connection | None,
    on_start: Callable[[RunFolder], None] = lambda folder: None,
    on_progress: OnProgress = lambda progress: None,
    on_report: OnReport = lambda report: None,
    on_notice: OnNotice = lambda notice: None,
) -> RunFolder:
    """Train a run to its end, and write its report as ``submit_plan`` does.

    Args:
        job: of the run.
        plan: its plan.
        unfinished: the folder of the run, which is resumed; None: a new run is made.
        origin: of a new run: another run and the samples seen of its checkpoint, from which it begins; None: it begins
            at its first sample.
        recipe_folder: as ``submit_plan`` takes it, and so are the others.
        address: of a Ray cluster.
        connection: to the cluster.
        on_start: called with the run's folder when it is made or claimed.
        on_progress: called a few times a second.
        on_report: called with the report.
        on_notice: called with a sentence for the user.

    Returns:
        The run's folder; its state is ``succeeded``.

    Raises:
        RunError: the unfinished run's folder was altered.
        ScalerError: as ``submit_plan``, ``branch_plan`` and ``resume_plan`` raise it.
        KeyboardInterrupt: as these raise it.
    """
    if unfinished is not None:
        read_stored(unfinished)  # refuses a folder that was altered
        return resume_plan(
            unfinished,
            job,
            plan,
            recipe_folder=recipe_folder,
            address=address,
            connection=connection,
            on_start=lambda folder, *rest: on_start(folder),
            on_progress=on_progress,
            on_report=on_report,
            on_notice=on_notice,
        )
    if origin is not None:
        return branch_plan(
            *origin,
            job,
            plan,
            recipe_folder=recipe_folder,
            address=address,
            connection=connection,
            on_start=on_start,
            on_progress=on_progress,
            on_report=on_report,
            on_notice=on_notice,
        )
    return submit_plan(
        job,
        plan,
        recipe_folder=recipe_folder,
        address=address,
        connection=connection,
        on_start=on_start,
        on_progress=on_progress,
        on_report=on_report,
        on_notice=on_notice,
    )
