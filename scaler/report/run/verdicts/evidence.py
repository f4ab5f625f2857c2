"""What verdicts are found in."""

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
    """A run's numbers, its steps, and its events."""

    run_id: str
    state: RunState
    job: Job  # the newest
    plan: Plan
    totals: Totals
    workers: Sequence[WorkerRow]
    budget: Budget | None
    scaling: Scaling | None
    attempts: Sequence[AttemptRow]
    audit: LrAudit
    noise: Noise | None
    arrays: StepArrays
    events: Sequence[Event]  # in order
    is_followed: bool  # every optimizer used what its loop planned
    unplanned: Sequence[int]  # attempts that the audit leaves out
    unreadable: Sequence[str]  # files of records that are damaged
    driver: str = ""  # which driver is gone, and since when, where the run is lost and its lease tells
    logs: Collection[int] | None = None  # ranks that have a log in the run's folder; None: not known, as if all had

    def has_log(self, rank: int | None = None) -> bool:
        """Whether a rank has a log, or with None any rank: without Ray nobody writes one."""
        return self.logs is None or (bool(self.logs) if rank is None else rank in self.logs)

    def of_type(self, kind: type[T]) -> list[T]:
        """Return the events of one class, in order."""
        return of_type(self.events, kind)

    @property
    def evaluations(self) -> list[Evaluated]:
        """The evaluations of weights that no later attempt threw away, in order."""
        ends = {row.attempt: row.end_samples for row in self.attempts[:-1]}
        return [
            event
            for event in self.of_type(Evaluated)
            if event.samples_seen <= ends.get(event.attempt, event.samples_seen)
        ]
