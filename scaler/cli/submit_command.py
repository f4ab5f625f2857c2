"""``scaler submit``."""

from pathlib import Path

import click

from scaler.cli.options import address_option, job_options, output_options, where_it_runs, workers_option
from scaler.cli.terminal import err
from scaler.errors import JobFileError
from scaler.runs.processes import torchrun_rank


@click.command("submit")
@job_options
@click.option(
    "--run-id",
    metavar="ID",
    help="Start or resume the run of this id: it is started if the storage has no such run, resumed if it is not "
    "finished, and reported if it is.",
)
@click.option(
    "--even-if-stopped",
    is_flag=True,
    help="With --run-id: continue a run that was stopped with scaler stop, or has failed twice with the same error of "
    "its recipe. Otherwise such a run is not started again.",
)
@workers_option
@address_option
@click.option("--detach", is_flag=True, help="Over HTTP: print the run's id and return; do not follow the run.")
@click.option(
    "--on-interrupt",
    type=click.Choice(["detach", "stop"]),
    help="Over HTTP: what Ctrl-C does. Default: ask in a terminal; detach elsewhere. A second Ctrl-C stops the run.",
)
@output_options
def command(
    job_path: Path,
    overrides: tuple[str, ...],
    run_id: str | None,
    even_if_stopped: bool,
    workers: int | None,
    address: str | None,
    detach: bool,
    on_interrupt: str | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Plan a job, run it, and show its report."""
    from scaler.cluster.address import choose_address

    chosen = choose_address(address)
    if chosen.value is not None and chosen.is_http:
        from scaler.cli.submit_over_http import submit_over_http

        return submit_over_http(
            job_path,
            address=chosen.value,
            run_id=run_id,
            workers=workers,
            overrides=overrides,
            detach=detach,
            on_interrupt=on_interrupt,
            as_json=as_json,
            quiet=quiet,
            verbose=verbose,
        )
    if detach or on_interrupt is not None:
        option = "--detach" if detach else "--on-interrupt"
        raise JobFileError(
            f"{option} is for a cluster that is reached over HTTP, and the address is {chosen.shown}.",
            "Give the address of the cluster's dashboard: --address http://HOST:8265",
        )
    from scaler.api.submit import submit
    from scaler.cli.follow import Follower, print_report

    where = where_it_runs(address)
    with Follower(lambda folder, _, __: f"Run {folder.run_id}: {where}", as_json=as_json, quiet=quiet) as follower:
        run = submit(
            job_path,
            run_id=run_id,
            even_if_stopped=even_if_stopped,
            workers=workers,
            address=address,
            overrides=overrides,
            verbose=verbose,
            on_plan=follower.on_plan,
            on_start=follower.on_start,
            on_progress=follower.on_progress,
            on_report=follower.on_report,
            on_notice=follower.on_notice,
        )
    if follower.folder is None and not torchrun_rank():  # the run had finished before
        err().print(f"Run {run.run_id} has finished; to train longer: --set train.epochs=...", soft_wrap=True)
        print_report(run.report, run.folder, as_json=as_json)
    return 0
