"""``scaler list``."""

import click

from scaler.cli.options import storage_option
from scaler.runs import list_runs


@click.command("list")
@storage_option
def command(storage: str) -> None:
    """List runs."""
    for folder in list_runs(storage):
        click.echo(f"{folder.run_id}  {folder.state()}")
