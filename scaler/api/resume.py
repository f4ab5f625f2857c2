"""``scaler.resume``: continue a run from its newest good checkpoint."""

import os
from collections.abc import Sequence
from pathlib import Path
from shlex import quote

from scaler.api.callbacks import OnNotice, OnProgress, OnReport, OnResumePlan, OnResumeStart, ignore, keep_report
from scaler.api.torchrun import dismiss_others, worked_for_rank_0, workers_here
from scaler.cluster.address import TORCHRUN, choose_address, driver_address
from scaler.cluster.resume import Stored, read_stored, require_same_data, resume_plan
from scaler.errors import JobFileError
from scaler.job.changes import Change, job_changes, require_resumable, shown
from scaler.job.load import edit_job, masked_keys
from scaler.job.located import JobLike, LocatedJob, locate_job
from scaler.notebook import Run, RunLike, run_folder
from scaler.plan.kept_lengths import require_same_lengths
from scaler.runs import RunFolder
from scaler.runs.find import typed_name
from scaler.training.plan_job import plan_with_recipe


def resume(
    run: RunLike,
    *,
    job: JobLike | None = None,
    workers: int | None = None,
    address: str | None = None,
    overrides: Sequence[str] = (),
    storage: str | os.PathLike[str] = "runs",
    recipe_folder: str | os.PathLike[str] | None = None,
    verbose: bool = False,
    on_plan: OnResumePlan | None = None,
    on_start: OnResumeStart | None = None,
    on_progress: OnProgress | None = None,
    on_report: OnReport | None = None,
    on_notice: OnNotice | None = None,
) -> Run:
    """Continue a run that was stopped, failed, or lost its driver, and return it with its report.

    The run continues in its own folder, from its newest good checkpoint, with the newest job in the folder unless
    ``job``, ``overrides`` or ``workers`` change it. A run that has finished is returned unchanged, and no callback
    is called.

    Args:
        run: its id below ``storage``, its folder or URI, ``last``, or what ``scaler.read_run`` returned.
        job: an edited job: a file, a folder with a ``job.yaml``, or a ``Job``; None: the run's own.
        workers: number of workers, instead of the job's.
        address: of a running Ray cluster, as ``scaler.submit`` takes it.
        overrides: ``key.key=value`` texts, the value in YAML; later ones win.
        storage: the folder or URI that holds runs.
        recipe_folder: where the recipe is looked for; None: next to the job file that is given, else where it was when
            the run was last started.
        verbose: show Ray's own log on stderr.
        on_plan: called with the job, its plan, the changes of the job and the run's folder, before anything is started
            or written.
        on_start: called with the run's folder, the ``samples_seen`` of the checkpoint that it resumes from or None,
            and newer checkpoints that cannot be used.
        on_progress: called with a ``Progress`` a few times a second.
        on_report: called with the report when it is in the run's folder, also before an error is raised.
        on_notice: called with a sentence for the user.

    Raises:
        RunError: there is no such run, another process runs it, or its folder cannot be read.
        JobFileError: a change that a resume cannot make, or a job that ends before the run's checkpoint.
        ScalerError: as ``scaler.submit`` raises it.
        KeyboardInterrupt: as ``scaler.submit`` raises it.

    Example:
        >>> import scaler, tempfile
        >>> options = {"workers": 1, "address": "none"}
        >>> folder = tempfile.TemporaryDirectory()
        >>> run = scaler.submit("jobs/digits/job.yaml", overrides=["train.epochs=1"], storage=folder.name, **options)
        >>> longer = scaler.resume(run, overrides=["train.epochs=2"], **options)
        >>> [(row.start_samples, row.end_samples) for row in longer.report.attempts]
        [(0, 1437), (1437, 2874)]
        >>> folder.cleanup()
    """
    chosen = choose_address(address)
    if (worked := worked_for_rank_0(chosen)) is not None:
        return worked
    workers = workers_here(chosen, workers)
    folder = run_folder(run, storage=storage)
    command = f"scaler resume {quote(typed_name(folder))} --job JOB --address {quote(chosen.typed)}"
    if chosen.value != TORCHRUN:
        driver_address(address, instead=f"Give its job file, whose folder is sent: {command}")
    stored = read_stored(folder)
    if job is not None:
        located = locate_job(job, overrides=overrides, workers=workers, recipe_folder=recipe_folder)
    else:
        located = locate_own_job(
            folder,
            stored,
            overrides=overrides,
            workers=workers,
            recipe_folder=recipe_folder,
            instead=f"scaler resume {quote(typed_name(folder))} --job JOB",
        )
    if located.job.groups != "recipe":  # else the groups are compared after the recipe was built
        require_resumable(job_changes(stored.job, located.job))
    planned, plan = plan_with_recipe(located.job, source=located.source, recipe_folder=located.recipe_folder)
    changes = job_changes(stored.job, planned)
    require_resumable(changes)
    require_same_data(stored, plan)
    require_same_lengths(stored.job, stored.plan, planned, plan)
    if stored.has_finished(plan):
        _require_no_changes(folder, changes)
        dismiss_others(chosen)
        return Run(folder)
    (on_plan or ignore)(planned, plan, changes, folder)
    reports, reported = keep_report(on_report)
    resume_plan(
        folder,
        planned,
        plan,
        changes=changes,
        recipe_folder=located.recipe_folder,
        address=chosen.value,
        verbose=verbose,
        on_start=on_start or ignore,
        on_progress=on_progress or ignore,
        on_report=reported,
        on_notice=on_notice or ignore,
    )
    return Run(folder, report=reports[-1])


