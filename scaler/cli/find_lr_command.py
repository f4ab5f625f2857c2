"""``scaler find-lr``."""

import json
from pathlib import Path

import click

from scaler.cli.options import address_option, job_options, where_it_runs, workers_option, write_page
from scaler.cli.paths import UserPath
from scaler.cli.terminal import show


@click.command("find-lr")
@job_options
@workers_option
@click.option("--min", "lowest", type=float, default=1e-5, show_default=True, help="Learning rate of the first step.")
@click.option("--max", "highest", type=float, default=10.0, show_default=True, help="Learning rate of the last step.")
@click.option("--steps", type=click.IntRange(min=20), default=100, show_default=True, help="Number of optimizer steps.")
@click.option(
    "--linear",
    is_flag=True,
    help="Each step adds the same amount to the learning rate, instead of multiplying it.",
)
@address_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--html", "html_path", type=UserPath(), metavar="FILE", help="Also write HTML to FILE.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
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
    """Find a learning rate by a range test.

    It trains with the job's workers and its global batch.
    """
    from scaler.api.find_lr import find_lr
    from scaler.cli.follow import Follower

    where = where_it_runs(address)
    with Follower(lambda folder, _, __: f"Run {folder.run_id}: {where}", shows_plan=False, quiet=quiet) as follower:
        found = find_lr(
            job_path,
            lowest=lowest,
            highest=highest,
            steps=steps,
            linear=linear,
            workers=workers,
            address=address,
            overrides=overrides,
            verbose=verbose,
            on_plan=follower.on_plan,
            on_start=follower.on_start,
            on_progress=follower.on_progress,
            on_notice=follower.on_notice,
        )
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=1, allow_nan=False))
    else:
        from scaler.report.find_lr.text import range_text

        show(range_text(found))
    if html_path is not None:
        from scaler.report.find_lr.html import render_range_html

        write_page(html_path, render_range_html(found))
