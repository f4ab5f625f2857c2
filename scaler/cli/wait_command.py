"""``scaler wait``."""

import json
from time import monotonic, sleep
from typing import TYPE_CHECKING

import click

from scaler.cli.options import cluster_option, run_argument, storage_option

if TYPE_CHECKING:
    from scaler.api.status import RunStatus
    from scaler.cluster.ray_jobs import RemoteRun


@click.command("wait")
@run_argument
@storage_option
@cluster_option
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0.0), metavar="S", help="Wait at most S seconds.")
@click.option("--json", "as_json", is_flag=True, help="Print the status at the end as JSON.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
def command(run: str, storage: str, address: str | None, timeout_s: float | None, as_json: bool, quiet: bool) -> int:
    """Follow a run to its end, and exit with its exit code.

    Ctrl-C ends only this command: the run continues. Exit code: that of the command that ran the run (0 succeeded,
    130 stopped, else that of its error); 4 the run is lost, 124 it has not ended after --timeout.
    """
    from scaler.api.find import locate_run
    from scaler.api.status import wait
    from scaler.cli.live import FolderLive
    from scaler.cli.terminal import err
    from scaler.runs import RunFolder

    folder = locate_run(run, storage=storage, address=address)
    if not isinstance(folder, RunFolder):
        return _wait_over_http(folder, timeout_s=timeout_s, as_json=as_json, quiet=quiet)
    with FolderLive(console=err(), quiet=quiet) as live:
        status = wait(
            folder.uri,
            timeout_s=timeout_s,
            on_status=lambda status: live.show(folder, status.progress),
            on_notice=live.say,
        )
    return _end(status, as_json=as_json)


def _wait_over_http(remote: "RemoteRun", *, timeout_s: float | None, as_json: bool, quiet: bool) -> int:
    """Wait for a run whose folder cannot be read here; its driver's log shows the progress."""
    from scaler.api.status import remote_status
    from scaler.cli.terminal import err
    from scaler.cluster.ray_jobs import DriverLog
    from scaler.report.text.format import printable

    def say(line: str) -> None:
        err().print(printable(line), soft_wrap=True)

    if timeout_s is None:
        for line in DriverLog(remote, say):
            if not quiet:
                say(line)
    else:
        until = monotonic() + timeout_s
        while not remote.submission().is_over and monotonic() < until:
            sleep(POLL_S)
    return _end(remote_status(remote), as_json=as_json)


def _end(status: "RunStatus", *, as_json: bool) -> int:
    """Print how a run ended, and return the exit code."""
    from scaler.cli.terminal import err
    from scaler.report.text.format import printable
    from scaler.runs import RunState

    state = RunState(status.state)
    if as_json:
        click.echo(json.dumps(status.to_dict(), indent=1, allow_nan=False))
    else:
        click.echo(f"{status.run_id}  {status.state}")
        if status.failure:
            err().print(printable(status.failure.rstrip()), soft_wrap=True)
    if state is RunState.LOST:
        return 4
    if not state.is_end:
        return TIMED_OUT
    return status.exit_code if status.exit_code is not None else 0


POLL_S = 1.0
TIMED_OUT = 124  # as timeout(1)
