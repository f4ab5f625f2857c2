"""``scaler resume``."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import click

from scaler.cli.options import address_option, output_options, plan_for, storage_option
from scaler.cli.paths import JobPath
from scaler.cli.terminal import err, show
from scaler.errors import JobFileError
from scaler.job import Job, load_job
from scaler.job.load import edit_job, masked_keys
from scaler.runs import RunFolder, find_run

if TYPE_CHECKING:
    from scaler.cluster.resume import Stored
    from scaler.job.changes import Change


@click.command("resume")
@click.argument("run", metavar="RUN")
@click.option("--job", "job_path", type=JobPath(), metavar="JOB", help="An edited job file.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of the job.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Workers, instead of the job's number.")
@address_option
@storage_option
@output_options
def command(
    run: str,
    job_path: Path | None,
    overrides: tuple[str, ...],
    workers: int | None,
    address: str | None,
    storage: str,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Go on with a run that was stopped, failed, or lost its driver.

    RUN is a run's id, its folder or URI, or: last. It goes on from its newest good checkpoint, in the same folder and
    with the job that is in it, unless --job, --set or --workers change that.
    """
    from scaler.cluster.resume import read_stored, require_same_data, resume
    from scaler.job.changes import job_changes, require_resumable
    from scaler.plan.kept_lengths import require_same_lengths

    folder = find_run(run, storage=storage)
    stored = read_stored(folder)
    job = _asked_for(folder, stored, job_path=job_path, overrides=overrides, workers=workers)
    recipe_folder = job_path.parent.absolute() if job_path is not None else _recipe_folder(folder, stored)
    if job.groups != "recipe":  # then only the recipe knows whether they are others
        require_resumable(job_changes(stored.job, job))
    job, plan = plan_for(job, job_path=job_path or Path(stored.source), recipe_folder=recipe_folder)
    changes = job_changes(stored.job, job)
    require_resumable(changes)
    require_same_data(stored, plan)
    require_same_lengths(stored.job, stored.plan, job, plan)
    if stored.has_finished(plan):
        _require_no_changes(folder, changes)
        _print_finished(folder, as_json=as_json)
        return
    if not quiet:
        from scaler.report.plan.text import plan_text

        if changes:
            err().print("\n".join([f"Changes of {folder.run_id}", *(f"  {change}" for change in changes), ""]))
        show(plan_text(plan, job=job), aside=True)
    from scaler.cli.follow import follow

    def began(folder: RunFolder, from_samples: int | None) -> str:
        if from_samples is None:
            return f"Run {folder.run_id}: there is no checkpoint, going on from the start"
        return f"Run {folder.run_id}: going on at {from_samples:,} of {plan.total_samples:,} samples"

    follow(
        partial(
            resume,
            folder,
            job,
            plan,
            changes=changes,
            recipe_folder=recipe_folder,
            address=address,
            verbose=verbose,
        ),
        plan,
        began=began,
        as_json=as_json,
        quiet=quiet,
    )


def _asked_for(
    folder: RunFolder, stored: "Stored", *, job_path: Path | None, overrides: tuple[str, ...], workers: int | None
) -> Job:
    """The job to go on with: an edited file's, or the run's own, with what the options say."""
    if job_path is not None:
        return load_job(job_path, overrides=overrides, workers=workers)
    job = edit_job(stored.job.model_dump(), overrides=overrides, workers=workers, source=stored.source)
    masked = masked_keys(job)
    if masked:
        raise JobFileError(
            f"{', '.join(masked)} {'is' if len(masked) == 1 else 'are'} masked in the run's folder.",
            f"Give {'it' if len(masked) == 1 else 'them'} again: {' '.join(f'--set {key}=...' for key in masked)}",
        )
    return job


def _recipe_folder(folder: RunFolder, stored: "Stored") -> Path:
    """Where the recipe lay when the run was begun.

    Raises:
        JobFileError: it is not there, or the run's folder may have been made by somebody else.
    """
    from scaler.cli.follow import typed_name

    name = quote(typed_name(folder))
    if stored.doubt:
        raise JobFileError(
            f"run {folder.run_id} {stored.doubt}: the recipe that it names is not run.",
            f"Give a job file that lies beside a recipe of yours: scaler resume {name} --job JOB",
        )
    if not stored.recipe_folder.is_dir():
        raise JobFileError(
            f"run {folder.run_id} has its recipe in {stored.recipe_folder}, which is not on this machine.",
            f"Give the job file that lies beside it: scaler resume {name} --job JOB",
        )
    return stored.recipe_folder


def _require_no_changes(folder: RunFolder, changes: "Sequence[Change]") -> None:
    """Refuse changes of a training that is over: it would not be done again.

    Raises:
        JobFileError: lists them.
    """
    from scaler.job.changes import shown

    if changes:
        told = ", ".join(f"{change.key} = {shown(change.new)}" for change in changes)
        raise JobFileError(
            f"run {folder.run_id} has finished its training; {told} would change nothing.",
            "Give a longer training: --set train.epochs=...",
        )


def _print_finished(folder: RunFolder, *, as_json: bool) -> None:
    """Say that nothing is left to train, and print the report again."""
    from scaler.cli.follow import print_report
    from scaler.report.run.read import read_report

    report = read_report(folder)
    err().print(f"Run {folder.run_id} has finished; a longer training goes on: --set train.epochs=...", soft_wrap=True)
    print_report(report, folder, as_json=as_json)
