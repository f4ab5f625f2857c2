"""``scaler status``."""

import json
from dataclasses import replace
from shlex import quote
from time import time
from typing import TYPE_CHECKING

import click

from scaler.cli.options import cluster_option, run_argument, storage_option

if TYPE_CHECKING:
    from scaler.api.status import RunStatus
    from scaler.cluster.ray_jobs import RemoteRun

LOG_LINES = 8


@click.command("status")
@run_argument
@storage_option
@cluster_option
@click.option("--json", "as_json", is_flag=True, help="Print the status as JSON.")
def command(run: str, storage: str, address: str | None, as_json: bool) -> int:
    """Show the state of a run, and how far it is.

    Only the run's folder is read, so the run may be on any machine, and its process may be gone.

    Exit code: 0 the run is running, has succeeded or was stopped; 4 it has failed or is lost; 5 there is no such run.
    """
    from scaler.api.find import locate_run
    from scaler.api.status import read_status, remote_status
    from scaler.runs import RunFolder, RunState

    found = locate_run(run, storage=storage, address=address)
    status = read_status(found) if isinstance(found, RunFolder) else remote_status(found)
    if as_json:
        click.echo(json.dumps(status.to_dict(), indent=1, allow_nan=False))
    else:
        from scaler.runs.find import typed_name

        if isinstance(found, RunFolder):
            name = quote(typed_name(found))
            _show(status, name, report=f"scaler report {name}", resume=f"scaler resume {name}")
        else:
            from scaler.cluster.ray_jobs import continue_command

            name = f"{found.run_id} --address {quote(found.shown)}"
            resume = continue_command(found.submission(), address=found.shown)
            _show(status, name, report=f"scaler logs {name}", resume=resume)
            _show_driver_log(found, status.uri)
    return 4 if status.state in (RunState.FAILED, RunState.LOST) else 0


def _show(status: "RunStatus", name: str, *, report: str, resume: str) -> None:
    """Print a status, and the commands that follow.

    Args:
        status: to print.
        name: what names the run in a command.
        report: the command that shows the report.
        resume: the command that continues the run.
    """
    from scaler.cli.live_view import View, numbers_line
    from scaler.cli.terminal import show
    from scaler.core.unit import unit_with
    from scaler.report.text.format import printable, seconds
    from scaler.runs import RunState

    progress, total, state = status.progress, status.total_samples, RunState(status.state)
    lines: list[str] = [f"{status.run_id}  {status.state}{_since(status)}"]
    panel: View | None = None
    unit = unit_with(status.tokens_per_sample)
    if status.stop is not None and not state.is_end:
        lines.append(f"Asked to stop by {status.stop.by} {seconds(max(0.0, time() - status.stop.requested_at))} ago")
    if status.waiting_for:
        lines.append(f"Waiting: {status.waiting_for}")
    if progress is not None and total:
        if state is RunState.RUNNING:
            done = min(progress.progress, total)
            panel = View(total=total, done=done, left_s=status.left_s, progress=progress, unit=unit)
        elif progress.samples_seen:
            lines.append(f"{min(1.0, progress.progress / total):.0%}  {numbers_line(progress, unit)}")
    after: list[str] = []
    if status.failure:
        after += status.failure.rstrip().splitlines()
    match state:
        case RunState.PENDING | RunState.STARTING | RunState.RUNNING:
            after += [f"Follow: scaler wait {name}", f"Logs:   scaler logs {name} -f", f"Stop:   scaler stop {name}"]
        case RunState.SUCCEEDED:
            after.append(f"Report: {report}")
        case _:
            seen = f" ({status.driver})" if status.driver is not None else ""
            after += [f"No process runs it{seen}."] if state is RunState.LOST else []
            after += [f"Report:   {report}", f"Continue: {resume}"]
    click.echo(printable("\n".join(lines)))
    if panel is not None:
        show(replace(panel, other_lines=len(lines) + len(after)))
    click.echo(printable("\n".join(after)))  # a command is on one line, however narrow the terminal, to be pasted


def _show_driver_log(remote: "RemoteRun", folder_uri: str) -> None:
    """Print the last lines of the driver's log, which has the progress and the report."""
    from scaler.api.find import why_unread
    from scaler.report.text.format import printable

    click.echo(f"\nThe run's folder {folder_uri} {why_unread(folder_uri)}. The end of the driver's log:")
    for line in list(remote.driver_log())[-LOG_LINES:]:
        click.echo(f"  {printable(line)}")


def _since(status: "RunStatus") -> str:
    """Return when the run started, and how long it took or has been running."""
    from datetime import UTC, datetime

    from scaler.report.text.format import seconds

    if status.started_at is None:
        return ""
    started = f"{datetime.fromtimestamp(status.started_at, UTC):%Y-%m-%d %H:%M} UTC"
    if status.ended_at is not None:
        return f"  started {started}, ended {seconds(status.ended_at - status.started_at)} later"
    return f"  started {started}, {seconds(max(0.0, time() - status.started_at))} ago"
