"""A run as the command line follows it: where it goes on, how far it is, its report, and what to type next."""

import json
from collections.abc import Callable, Sequence
from shlex import quote
from typing import TYPE_CHECKING, Protocol

import click

from scaler.cli.live import Live
from scaler.cli.terminal import err, show
from scaler.cluster.progress import Progress
from scaler.plan import Plan
from scaler.report.run.model import Report
from scaler.report.text.format import printable
from scaler.runs import RunFolder, RunState

if TYPE_CHECKING:
    from scaler.training.checkpoints.files import PassedOver


class Run(Protocol):
    """``submit`` or ``resume``, with everything given but what is called back."""

    def __call__(
        self,
        *,
        on_start: Callable[..., None],
        on_progress: Callable[[Progress], None],
        on_report: Callable[[Report], None],
        on_notice: Callable[[str], None],
    ) -> RunFolder:
        """Run to the end."""


def follow(run: Run, plan: Plan, *, began: Callable[[RunFolder, int | None], str], as_json: bool, quiet: bool) -> None:
    """Run, show progress on stderr, and print the report on stdout, whatever the end.

    Args:
        run: calls back with the folder (and the samples that it goes on from, and newer checkpoints that are of no
            use), with progress, and with the report.
        plan: says how long the run is.
        began: what to say when the run's folder is there.
        as_json: print the report as JSON.
        quiet: show no progress.
    """
    live = Live(plan, console=err(), quiet=quiet)
    folder: RunFolder | None = None
    report: Report | None = None

    def started(made: RunFolder, from_samples: int | None = None, passed_over: Sequence["PassedOver"] = ()) -> None:
        nonlocal folder
        folder = made
        for checkpoint in passed_over:
            err().print(printable(f"Passed over: {checkpoint.reason}"), soft_wrap=True)
        live.say(began(made, from_samples))
        if from_samples is not None:
            live.begin_at(from_samples)

    def reported(made: Report) -> None:
        nonlocal report
        report = made

    try:
        with live:
            run(on_start=started, on_progress=live.show, on_report=reported, on_notice=live.say)
    finally:
        if folder is not None and report is not None:
            print_report(report, folder, as_json=as_json)
            if report.state == RunState.STOPPED:
                err().print(f"Go on with: scaler resume {quote(typed_name(folder))}", soft_wrap=True)


def print_report(report: Report, folder: RunFolder, *, as_json: bool) -> None:
    """Print a run's report, and where its page is."""
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=1, allow_nan=False))
    else:
        from scaler.report.run.text import report_text

        show(report_text(report, with_failure=False))
    err().print(f"Report: {folder.path('report.html')}", soft_wrap=True)


def typed_name(folder: RunFolder) -> str:
    """Return what a person types to name a run from here: its id where that suffices, else its place."""
    place = folder.path("")
    return folder.run_id if place == f"runs/{folder.run_id}" else place
