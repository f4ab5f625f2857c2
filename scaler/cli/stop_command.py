"""``scaler stop``."""

import json
from shlex import quote
from typing import TYPE_CHECKING

import click

from scaler.cli.options import cluster_option, run_argument, storage_option

if TYPE_CHECKING:
    from scaler.cluster.ray_jobs import RemoteRun


@click.command("stop")
@run_argument
@click.option("--now", is_flag=True, help="End the run at once, without a checkpoint.")
@click.option("--wait", "waits", is_flag=True, help="Return when the run has ended.")
@storage_option
@cluster_option
@click.option("--json", "as_json", is_flag=True, help="Print the status of the run as JSON.")
def command(run: str, now: bool, waits: bool, storage: str, address: str | None, as_json: bool) -> None:
    """Stop a run; it saves a checkpoint first.

    The request is a file in the run's folder, which the process that runs the run reads every second or two. scaler
    resume continues the run.
    """
    from scaler.api.find import locate_run
    from scaler.api.status import read_status, remote_status, stop, wait
    from scaler.cli.terminal import err
    from scaler.runs import RunFolder, RunState
    from scaler.runs.find import typed_name

    folder = locate_run(run, storage=storage, address=address)
    if not isinstance(folder, RunFolder):
        _stop_over_http(folder, now=now, waits=waits)
        if as_json:
            click.echo(json.dumps(remote_status(folder).to_dict(), indent=1, allow_nan=False))
        return
    name = quote(typed_name(folder))
    status = stop(folder.uri, now=now)
    if RunState(status.state).is_end:
        err().print(f"Run {folder.run_id} had ended before: {status.state}.", soft_wrap=True)
    elif waits:
        status = wait(folder.uri, on_notice=lambda notice: err().print(notice, soft_wrap=True))
        err().print(f"Run {folder.run_id}: {status.state}. Continue with: scaler resume {name}", soft_wrap=True)
    else:
        how = "It ends at once." if now else "It saves a checkpoint first."
        err().print(
            f"Run {folder.run_id} was asked to stop. {how}\nWait for the end: scaler wait {name}", soft_wrap=True
        )
    if as_json:
        click.echo(json.dumps(read_status(folder).to_dict(), indent=1, allow_nan=False))


def _stop_over_http(remote: "RemoteRun", *, now: bool, waits: bool) -> None:
    """Have the cluster send SIGTERM to the run's driver, which saves a checkpoint and stops."""
    from scaler.cli.terminal import err
    from scaler.cluster.ray_jobs import DriverLog

    if not remote.stop(now=now):
        err().print(f"Run {remote.run_id} had ended before: {remote.state()}.", soft_wrap=True)
        return
    name = f"{remote.run_id} --address {quote(remote.shown)}"
    if waits:
        for _ in DriverLog(remote):
            pass
        err().print(f"Run {remote.run_id}: {remote.state()}.", soft_wrap=True)
    else:
        err().print(f"Run {remote.run_id} was asked to stop. It saves a checkpoint first.", soft_wrap=True)
        err().print(f"Wait for the end: scaler wait {name}", soft_wrap=True)
