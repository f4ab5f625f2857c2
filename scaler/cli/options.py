"""Options and helpers that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from scaler.cli.paths import JobPath
from scaler.errors import JobFileError

Command = Callable[..., Any]


def overrides_option(command: Command) -> Command:
    """Add ``--set``."""
    return click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of the job.")(
        command
    )


def job_options(command: Command) -> Command:
    """Add the argument JOB, and ``--set``."""
    return click.argument("job_path", metavar="JOB", type=JobPath())(overrides_option(command))


def workers_option(command: Command) -> Command:
    """Add ``--workers``."""
    return click.option(
        "--workers", type=click.IntRange(min=1), metavar="N", help="Number of workers, instead of the job's."
    )(command)


def address_option(command: Command) -> Command:
    """Add ``--address``."""
    return click.option(
        "--address",
        metavar="A",
        help="Where to run. http(s)://host:port: send the run to a Ray cluster, with Ray Jobs. auto or host:port: on a "
        "running cluster, from a node of it. local: start a cluster on this machine for this run. none: one worker "
        "in this process, without Ray. Default: what RAY_API_SERVER_ADDRESS or RAY_ADDRESS names, else local.",
    )(command)


def output_options(command: Command) -> Command:
    """Add ``--json``, ``--quiet`` and ``--verbose``, for the commands that run a job."""
    for option in (
        click.option("--verbose", is_flag=True, help="Show Ray's own log too."),
        click.option("--quiet", is_flag=True, help="Show no plan and no progress."),
        click.option("--json", "as_json", is_flag=True, help="Print the report as JSON."),
    ):
        command = option(command)
    return command


def run_argument(command: Command) -> Command:
    """Add the argument RUN."""
    return click.argument("run", metavar="RUN")(command)


def cluster_option(command: Command) -> Command:
    """Add ``--address``, for the commands that follow a run."""
    return click.option(
        "--address",
        metavar="A",
        help="http(s)://host:port of the Ray cluster that runs the run. It is asked where the run's folder cannot be "
        "read on this machine. Default: what RAY_API_SERVER_ADDRESS or RAY_ADDRESS names.",
    )(command)


def storage_option(command: Command) -> Command:
    """Add ``--storage``."""
    return click.option(
        "--storage", default="runs", show_default=True, help="Folder or URI that holds the run folders."
    )(command)


def where_it_runs(address: str | None) -> str:
    """Return where a run with this ``--address`` runs, for a line of progress."""
    from scaler.cluster.address import TORCHRUN, choose_address

    chosen = choose_address(address)
    here = {None: "starting an embedded Ray", "none": "in this process", TORCHRUN: "in the processes of torchrun"}
    return here.get(chosen.value, f"on the Ray at {chosen.shown}")


def numbers(text: str, *, option: str) -> list[int]:
    """Return the numbers in a text such as ``1,2,4``.

    Raises:
        JobFileError: one of them is not a whole number above 0.
    """
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise JobFileError(f"{option} {text} is not a list of whole numbers above 0.", f"Such as {option} 1,2,4,8.")
    return [int(part) for part in parts]


def write_file(path: Path, text: str) -> None:
    """Write a file that an option names.

    Raises:
        JobFileError: it cannot be written.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise JobFileError(
            f"{path}: cannot be written: {error.strerror}.", "Give a file in a folder that exists."
        ) from error


def write_page(path: Path, text: str) -> None:
    """Write the page that ``--html`` names, and say so on stderr.

    Raises:
        JobFileError: it cannot be written.
    """
    from scaler.cli.terminal import err
    from scaler.report.text.format import printable

    write_file(path, text)
    err().print(printable(f"Written: {path}"), soft_wrap=True)
