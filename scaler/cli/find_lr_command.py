"""``scaler find-lr``."""

import json
from pathlib import Path

import click

from scaler.cli.live import Live
from scaler.cli.options import address_option, job_options, plan_for, where_it_runs, write_file
from scaler.cli.paths import UserPath
from scaler.cli.terminal import err, show
from scaler.job import load_job
from scaler.plan.range_test import carried_by, range_job, range_plan, require_range


@click.command("find-lr")
@job_options
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Workers, instead of the job's number.")
@click.option("--min", "lowest", type=float, default=1e-5, show_default=True, help="The first rate.")
@click.option("--max", "highest", type=float, default=10.0, show_default=True, help="The last rate.")
@click.option("--steps", type=click.IntRange(min=20), default=100, show_default=True, help="Optimizer steps.")
@click.option("--linear", is_flag=True, help="Climb evenly in the rate, not in its logarithm.")
@address_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--html", "html_path", type=UserPath(), metavar="FILE", help="Also write HTML to FILE.")
@click.option("--quiet", is_flag=True, help="No progress.")
@click.option("--verbose", is_flag=True, help="Show Ray's own log too.")
def command(
    job_path: Path,
    overrides: tuple[str, ...],
    workers: int | None,
    lowest: float,
    highest: float,
    steps: int,
    linear: bool,
    address: str | None,
    as_json: bool,
    html_path: Path | None,
    quiet: bool,
    verbose: bool,
) -> None:
    """Find the learning rate: a range test on the real workers at the real batch."""
    require_range(lowest=lowest, highest=highest)
    job, plan = plan_for(load_job(job_path, overrides=overrides, workers=workers), job_path=job_path)
    tested = range_job(job, steps=steps)
    test = range_plan(
        tested,
        lowest=lowest,
        highest=highest,
        spacing="linear" if linear else "exponential",
        num_samples=plan.num_samples,
        parameters=plan.parameters or None,
    )
    from scaler.cluster.submit import submit
    from scaler.report.find_lr.summary import read_range

    live = Live(test, console=err(), quiet=quiet)
    with live:
        folder = submit(
            tested,
            test,
            recipe_folder=job_path.parent.absolute(),
            address=address,
            verbose=verbose,
            on_start=lambda made: live.say(f"Run {made.run_id}: {where_it_runs(address)}"),
            on_progress=live.show,
            on_notice=live.say,
        )
    lr_ratio, rule_reason = carried_by(plan)
    found = read_range(folder, test, name=job.name, base_lr=plan.base_lr, lr_ratio=lr_ratio, rule_reason=rule_reason)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=1, allow_nan=False))
    else:
        from scaler.report.find_lr.text import range_text

        show(range_text(found))
    if html_path is not None:
        from scaler.report.find_lr.html import render_range_html

        write_file(html_path, render_range_html(found))
