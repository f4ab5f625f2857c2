"""Which of several runs are repeats of each other, and what differs between those that are not."""

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
    """One run, as it is compared."""

    jobs: tuple[Job, ...]  # the first, and those that resumes went on with
    report: Report

    @property
    def seed(self) -> int:
        """What weights and the order of the data began with."""
        return self.jobs[0].train.seed


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The runs of one arm."""

    arm: Arm
    members: tuple[Member, ...]


def find_groups(members: Sequence[Member]) -> tuple[Group, ...]:
    """Return runs by arm, in the order in which the arms are first met.

    Runs are repeats when all their jobs are, those of resumes too, but for ``name``, ``storage``, ``train.seed`` and
    ``tracking``: nothing of these makes training another but for chance. A resume that changed nothing else is no job
    of its own. What an arm changes is told of the newest jobs of its first run and of the base's; where these are
    alike, of those before.

    Args:
        members: at least one; the first one's arm is the base.
    """
    found: list[list[Member]] = []
    for member in members:
        home = next((group for group in found if _are_repeats(group[0], member)), None)
        if home is None:
            found.append([member])
        else:
            home.append(member)
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
    """Return what an arm is called.

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
    """The jobs that a run went through, without those that are as the one before."""
    later = (job for before, job in pairwise(jobs) if _differences(before, job))
    return [jobs[0], *later]


def _differences(first: Job, second: Job) -> list[Change]:
    return [
        change
        for change in job_changes(first, second)
        if change.key not in _OF_THE_RUN and change.key.split(".")[0] != _OF_THE_TRACKERS
    ]


def _changes(base: Member, member: Member) -> list[JobChange]:
    """What a run has otherwise than the base: of the newest jobs of both, or of the newest pair that differs."""
    pairs = product(reversed(base.jobs), reversed(member.jobs))
    changes = next((found for first, second in pairs if (found := _differences(first, second))), [])
    texts = (change.texts() for change in changes)
    return [JobChange(key=key, base=old, value=new) for key, old, new in texts]
