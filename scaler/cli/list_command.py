"""``scaler list``."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from scaler.cli.options import cluster_option, storage_option
from scaler.errors import RunError
from scaler.masking import mask_text
from scaler.report.text.format import printable
from scaler.runs import RunFolder, RunState, list_runs
from scaler.runs.find import NO_RUNS, typed_name
from scaler.runs.lease import Driver, present_state

if TYPE_CHECKING:
    from scaler.cluster.progress_file import ProgressFile

READERS = 16  # runs that are read at the same time: in remote storage, each file takes some requests


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    run_id: str
    uri: str
    resume: str = ""  # the command that continues a lost run
    state: str  # of the run; "unreadable" if its status cannot be read
    driver: Driver | None = None
    done: "ProgressFile | None" = None
    problem: str = ""  # why it cannot be read


@click.command("list")
@storage_option
@cluster_option
@click.option("--json", "as_json", is_flag=True, help="Print the runs as JSON.")
def command(storage: str, address: str | None, as_json: bool) -> None:
    """List runs and their states.

    With the address of a cluster, the runs that the cluster knows and the storage does not have are listed too.

    A run is lost if its run driver (the process that runs it) ended without writing a final state. scaler resume
    continues the run.
    """
    folders = list_runs(storage)
    with ThreadPoolExecutor(READERS) as pool:
        rows = list(pool.map(_read, folders))
    rows += _on_cluster(address, known={row.run_id for row in rows})
    if as_json:
        click.echo(json.dumps([_as_json(row) for row in rows], indent=1))
        return
    if not rows:
        click.echo(printable(f"There are no runs in {mask_text(storage)}.\n  {NO_RUNS}"), err=True)
    width = max((len(row.run_id) for row in rows), default=0)
    for row in rows:
        click.echo(printable(f"{row.run_id:{width}}  {_text(row)}"))


def _read(folder: RunFolder) -> _Row:
    from scaler.cluster.progress_file import read_progress

    try:
        state, gone = present_state(folder)
        done = None if state is RunState.SUCCEEDED else read_progress(folder)
        resume = f"scaler resume {quote(typed_name(folder))}"
        return _Row(run_id=folder.run_id, uri=folder.place, state=state.value, driver=gone, done=done, resume=resume)
    except RunError as error:  # the other runs are still listed
        return _Row(run_id=folder.run_id, uri=folder.place, state="unreadable", problem=error.problem)


def _on_cluster(address: str | None, *, known: set[str]) -> list[_Row]:
    """The runs of a cluster that is reached over HTTP, without those that the storage has."""
    from scaler.cluster.address import choose_address

    chosen = choose_address(address)
    if chosen.value is None or not chosen.is_http:
        return []
    from scaler.cluster.ray_jobs import continue_command, remote_runs

    return [
        _Row(
            run_id=run.run_id,
            uri=run.folder_uri,
            state=run.state.value,
            resume=continue_command(run, address=chosen.typed),
        )
        for run in remote_runs(chosen.value)
        if run.run_id not in known
    ]


def _text(row: _Row) -> str:
    done = f"  {row.done.share:.0%}" if row.done is not None and row.done.progress.samples_seen else ""
    match row.state:
        case RunState.LOST:
            who = f" ({row.driver})" if row.driver is not None else ""
            return f"lost{done}  no process runs it{who}: {row.resume}"
        case "unreadable":
            return f"unreadable  {row.problem}"
        case _:
            return f"{row.state}{done}"


def _as_json(row: _Row) -> dict[str, Any]:
    done = row.done
    return {
        "run_id": row.run_id,
        "state": row.state,
        "uri": row.uri,
        "samples_seen": done.progress.samples_seen if done is not None else None,
        "total_samples": done.total_samples if done is not None else None,
    }
