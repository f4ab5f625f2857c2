"""``scaler list``."""

from shlex import quote

import click

from scaler.cli.options import storage_option
from scaler.errors import RunError
from scaler.report.text.format import printable
from scaler.runs import RunState, list_runs
from scaler.runs.find import typed_name
from scaler.runs.lease import present_state


@click.command("list")
@storage_option
def command(storage: str) -> None:
    """List runs and their states.

    A run is lost if its run driver (the process that runs it) ended without writing a final state. scaler resume
    continues the run.
    """
    for folder in list_runs(storage):
        try:
            state, gone = present_state(folder)
        except RunError as error:  # the other runs are still listed
            click.echo(printable(f"{folder.run_id}  unreadable  {error.problem}"))
            continue
        lost = f"  no process runs it{f' ({gone})' if gone else ''}: scaler resume {quote(typed_name(folder))}"
        click.echo(printable(f"{folder.run_id}  {state}{lost if state is RunState.LOST else ''}"))
