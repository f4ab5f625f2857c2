"""``scaler plan``."""

import json
from pathlib import Path

import click

from scaler.cli.options import job_options, numbers, plan_for
from scaler.cli.terminal import show
from scaler.job import load_job


@click.command("plan")
@job_options
@click.option("--workers", metavar="N[,N...]", help="For these numbers of workers, instead of the job's.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(job_path: Path, overrides: tuple[str, ...], workers: str | None, as_json: bool) -> None:
    """Show every number of a job, each with its reason; no cluster needed."""
    sizes = numbers(workers, option="--workers") if workers is not None else [None]
    job = load_job(job_path, overrides=overrides)
    plans = [plan_for(job, job_path=job_path, world_size=size) for size in sizes]
    if as_json:
        only = plans[0].to_dict()
        click.echo(json.dumps(only if len(plans) == 1 else {"plans": [plan.to_dict() for plan in plans]}, indent=1))
        return
    from scaler.report.text import plan_text, plans_table

    show(plan_text(plans[0]) if len(plans) == 1 else plans_table(plans))
