"""``scaler wait``."""

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from scaler.cli.options import run_argument, storage_option

if TYPE_CHECKING:
    from scaler.api.status import RunStatus


@click.command("wait")
@run_argument
@storage_option
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0.0), metavar="S", help="Wait at most S seconds.")
@click.option("--json", "as_json", is_flag=True, help="Print the status at the end as JSON.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
def command(run: str, storage: str, timeout_s: float | None, as_json: bool, quiet: bool) -> int:
    """Follow a run to its end, and exit with its exit code.

    Ctrl-C ends only this command: the run goes on. Exit code: that of the command that ran the run (0 succeeded,
    130 stopped, else that of its error); 4 the run is lost, 124 it has not ended after --timeout.
    """
    from scaler.api.status import wait
    from scaler.cli.live import Live
    from scaler.cli.terminal import err
    from scaler.plan import Plan
    from scaler.report.text.format import printable
    from scaler.runs import RunState, find_run

    folder = find_run(run, storage=storage)
    with ExitStack() as stack:
        live: Live | None = None

        def show(status: "RunStatus") -> None:
            nonlocal live
            if status.progress is None:
                return
            if live is None:
                plan = Plan.from_dict(folder.read_json("plan.json"))
                live = stack.enter_context(Live(plan, console=err(), quiet=quiet))
            live.show(status.progress)

        status = wait(
            folder.uri,
            timeout_s=timeout_s,
            on_status=show,
            on_notice=lambda notice: err().print(printable(notice), soft_wrap=True),
        )
    state = RunState(status.state)
    if as_json:
        click.echo(json.dumps(status.to_dict(), indent=1, allow_nan=False))
    else:
        click.echo(f"{status.run_id}  {status.state}")
    if status.failure and not as_json:
        err().print(printable(status.failure.rstrip()), soft_wrap=True)
    if state is RunState.LOST:
        return 4
    if not state.is_end:
        return TIMED_OUT
    return status.exit_code if status.exit_code is not None else 0


TIMED_OUT = 124  # as timeout(1)
