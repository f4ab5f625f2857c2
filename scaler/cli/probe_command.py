"""``scaler probe``."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scaler.cli.options import (
    address_option,
    overrides_option,
    storage_option,
    where_it_runs,
    workers_option,
    write_page,
)
from scaler.cli.paths import UserPath
from scaler.cli.terminal import err, show
from scaler.errors import JobFileError

if TYPE_CHECKING:
    from scaler.cli.live import Live
    from scaler.cluster.progress import Progress
    from scaler.experiment.probe_runs import ProbeWatcher
    from scaler.plan import Plan


@click.command("probe")
@click.argument("what", metavar="JOB|RUN")
@overrides_option
@click.option(
    "--at",
    metavar="S,S,...",
    help="Places, as shares of the training. Default: 0.03,0.5,0.9; of a run, its checkpoints nearest to these.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    metavar="N",
    help="Samples that each branch trains. Default: 256 steps, but at most a fifth of the training.",
)
@click.option(
    "--tolerance",
    type=float,
    metavar="X",
    help="Loss above the best smaller batch that counts as equal. Default: two standard errors of the difference "
    "between two batches, by the seeds, but at least 0.4% of the loss.",
)
@click.option(
    "--most",
    type=click.IntRange(min=1),
    metavar="K",
    help="Largest multiple of the batch. Default: as many as leave a branch 4 steps.",
)
@click.option(
    "--resolution",
    type=float,
    default=1.25,
    show_default=True,
    metavar="R",
    help="Ratio of the smallest batch that fails to the largest that holds, at which the search ends.",
)
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Repeats of each branch.")
@click.option(
    "--loss",
    type=click.Choice(["auto", "eval", "train"]),
    default="auto",
    show_default=True,
    help="What is compared: the evaluation's loss at the end of a branch, or the mean train loss of its second half. "
    "auto: the first where the recipe has it.",
)
@workers_option
@address_option
@storage_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown.")
@click.option("--html", "html_path", type=UserPath(), metavar="FILE", help="Also write HTML to FILE.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@click.option("--verbose", is_flag=True, help="Show Ray's own log too.")
@click.pass_context
def command(
    context: click.Context,
    what: str,
    overrides: tuple[str, ...],
    at: str | None,
    samples: int | None,
    tolerance: float | None,
    most: int | None,
    resolution: float,
    seeds: int,
    loss: str,
    workers: int | None,
    address: str | None,
    storage: str,
    as_json: bool,
    as_markdown: bool,
    html_path: Path | None,
    quiet: bool,
    verbose: bool,
) -> None:
    """Find how far the batch can grow.

    From checkpoints early, in the middle and late in a training, branches train the same samples with 1, 2, 4 ...
    times the batch and the rule's learning rate, until the loss leaves a tolerance of the best smaller batch. The
    result is the largest batch at each place, and a batch schedule to paste.

    JOB is trained at the reference's batch up to the last place. Of a RUN, the checkpoints are used that it has kept.
    Branches are runs in the storage: a probe that was interrupted continues with the same command.
    """
    from scaler.api.probe import probe

    is_default = context.get_parameter_source("storage") is click.core.ParameterSource.DEFAULT
    with _Display(quiet=quiet, where=where_it_runs(address)) as display:
        found = probe(
            what,
            at=_shares(at),
            samples=samples,
            tolerance=tolerance,
            most=most,
            resolution=resolution,
            seeds=seeds,
            loss=loss,  # type: ignore[arg-type]
            workers=workers,
            address=address,
            overrides=overrides,
            storage=None if is_default else storage,
            verbose=verbose,
            watcher=display.watcher(),
        )
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=1, allow_nan=False))
    elif as_markdown:
        from scaler.report.probe.text import probe_markdown

        click.echo(probe_markdown(found), nl=False)
    else:
        from scaler.report.probe.text import probe_text

        show(probe_text(found))
    if html_path is not None:
        from scaler.report.probe.html import render_probe_html

        write_page(html_path, render_probe_html(found))


def _shares(text: str | None) -> list[float] | None:
    """Return the numbers in a text such as ``0.1,0.5``.

    Raises:
        JobFileError: one of them is not a number.
    """
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise JobFileError(f"--at {text} is not a list of shares.", "Such as --at 0.1,0.5,0.9.") from None


class _Display:
    """The progress of a probe: a line for each batch, and on a terminal the run that trains; a context manager."""

    def __init__(self, *, quiet: bool, where: str) -> None:
        self._quiet, self._where, self._console = quiet, where, err()
        self._run = ExitStack()
        self._live: Live | None = None

    def __enter__(self) -> "_Display":
        return self

    def __exit__(self, *error: object) -> None:
        self._run.close()

    def watcher(self) -> "ProbeWatcher":
        """Return the callbacks that show the progress."""
        from scaler.experiment.probe_runs import ProbeWatcher

        return ProbeWatcher(
            on_setting=lambda sentence: self._say(f"{sentence} ({self._where})"),
            on_start=self._on_start,
            on_progress=self._on_progress,
            on_end=self._on_end,
            on_result=self._say,
            on_notice=self._say,
        )

    def _on_start(self, what: str, plan: "Plan", start: int) -> None:
        from scaler.cli.live import Live

        if self._quiet or not self._console.is_terminal:  # elsewhere, the line of each batch is enough
            return
        self._live = self._run.enter_context(Live(plan, console=self._console, quiet=False))
        self._live.begin_at(start)

    def _on_progress(self, progress: "Progress") -> None:
        if self._live is not None:
            self._live.show(progress)

    def _on_end(self) -> None:
        self._run.close()
        self._live = None

    def _say(self, line: str) -> None:
        from scaler.report.text.format import printable

        if self._live is not None:
            self._live.say(line)
        elif not self._quiet:
            self._console.print(printable(line), soft_wrap=True)
