"""``scaler submit``."""

from pathlib import Path

import click

from scaler.cli.options import address_option, job_options, output_options, where_it_runs, workers_option


@click.command("submit")
@job_options
@workers_option
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
    """Plan a job, run it, and show its report."""
    from scaler.api.submit import submit
    from scaler.cli.follow import Follower

    where = where_it_runs(address)
    with Follower(lambda folder, _, __: f"Run {folder.run_id}: {where}", as_json=as_json, quiet=quiet) as follower:
        submit(
            job_path,
            workers=workers,
            address=address,
            overrides=overrides,
            verbose=verbose,
            on_plan=follower.on_plan,
            on_start=follower.on_start,
            on_progress=follower.on_progress,
            on_report=follower.on_report,
            on_notice=follower.on_notice,
        )
