"""``scaler list``."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from scaler.cli.options import storage_option
from scaler.errors import RunError
from scaler.report.text.format import printable
from scaler.runs import RunFolder, RunState, list_runs
from scaler.runs.find import typed_name
from scaler.runs.lease import Driver, present_state

if TYPE_CHECKING:
    from scaler.cluster.progress_file import ProgressFile

READERS = 16  # runs that are read at the same time: in remote storage, each file takes some requests


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    folder: RunFolder
    state: str  # of the run; "unreadable" if its status cannot be read
    driver: Driver | None = None
    done: "ProgressFile | None" = None
    problem: str = ""  # why it cannot be read


@click.command("list")
@storage_option
@click.option("--json", "as_json", is_flag=True, help="Print the runs as JSON.")
def command(storage: str, as_json: bool) -> None:
    """List runs and their states.

    A run is lost if its run driver (the process that runs it) ended without writing a final state. scaler resume
    continues the run.
    """
    folders = list_runs(storage)
    with ThreadPoolExecutor(READERS) as pool:
        rows = list(pool.map(_read, folders))
    if as_json:
        click.echo(json.dumps([_as_json(row) for row in rows], indent=1))
        return
    width = max((len(row.folder.run_id) for row in rows), default=0)
    for row in rows:
        click.echo(printable(f"{row.folder.run_id:{width}}  {_text(row)}"))


def _read(folder: RunFolder) -> _Row:
    from scaler.cluster.progress_file import read_progress

    try:
        state, gone = present_state(folder)
        done = None if state is RunState.SUCCEEDED else read_progress(folder)
        return _Row(folder=folder, state=state.value, driver=gone, done=done)
    except RunError as error:  # the other runs are still listed
        return _Row(folder=folder, state="unreadable", problem=error.problem)


def _text(row: _Row) -> str:
    done = f"  {row.done.share:.0%}" if row.done is not None and row.done.progress.samples_seen else ""
    match row.state:
        case RunState.LOST:
            who = f" ({row.driver})" if row.driver is not None else ""
            return f"lost{done}  no process runs it{who}: scaler resume {quote(typed_name(row.folder))}"
        case "unreadable":
            return f"unreadable  {row.problem}"
        case _:
            return f"{row.state}{done}"


def _as_json(row: _Row) -> dict[str, Any]:
    done = row.done
    return {
        "run_id": row.folder.run_id,
        "state": row.state,
        "uri": row.folder.place,
        "samples_seen": done.progress.samples_seen if done is not None else None,
        "total_samples": done.total_samples if done is not None else None,
    }
