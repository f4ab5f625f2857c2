"""The callbacks with which ``submit``, ``resume`` and ``find_lr`` report while they work."""

from collections.abc import Callable, Sequence
from typing import Protocol

from scaler.cluster.progress import Progress
from scaler.job import Job
from scaler.job.changes import Change
from scaler.plan import Plan
from scaler.report.run.model import Report
from scaler.runs import RunFolder
from scaler.training.checkpoints.files import PassedOver

OnPlan = Callable[[Job, Plan], None]
OnStart = Callable[[RunFolder], None]
OnProgress = Callable[[Progress], None]
OnReport = Callable[[Report], None]
OnNotice = Callable[[str], None]


class OnResumePlan(Protocol):
    """Called with the job, its plan, what changed in the job since the run was last started, and the run's folder."""

    def __call__(self, job: Job, plan: Plan, changes: Sequence[Change], folder: RunFolder, /) -> None:
        """Receive the job, its plan, the changes and the run's folder."""


class OnResumeStart(Protocol):
    """Called with the run's folder, the checkpoint that it resumes from, and newer ones that cannot be used.

    The checkpoint is given as its ``samples_seen``; None: there is none, and training starts at the first sample.
    """

    def __call__(self, folder: RunFolder, from_samples: int | None, passed_over: Sequence[PassedOver], /) -> None:
        """Receive the run's folder, the checkpoint and the checkpoints that cannot be used."""


def keep_report(on_report: OnReport | None) -> tuple[list[Report], OnReport]:
    """Return a list, and a callback that puts the report into it and then calls ``on_report``, if given."""
    reports: list[Report] = []

    def reported(report: Report) -> None:
        reports.append(report)
        (on_report or ignore)(report)

    return reports, reported


def ignore(*_: object) -> None:
    """Do nothing; used in place of a callback that the caller did not give."""
