"""``scaler submit``."""

from functools import partial
from pathlib import Path

import click

from scaler.cli.options import address_option, job_options, output_options, plan_for, where_it_runs
from scaler.cli.terminal import show
from scaler.job import load_job


@click.command("submit")
@job_options
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Workers, instead of the job's number.")
@address_option
@output_options
def command(
    job_path: Path,
    overrides: tuple[str, ...],
    workers: int | None,
    address: str | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Plan, run and report a job."""
    job = load_job(job_path, overrides=overrides, workers=workers)
    job, plan = plan_for(job, job_path=job_path)
    if not quiet:
        from scaler.report.plan.text import plan_text

        show(plan_text(plan, job=job), aside=True)
    from scaler.cli.follow import follow
    from scaler.cluster.submit import submit

    follow(
        partial(submit, job, plan, recipe_folder=job_path.parent.absolute(), address=address, verbose=verbose),
        plan,
        began=lambda folder, _: f"Run {folder.run_id}: {where_it_runs(address)}",
        as_json=as_json,
        quiet=quiet,
    )
