"""Send a run to a cluster over HTTP. What only shows it is imported after it was sent."""

import json
from collections.abc import Sequence
from pathlib import Path

import click

from scaler.api.submit_remote import start_remote
from scaler.cli.terminal import err
from scaler.masking import mask_text
from scaler.report.text.format import printable
from scaler.runs.filesystems import inside


def submit_over_http(
    job_path: Path,
    *,
    address: str,
    run_id: str | None,
    workers: int | None,
    overrides: Sequence[str],
    detach: bool,
    on_interrupt: str | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Start or resume a run on a cluster, follow it to its end unless ``detach``, and return the exit code.

    Args:
        job_path: the job file.
        address: of the cluster.
        run_id: of the run; None: a new one.
        workers: number of workers, instead of the job's.
        overrides: of ``--set``.
        detach: return when the run was submitted.
        on_interrupt: what Ctrl-C does: ``detach`` or ``stop``; None: it asks in a terminal, and detaches elsewhere.
        as_json: print the report as JSON; with ``detach``, what names the run.
        quiet: print no plan and no progress.
        verbose: show Ray's log.
    """

    def notice(text: str) -> None:
        if not quiet:
            err().print(printable(text), soft_wrap=True)

    flags = {"--json": as_json, "--quiet": quiet, "--verbose": verbose}
    remote, job = start_remote(
        job_path,
        address=address,
        run_id=run_id,
        workers=workers,
        overrides=overrides,
        options=[name for name, is_set in flags.items() if is_set],
        on_notice=notice,
    )
    notice(f"Run {remote.run_id}: sent to the Ray at {remote.shown}")
    from scaler.cli.follow_remote import AT_START, commands, follow

    if detach:
        uri = mask_text(inside(job.storage, remote.run_id))
        values = {"run_id": remote.run_id, "uri": uri, "address": remote.shown}
        click.echo(json.dumps(values, indent=1) if as_json else remote.run_id)
        err().print(commands(remote, job), soft_wrap=True)
        return 0
    notice(f"The run continues without this terminal; from any other:\n{commands(remote, job, AT_START)}")
    return follow(remote, job, job_path, on_interrupt=on_interrupt, as_json=as_json, quiet=quiet)
