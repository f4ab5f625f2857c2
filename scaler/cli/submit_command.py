"""``scaler submit``."""

import sys
from pathlib import Path

import click

from scaler.cli.live import Live
from scaler.cli.options import address_option, elastic_range, job_options, plan_for, where_it_runs
from scaler.cli.terminal import err, show
from scaler.job import load_job
from scaler.report.model import Report
from scaler.runs import RunFolder


@click.command("submit")
@job_options
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Workers, instead of the job's number.")
@address_option
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--quiet", is_flag=True, help="No plan and no progress.")
@click.option("--verbose", is_flag=True, help="Show Ray's own log too.")
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
        from scaler.report.plan_text import plan_text

        show(plan_text(plan, elastic=elastic_range(job)), aside=True)
    from scaler.cluster.submit import submit

    live = Live(plan, console=err(), quiet=quiet)
    folder: RunFolder | None = None
    report: Report | None = None

    def started(made: RunFolder) -> None:
        nonlocal folder
        folder = made
        live.say(f"Run {made.run_id}: {where_it_runs(address)}")

    def reported(made: Report) -> None:
        nonlocal report
        report = made

    try:
        with live:
            submit(
                job,
                plan,
                recipe_folder=job_path.parent.absolute(),
                address=address,
                verbose=verbose,
                on_start=started,
                on_progress=live.show,
                on_report=reported,
            )
    finally:
        if folder is not None and report is not None:
            _print_report(report, folder, as_json=as_json)


def _print_report(report: Report, folder: RunFolder, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(folder.read("report.json").decode())
    else:
        from scaler.report.text import report_text

        show(report_text(report, with_failure=False))
    err().print(f"Report: {folder.path('report.html')}", soft_wrap=True)
