"""Group runs into arms of repeats, and find how the jobs of the arms differ."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product

from scaler.job import Job
from scaler.job.changes import Change, job_changes
from scaler.report.compare.model import Arm, JobChange
from scaler.report.run.model import Report

_OF_THE_RUN = ("name", "storage", "train.seed")
_OF_THE_TRACKERS = "tracking"


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One run with its jobs and its report."""

    jobs: tuple[Job, ...]  # the first job, and the jobs of later resumes
    report: Report

    @property
    def seed(self) -> int:
        """``train.seed`` of the first job, which sets the first weights and the order of the data."""
        return self.jobs[0].train.seed


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """One arm with its runs."""

    arm: Arm
    members: tuple[Member, ...]


def find_groups(members: Sequence[Member]) -> tuple[Group, ...]:
    """Return runs by arm, in the order in which the arms first appear.

    Runs are repeats if all their jobs, including the jobs of resumes, differ only in ``name``, ``storage``,
    ``train.seed`` and ``tracking``: these change training only by chance. A resume that changed nothing else does not
    count as another job. The changes of an arm are between the newest job of its first run and the newest job of the
    base; if these are equal, between earlier jobs.

    Args:
        members: at least one; the first one's arm is the base.
    """
    found: list[list[Member]] = []
    for member in members:
        same = next((group for group in found if _are_repeats(group[0], member)), None)
        if same is None:
            found.append([member])
        else:
            same.append(member)
    base = found[0][0]
    return tuple(
        Group(
            arm=Arm(
                label=arm_label(index),
                run_ids=tuple(member.report.run_id for member in group),
                changes=tuple(_changes(base, group[0])) if index else (),
            ),
            members=tuple(group),
        )
        for index, group in enumerate(found)
    )


def arm_label(index: int) -> str:
    """Return the label of an arm.

    Example:
        >>> [arm_label(index) for index in (0, 1, 25, 26, 27)]
        ['A', 'B', 'Z', 'AA', 'AB']
    """
    head, last = divmod(index, 26)
    return (arm_label(head - 1) if head else "") + chr(ord("A") + last)


def _are_repeats(one: Member, other: Member) -> bool:
    mine, theirs = _distinct(one.jobs), _distinct(other.jobs)
    return len(mine) == len(theirs) and not any(map(_differences, mine, theirs))


def _distinct(jobs: Sequence[Job]) -> list[Job]:
    """The jobs of a run, without jobs that equal the one before."""
    later = (job for before, job in pairwise(jobs) if _differences(before, job))
    return [jobs[0], *later]


def _differences(first: Job, second: Job) -> list[Change]:
    return [
        change
        for change in job_changes(first, second)
        if change.key not in _OF_THE_RUN and change.key.split(".")[0] != _OF_THE_TRACKERS
    ]


def _changes(base: Member, member: Member) -> list[JobChange]:
    """The changes from the base to a run, between their newest jobs, or the newest pair that differs."""
    pairs = product(reversed(base.jobs), reversed(member.jobs))
    changes = next((found for first, second in pairs if (found := _differences(first, second))), [])
    texts = (change.texts() for change in changes)
    return [JobChange(key=key, base=old, value=new) for key, old, new in texts]
