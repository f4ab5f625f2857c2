"""``scaler stop``."""

from shlex import quote

import click

from scaler.cli.options import run_argument, storage_option


@click.command("stop")
@run_argument
@click.option("--now", is_flag=True, help="End the run at once, without a checkpoint.")
@click.option("--wait", "waits", is_flag=True, help="Return when the run has ended.")
@storage_option
def command(run: str, now: bool, waits: bool, storage: str) -> None:
    """Stop a run; it saves a checkpoint first.

    The request is a file in the run's folder, which the process that runs the run reads every second or two. scaler
    resume continues the run.
    """
    from scaler.api.status import stop, wait
    from scaler.cli.terminal import err
    from scaler.runs import RunState, find_run
    from scaler.runs.find import typed_name

    folder = find_run(run, storage=storage)
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