def locate_own_job(
    folder: RunFolder,
    stored: Stored,
    *,
    overrides: Sequence[str],
    workers: int | None,
    recipe_folder: str | os.PathLike[str] | None,
    instead: str,
) -> LocatedJob:
    """Return a run's own job with overrides, and the folder of its recipe.

    Args:
        folder: of the run.
        stored: what it contains.
        overrides: ``key.key=value`` texts.
        workers: number of workers, instead of the job's.
        recipe_folder: where the recipe is looked for; None: where it was when the run was last started.
        instead: the command that takes a job file, for the error where the folder must not be used.

    Raises:
        JobFileError: the run's own job has masked secrets, or its recipe cannot be found or trusted.
    """
    edited = edit_job(stored.job.model_dump(), overrides=overrides, workers=workers, source=stored.source)
    masked = masked_keys(edited)
    if masked:
        raise JobFileError(
            f"{', '.join(masked)} {'is' if len(masked) == 1 else 'are'} masked in the run's folder.",
            f"Give {'it' if len(masked) == 1 else 'them'} again: {' '.join(f'--set {key}=...' for key in masked)}",
        )
    if recipe_folder is None:
        remedy = f"Give a job file of your own, with its recipe beside it: {instead}"
        away = f"Give the job file beside the recipe: {instead}"
        where = trusted_folder(folder, stored.recipe_folder, stored.doubt, if_doubt=remedy, if_away=away)
    else:
        where = Path(recipe_folder).absolute()
    return LocatedJob(job=edited, source=stored.source, recipe_folder=where)


def trusted_folder(folder: RunFolder, recipe_folder: Path, doubt: str, *, if_doubt: str, if_away: str) -> Path:
    """Return the folder in which a run's recipe was when the run was last started, if the recipe may be run.

    Args:
        folder: of the run.
        recipe_folder: the folder that the run names.
        doubt: why its recipe must not be run; empty: it may be.
        if_doubt: what to do where it must not be run.
        if_away: what to do where that folder does not exist.

    Raises:
        JobFileError: that folder does not exist, or another person may have made the run's folder.
    """
    if doubt:
        raise JobFileError(f"run {folder.run_id} {doubt}, so scaler does not run the recipe that it names.", if_doubt)
    if not recipe_folder.is_dir():
        raise JobFileError(
            f"run {folder.run_id} has its recipe in {recipe_folder}, which is not on this machine.", if_away
        )
    return recipe_folder


def _require_no_changes(folder: RunFolder, changes: Sequence[Change]) -> None:
    """Refuse to change the job of a run that has finished: nothing would be trained with it.

    Raises:
        JobFileError: lists the changes.
    """
    if changes:
        texts = ", ".join(f"{change.key} = {shown(change.new)}" for change in changes)
        raise JobFileError(
            f"run {folder.run_id} has finished its training; {texts} would change nothing.",
            "Give a longer training: --set train.epochs=...",
        )
