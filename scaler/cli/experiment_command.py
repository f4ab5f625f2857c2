"""``scaler experiment``."""

import json
from contextlib import suppress
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import click

from scaler.cli.options import numbers, overrides_option, storage_option, write_page
from scaler.cli.paths import UserPath
from scaler.cli.terminal import err, show
from scaler.errors import JobFileError, ScalerError

if TYPE_CHECKING:
    from scaler.experiment.matrix import Matrix
    from scaler.report.experiment.model import ExperimentReport


@click.group("experiment")
def command() -> None:
    """Run several settings of a job, and show which is worth it."""


@command.command("run")
@click.argument("file", metavar="FILE|JOB", type=UserPath())
@overrides_option
@click.option("--strong", metavar="1,2,4", help="With a JOB: numbers of workers, with one global batch.")
@click.option("--weak", metavar="1,2,4", help="With a JOB: numbers of workers, with one batch a worker.")
@click.option("--rules", metavar="linear,sqrt", help="With a JOB: rules.")
@click.option("--batches", metavar="16,64", help="With a JOB: global batch sizes.")
@click.option("--lr", "lrs", metavar="0.01,0.03", help="With a JOB: learning rates of the reference.")
@click.option("--seeds", default="1", show_default=True, metavar="N", help="With a JOB: number of repeats.")
@click.option("--metric", metavar="NAME", help="With a JOB: the value to compare, such as accuracy.")
@click.option("--mode", type=click.Choice(["max", "min"]), default="max", show_default=True, help="Which is better.")
@click.option("--margin", type=float, metavar="X", help="With --metric: the difference that does not matter.")
@click.option("--target", type=float, metavar="X", help="With --metric: the value whose cost is compared.")
@click.option("--dry-run", is_flag=True, help="Show every plan, what has run already, and the estimated time.")
@click.option("--retry", is_flag=True, help="Continue cells that failed.")
@click.option("--storage", metavar="S", help="Folder or URI that gets the runs, instead of the job's.")
@click.option("--address", metavar="A", help="auto or host:port of a running cluster. Default: a cluster of its own.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@click.option("--verbose", is_flag=True, help="Show Ray's own log too.")
def run_command(
    file: Path,
    overrides: tuple[str, ...],
    strong: str | None,
    weak: str | None,
    rules: str | None,
    batches: str | None,
    lrs: str | None,
    seeds: str,
    metric: str | None,
    mode: str,
    margin: float | None,
    target: float | None,
    dry_run: bool,
    retry: bool,
    storage: str | None,
    address: str | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Run the cells of an experiment that have not run yet, or its search, and show what they show.

    FILE is an experiment file. With a JOB, an option gives the values: scaler experiment run job.yaml --strong 1,2
    """
    from scaler.api.experiment import plan_experiment, run_experiment
    from scaler.cli.experiment_progress import ExperimentProgress
    from scaler.cli.search_progress import SearchProgress
    from scaler.experiment.presets import preset
    from scaler.experiment.search import search_spec

    lists = (strong, weak, rules, batches, lrs)
    if any(each is not None for each in lists):
        if metric is not None and margin is None:
            raise JobFileError("--metric needs a margin.", "Give the difference that does not matter: --margin 0.01.")
        experiment = preset(
            file,
            strong=_numbers(strong, "--strong"),
            weak=_numbers(weak, "--weak"),
            rules=rules.split(",") if rules is not None else (),
            batches=_numbers(batches, "--batches"),
            lrs=_lrs(lrs),
            seeds=range(_numbers(seeds, "--seeds")[0]),
            overrides=overrides,
            compare={"metric": metric, "mode": mode, "margin": margin} if metric is not None else None,
            target=target,
        )
        matrix = plan_experiment(experiment, folder=file.parent, overrides=overrides, storage=storage)
    else:
        matrix = plan_experiment(file, overrides=overrides, storage=storage)
    if dry_run:
        _show_dry_run(matrix, address=address, retry=retry, as_json=as_json)
        return 0
    shown: ExperimentProgress | SearchProgress = ExperimentProgress(matrix, quiet=quiet)
    if matrix.experiment.search is not None:
        shown = SearchProgress(matrix, search_spec(matrix), quiet=quiet)
    try:
        with shown as progress:
            report = run_experiment(matrix, address=address, retry=retry, verbose=verbose, watcher=progress.watcher)
    except KeyboardInterrupt:
        _say_how_far(matrix)
        raise click.Abort from None
    _print(report, as_json=as_json)
    name = quote(report.experiment_id)
    if matrix.base.storage != "runs":
        name += f" --storage {quote(matrix.base.storage)}"
    err().print(f"Report: scaler experiment report {name}", soft_wrap=True)
    return 0


@command.command("report")
@click.argument("name", metavar="NAME|FILE")
@storage_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown.")
@click.option("--html", "html_path", type=UserPath(), metavar="FILE", help="Write HTML to FILE.")
def report_command(name: str, storage: str, as_json: bool, as_markdown: bool, html_path: Path | None) -> None:
    """Show what an experiment shows, also while it runs."""
    from scaler.api.experiment import read_experiment

    report = read_experiment(name, storage=storage)
    if html_path is not None:
        from scaler.report.experiment.html import render_experiment_html

        write_page(html_path, render_experiment_html(report))
    if as_markdown:
        from scaler.report.experiment.text import experiment_markdown

        click.echo(experiment_markdown(report), nl=False)
    elif as_json or html_path is None:
        _print(report, as_json=as_json)


@command.command("status")
@click.argument("name", metavar="NAME|FILE")
@storage_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status_command(name: str, storage: str, as_json: bool) -> None:
    """Show which cells of an experiment have run."""
    from scaler.api.experiment import find_experiment
    from scaler.experiment.status import experiment_status

    folder = find_experiment(name, storage=storage)
    status = experiment_status(folder)
    if as_json:
        click.echo(json.dumps(status.to_dict(), indent=1))
        return
    from scaler.report.experiment.status_text import status_text

    click.echo(status_text(status, storage=folder.path("").removesuffix(f"/experiments/{status.name}")))


@command.command("list")
@storage_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_command(storage: str, as_json: bool) -> None:
    """List experiments, and how many of their cells have run."""
    from scaler.experiment.folder import list_experiments
    from scaler.experiment.status import experiment_status
    from scaler.masking import mask_text
    from scaler.report.text.format import printable

    found = [experiment_status(folder) for folder in list_experiments(storage)]
    if as_json:
        click.echo(json.dumps([status.to_dict() for status in found], indent=1))
        return
    from scaler.report.experiment.status_text import status_line

    for status in found:
        click.echo(status_line(status))
    if not found:
        click.echo(printable(f"There are no experiments in {mask_text(storage)}."), err=True)


def _say_how_far(matrix: "Matrix") -> None:
    """Say how much of an interrupted experiment is done, and how it continues; nothing if it had not begun."""
    from scaler.experiment.folder import ExperimentFolder
    from scaler.experiment.status import experiment_status
    from scaler.report.experiment.progress import LEFT
    from scaler.report.text.format import plural
    from scaler.runs import RunState

    click.echo(err=True)  # below the terminal's ^C
    with suppress(ScalerError):
        status = experiment_status(ExperimentFolder.of(matrix.experiment.name, storage=matrix.base.storage))
        done = sum(status.states.get(state, 0) for state in (RunState.SUCCEEDED.value, LEFT))
        what = "cell" if matrix.experiment.search is None else "trial"
        line = (
            f"{done:,} of {plural(status.cells, what)} {'is' if done == 1 else 'are'} done; the same command continues."
        )
        err().print(line, soft_wrap=True)


def _print(report: "ExperimentReport", *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=1, allow_nan=False))
        return
    from scaler.report.experiment.text import experiment_text

    show(experiment_text(report))


def _show_dry_run(matrix: "Matrix", *, address: str | None, retry: bool, as_json: bool) -> None:
    from scaler.api.experiment import experiment_address
    from scaler.experiment.dry_run import dry_run
    from scaler.experiment.search_dry_run import search_dry_run
    from scaler.report.experiment.dry_run_text import dry_run_text, search_dry_run_text

    if matrix.experiment.search is None:
        found = dry_run(matrix, address=experiment_address(address).value, retry=retry)
        values, text = found.to_dict(), dry_run_text(found)
    else:
        searched = search_dry_run(matrix)
        values, text = searched.to_dict(), search_dry_run_text(searched)
    if as_json:
        click.echo(json.dumps(values, indent=1, allow_nan=False))
    else:
        show(text)


def _numbers(text: str | None, option: str) -> list[int]:
    return [] if text is None else numbers(text, option=option)


def _lrs(text: str | None) -> list[float]:
    try:
        found = [] if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        found = [0.0]
    if any(lr <= 0 for lr in found):
        raise JobFileError(f"--lr {text} is not a list of numbers above 0.", "Such as --lr 0.003,0.01,0.03.")
    return found
