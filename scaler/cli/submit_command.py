"""``scaler submit``."""

from pathlib import Path

import click

from scaler.cli.options import address_option, job_options, output_options, where_it_runs, workers_option
from scaler.cli.terminal import err


@click.command("submit")
@job_options
@click.option(
    "--run-id",
    metavar="ID",
    help="Start or resume the run of this id: it is started if the storage has no such run, resumed if it is not "
    "finished, and reported if it is.",
)
@workers_option
@address_option
@output_options
def command(
    job_path: Path,
    overrides: tuple[str, ...],
    run_id: str | None,
    workers: int | None,
    address: str | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Plan a job, run it, and show its report."""
    from scaler.api.submit import submit
    from scaler.cli.follow import Follower, print_report

    where = where_it_runs(address)
    with Follower(lambda folder, _, __: f"Run {folder.run_id}: {where}", as_json=as_json, quiet=quiet) as follower:
        run = submit(
            job_path,
            run_id=run_id,
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
    if follower.folder is None:  # the run had finished before
        err().print(f"Run {run.run_id} has finished; to train longer: --set train.epochs=...", soft_wrap=True)
        print_report(run.report, run.folder, as_json=as_json)
