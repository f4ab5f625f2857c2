"""Show a run from its plan to its report: plan and progress on stderr, the report on stdout, then what to type next."""

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from shlex import quote
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click

from scaler.cli.live import Live
from scaler.cli.slow import Slow
from scaler.cli.terminal import err, show
from scaler.job import Job
from scaler.job.changes import Change
from scaler.plan import Plan
from scaler.report.text.format import number, printable
from scaler.runs import RunFolder, RunState
from scaler.runs.find import typed_name

if TYPE_CHECKING:
    from scaler.cluster.progress import Progress
    from scaler.report.run.model import Report
    from scaler.training.checkpoints.files import PassedOver

PLANNING = "Building the recipe: the plan needs its data or its parameters"


class Follower:
    """The callbacks of ``submit``, ``resume`` and ``find_lr``. As a context manager it prints the report at the end.

    Args:
        started: returns the line to print when the run's folder exists. It gets the folder, the plan, and the
            ``samples_seen`` from which the run resumes, or None.
        shows_plan: print the plan.
        as_json: print the report as JSON.
        quiet: print no plan and no progress.

    Attributes:
        folder: the run's folder; None: the run has not started.
    """

    def __init__(
        self,
        started: Callable[[RunFolder, Plan, int | None], str],
        *,
        shows_plan: bool = True,
        as_json: bool = False,
        quiet: bool,
    ) -> None:
        self._started, self._shows_plan, self._as_json, self._quiet = started, shows_plan, as_json, quiet
        self._is_silent = quiet or as_json  # before the first step
        self._on_exit = ExitStack()
        self._planning: Slow | None = None
        self._live: Live | None = None
        self._plan: Plan | None = None
        self._report: Report | None = None
        self.folder: RunFolder | None = None

    def __enter__(self) -> Self:
        if not self._is_silent:
            self._planning = self._on_exit.enter_context(Slow(PLANNING, console=err()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._on_exit.close()
        if self.folder is None or self._report is None:
            return
        print_report(self._report, self.folder, as_json=self._as_json)
        if self._report.state == RunState.STOPPED:
            err().print(f"Continue with: scaler resume {quote(typed_name(self.folder))}", soft_wrap=True)

    def on_plan(self, job: Job, plan: Plan, changes: Sequence[Change] = (), folder: RunFolder | None = None) -> None:
        """Print the plan, and what a resume changes."""
        if self._planning is not None:
            self._planning.end()
        if self._shows_plan and not self._quiet:
            from scaler.report.plan.text import plan_text

            if changes and folder is not None:
                texts = [*(f"  {change}" for change in changes), *_planned_changes(folder, plan)]
                err().print("\n".join([f"Changes of {folder.run_id}", *texts, ""]))
            show(plan_text(plan, job=job), aside=True)
            if folder is None:
                self._say_time(job, plan)
        self._plan = plan
        self._live = self._on_exit.enter_context(
            Live(plan, console=err(), quiet=self._quiet, start=None if self._is_silent else "starting")
        )

    def _say_time(self, job: Job, plan: Plan) -> None:
        """Print how long the run takes, if finished runs of the job in a local storage show it."""
        from scaler.cli.estimates import estimate_plans
        from scaler.report.plan.estimate_text import estimate_phrase

        (estimate,) = estimate_plans([plan], job, source="JOB", asked=None)
        phrase = estimate_phrase(estimate) if estimate is not None else None
        if phrase is not None:
            err().print(f"A whole run takes {phrase}.", soft_wrap=True)

    def on_start(
        self, folder: RunFolder, from_samples: int | None = None, passed_over: Sequence["PassedOver"] = ()
    ) -> None:
        """Print where the run is, and which checkpoints it cannot use."""
        assert self._live is not None
        assert self._plan is not None
        self.folder = folder
        for checkpoint in passed_over:
            err().print(printable(f"Passed over: {checkpoint.reason}"), soft_wrap=True)
        self._live.say(self._started(folder, self._plan, from_samples))
        if from_samples is not None:
            self._live.begin_at(from_samples)

    def on_progress(self, progress: "Progress") -> None:
        """Show how far the run is."""
        assert self._live is not None
        self._live.show(progress)

    def on_notice(self, notice: str) -> None:
        """Print a sentence, which the progress display does not overwrite."""
        if self._live is not None:
            self._live.say(notice)
        elif not self._quiet:
            err().print(printable(notice), soft_wrap=True)

    def on_report(self, report: "Report") -> None:
        """Keep the report, to be printed at the end."""
        self._report = report


def print_report(report: "Report", folder: RunFolder, *, as_json: bool) -> None:
    """Print a run's report on stdout, and the path of its page on stderr."""
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=1, allow_nan=False))
    else:
        from scaler.report.run.text import report_text

        show(report_text(report, with_failure=False))
    sys.stdout.flush()  # where both streams are one file, the report comes before the next line
    err().print(f"Report: {folder.path('report.html')}", soft_wrap=True)


def _planned_changes(folder: RunFolder, plan: Plan) -> list[str]:
    """Return what changes of a job change in its plan: the batch, and the peak learning rate."""
    before = Plan.from_dict(folder.read_json("plan.json"))
    sizes = [each.units.number(each.global_batch_size) for each in (before, plan)]
    peaks = [number(each.peak_lr) for each in (before, plan)]
    texts = {"global batch": sizes, "peak learning rate": peaks}
    return [f"  so the {name}: {old} -> {new}" for name, (old, new) in texts.items() if old != new]
