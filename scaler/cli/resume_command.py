"""``scaler resume``."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scaler.cli.options import (
    address_option,
    output_options,
    overrides_option,
    run_argument,
    storage_option,
    where_it_runs,
    workers_option,
)
from scaler.cli.paths import JobPath
from scaler.cli.terminal import err
from scaler.masking import MASK
from scaler.plan import Plan
from scaler.runs import RunFolder
from scaler.runs.processes import torchrun_rank

if TYPE_CHECKING:
    from scaler.cluster.ray_jobs import RemoteRun


@click.command("resume")
@run_argument
@click.option(
    "--job",
    "job_path",
    type=JobPath(),
    metavar="JOB",
    help="An edited job file, instead of the job in the run's folder.",
)
@overrides_option
@workers_option
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
) -> int:
    """Continue a run that was stopped, failed, or lost its driver.

    RUN is a run's id, its folder or URI, or: last. The run continues in its own folder, from its newest good
    checkpoint, with the job in that folder. --job, --set and --workers change the job. A cluster that is reached over
    HTTP gets the recipe from the folder of --job.
    """
    from scaler.cluster.address import choose_address

    chosen = choose_address(address)
    if chosen.value is not None and chosen.is_http and job_path is not None:
        from scaler.api.find import locate_run
        from scaler.cli.submit_over_http import submit_over_http

        found = locate_run(run, storage=storage, address=address)
        return submit_over_http(
            job_path,
            address=chosen.value,
            run_id=found.run_id,
            workers=workers,
            overrides=(*_storage_of(found), *overrides),
            detach=False,
            on_interrupt=None,
            as_json=as_json,
            quiet=quiet,
            verbose=verbose,
        )
    from scaler.api.resume import resume
    from scaler.cli.follow import Follower, print_report

    where = f", {where_it_runs(address)}" if chosen.variable is not None else ""
    with Follower(lambda *found: f"{_started(*found)}{where}", as_json=as_json, quiet=quiet) as follower:
        resumed = resume(
            run,
            job=job_path,
            workers=workers,
            address=address,
            overrides=overrides,
            storage=storage,
            verbose=verbose,
            on_plan=follower.on_plan,
            on_start=follower.on_start,
            on_progress=follower.on_progress,
            on_report=follower.on_report,
            on_notice=follower.on_notice,
        )
    if follower.folder is None and not torchrun_rank():  # the run had finished before
        err().print(f"Run {resumed.run_id} has finished; to train longer: --set train.epochs=...", soft_wrap=True)
        print_report(resumed.report, resumed.folder, as_json=as_json)
    return 0


def _storage_of(run: "RunFolder | RemoteRun") -> tuple[str, ...]:
    """Return the ``--set`` of a run's storage: with the storage of JOB, another run could be started there.

    It is empty if only the cluster knows the storage, and its password.
    """
    if isinstance(run, RunFolder):
        uri = run.uri.rstrip("/") if "://" in run.uri else os.path.abspath(run.uri)
        return (f"storage={uri.removesuffix(f'/{run.run_id}')}",)
    storage = run.submission().storage
    return (f"storage={storage}",) if storage and MASK not in storage else ()


def _started(folder: RunFolder, plan: Plan, from_samples: int | None) -> str:
    units = plan.units
    if from_samples is None:
        return f"Run {folder.run_id}: there is no checkpoint, starting at the first sample"
    return (
        f"Run {folder.run_id}: resuming at {units.place(from_samples)} of {units.place(plan.end_samples)} {units.many}"
    )
