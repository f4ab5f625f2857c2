"""What verdicts are derived from: the summary, steps and events of one run."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

from scaler.job import Job
from scaler.metrics.events import Evaluated, Event, of_type
from scaler.plan import Plan
from scaler.report.run.model import AttemptRow, Budget, LrAudit, Noise, Scaling, Totals, WorkerRow
from scaler.report.run.step_arrays import StepArrays
from scaler.runs import RunState

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """The summary of a run, its steps and its events."""

    run_id: str
    state: RunState
    job: Job  # of the newest attempt
    plan: Plan
    totals: Totals
    workers: Sequence[WorkerRow]
    budget: Budget | None
    scaling: Scaling | None
    attempts: Sequence[AttemptRow]
    audit: LrAudit
    noise: Noise | None
    arrays: StepArrays
    events: Sequence[Event]  # in order of time
    is_followed: bool  # every optimizer used the learning rate that its loop planned
    unplanned: Sequence[int]  # attempts whose learning rate cannot be audited
    unreadable: Sequence[str]  # damaged files of records
    driver: str = ""  # for a lost run: which driver is gone, and since when
    logs: Collection[int] | None = None  # ranks with a log in the run's folder; None: not known, all may have one

    def has_log(self, rank: int | None = None) -> bool:
        """Whether a rank has a log; with None, whether any rank has one. Runs without Ray have none."""
        return self.logs is None or (bool(self.logs) if rank is None else rank in self.logs)

    def of_type(self, kind: type[T]) -> list[T]:
        """Return the events of one class, in order of time."""
        return of_type(self.events, kind)

    @property
    def evaluations(self) -> list[Evaluated]:
        """The evaluations of weights that are in the final weights' history, in order of time."""
        ends = {row.attempt: row.end_samples for row in self.attempts[:-1]}
        return [
            event
            for event in self.of_type(Evaluated)
            if event.samples_seen <= ends.get(event.attempt, event.samples_seen)
        ]
