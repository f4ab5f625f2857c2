"""``scaler logs``."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from shlex import quote
from time import sleep
from typing import TYPE_CHECKING, Any

import click

from scaler.cli.options import cluster_option, run_argument, storage_option

if TYPE_CHECKING:
    from scaler.cluster.ray_jobs import RemoteRun
    from scaler.runs import RunFolder

POLL_S = 0.5
LINES = 50  # of each log, where several are shown


@click.command("logs")
@run_argument
@click.option("--rank", type=click.IntRange(min=0), metavar="N", help="Only the log of this worker.")
@click.option(
    "--driver",
    is_flag=True,
    help="The events of the run instead: what happened, and when. Over HTTP: what the driver prints.",
)
@click.option("-f", "--follow", is_flag=True, help="Show new lines until the run has ended.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(min=1),
    metavar="N",
    help=f"Only the last N lines of each log. Default: {LINES} of each; with --rank or --driver all.",
)
@storage_option
@cluster_option
def command(
    run: str,
    rank: int | None,
    driver: bool,
    follow: bool,
    lines: int | None,
    storage: str,
    address: str | None,
) -> None:
    """Show what the workers of a run print.

    Each worker's output is in the run's folder, in logs/rank-N.log. In remote storage, it is some 10 seconds old.
    Where the folder cannot be read, a cluster that is reached over HTTP gives what the driver prints: the progress and
    the report.
    """
    from scaler.api.find import locate_run
    from scaler.cli.terminal import err
    from scaler.errors import JobFileError
    from scaler.runs import RunFolder, RunState
    from scaler.runs.lease import present_state
    from scaler.runs.logs import LineReader, log_name, ranks_with_log

    if driver and rank is not None:
        raise JobFileError("--driver and --rank cannot be given together.", "Give one of them.")
    folder = locate_run(run, storage=storage, address=address)
    if not isinstance(folder, RunFolder):
        _show_driver_log(folder, rank=rank, driver=driver, follow=follow, lines=lines)
        return
    shows_all = rank is None and not driver
    reader = LineReader(folder, lines=lines or (LINES if shows_all else None))
    has_shown = False
    while True:
        state, _ = present_state(folder)  # before the logs are read: they are complete when the run has ended
        is_over = state.is_end or state is RunState.LOST
        if driver:
            files = {"driver": "events.jsonl"}
        else:
            ranks = ranks_with_log(folder) if rank is None else [rank]
            files = {f"rank {number}": log_name(number) for number in ranks}
        found = reader.new_lines(files, final=is_over or not follow)
        if driver:
            found = {title: [_event_line(line) for line in of_file] for title, of_file in found.items()}
        _show(found, heads=shows_all and not follow, prefixes=shows_all and follow)
        has_shown = has_shown or bool(found)
        if is_over or not follow:
            break
        sleep(POLL_S)
    if not has_shown:
        err().print(f"Run {folder.run_id} {_why_nothing(folder, rank=rank, driver=driver)}", soft_wrap=True)


def _show_driver_log(remote: "RemoteRun", *, rank: int | None, driver: bool, follow: bool, lines: int | None) -> None:
    """Print the log of a run's driver, which is all that a cluster gives over HTTP."""
    from scaler.api.find import why_unread
    from scaler.cli.terminal import err
    from scaler.errors import RunError
    from scaler.report.text.format import printable

    if not driver:
        uri = remote.folder_uri
        where = f"its folder {uri}, which has the logs of the workers, {why_unread(uri)}."
        if rank is not None:
            command = f"scaler logs {remote.run_id} --address {quote(remote.shown)}"
            raise RunError(f"run {remote.run_id}: {where}", f"What the driver prints comes over HTTP: {command}")
        err().print(f"Run {remote.run_id}: {where} This is what the driver prints.", soft_wrap=True)
    if follow:
        for line in remote.driver_log(follow=True):
            click.echo(printable(line))
    else:
        for line in list(remote.driver_log())[-(lines or 0) :]:
            click.echo(printable(line))


def _show(found: Mapping[str, Sequence[str]], *, heads: bool, prefixes: bool) -> None:
    """Print lines: below a heading for each log, or with the log's name before each line."""
    from scaler.report.text.format import printable

    for title, lines in found.items():
        if heads:
            click.echo(f"==> {title} <==")
        for line in lines:
            click.echo(f"{title} | {printable(line)}" if prefixes else printable(line))


def _event_line(line: str) -> str:
    """Return an event as a line: its time, its kind, and its fields."""
    try:
        event: Any = json.loads(line)
        at = f"{datetime.fromtimestamp(event.pop('time'), UTC):%Y-%m-%d %H:%M:%S}"
        kind = event.pop("kind")
    except (ValueError, AttributeError, KeyError, TypeError, OverflowError, OSError):
        return line  # an incomplete or altered line, as it is
    _leave_out_defaults(event)
    fields = (f"{name}={_short(value)}" for name, value in event.items() if value not in (None, "", [], {}))
    return "  ".join([at, kind, *fields])


def _leave_out_defaults(event: dict[str, Any]) -> None:
    """Remove what says nothing new: dimensions of one worker, and a number that another field has."""
    if isinstance(event.get("mesh"), dict):
        event["mesh"] = {name: workers for name, workers in event["mesh"].items() if workers != 1}
    for name, same in (("data_parallel_size", "world_size"), ("start_samples", "samples_seen")):
        if name in event and event[name] == event.get(same):
            del event[name]


def _short(value: Any) -> str:
    """Return a field of an event with the digits that a person reads."""
    from scaler.report.text.format import number

    match value:
        case float():
            return number(value)
        case dict():
            return "{" + ", ".join(f"{name}: {_short(inner)}" for name, inner in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(_short, value)) + "]"
        case _:
            return str(value)


def _why_nothing(folder: "RunFolder", *, rank: int | None, driver: bool) -> str:
    from scaler.runs.find import typed_name
    from scaler.runs.logs import ranks_with_log

    ranks = ranks_with_log(folder)
    if driver:
        return "has no events yet: no worker has started."
    if not ranks:
        return "has no logs of workers: no worker has started, or the run uses no Ray and prints to its own terminal."
    if rank is not None and rank not in ranks:
        return f"has no log of rank {rank}. The ranks with a log: {', '.join(map(str, ranks))}."
    return f"has printed nothing. Its events, which say what happened: scaler logs {quote(typed_name(folder))} --driver"
