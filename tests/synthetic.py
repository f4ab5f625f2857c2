"""Synthetic runs, with numbers that can be computed by hand."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from made_events import make_event

from scaler.core.batch import share_bounds
from scaler.core.resize_ramp import ResizeRamp
from scaler.job import Job, load_job
from scaler.metrics.events import AttemptStarted, BatchGrown, Diverged, Event, Resumed, WorkerStarted, of_type
from scaler.metrics.files import SCHEMA
from scaler.metrics.record import Record
from scaler.plan import Plan, grow, make_plan
from scaler.report.run.model import Report, Verdict
from scaler.report.run.step_arrays import StepArrays, make_step_arrays
from scaler.report.run.summary import summarize
from scaler.report.run.verdicts import find_verdicts
from scaler.report.run.verdicts.evidence import Evidence
from scaler.runs import RunState

DIGITS = Path(__file__).parents[1] / "jobs" / "digits" / "job.yaml"

SUBMITTED = 1000.0  # in epoch seconds

SYNTHETIC_JOB = (  # what makes jobs/digits/job.yaml a job whose numbers can be worked out by hand
    "train.num_samples=100",
    "train.epochs=2",
    "scale.per_worker_batch_size=8",
    "reference.global_batch_size=4",
    "schedule.warmup={samples: 32}",
)


def as_json(report: Report) -> dict[str, Any]:
    """Return the report as read from ``report.json``."""
    values: dict[str, Any] = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    return values


def codes(report: Report) -> list[tuple[str, int | None]]:
    """Return the code and rank of each verdict of a report."""
    return [(verdict.code, verdict.rank) for verdict in report.verdicts]


def evidence_of(report: Report, **changes: Any) -> Evidence:
    """Return a report's numbers as evidence, without steps and events; ``changes`` replace parts of it."""
    parts: dict[str, Any] = {
        "run_id": "digits-1",
        "state": RunState(report.state),
        "job": load_job(DIGITS, overrides=SYNTHETIC_JOB),
        "plan": Plan.from_dict(report.plan),
        "totals": report.totals,
        "workers": report.workers,
        "budget": report.budget,
        "scaling": report.scaling,
        "attempts": report.attempts,
        "audit": report.lr_audit,
        "noise": report.noise,
        "arrays": make_step_arrays(Tables(), ()),
        "events": (),
        "is_followed": False,
        "unplanned": (),
        "unreadable": (),
    }
    return Evidence(**{**parts, **changes})


def find_again(report: Report, **changes: Any) -> tuple[Verdict, ...]:
    """Find the verdicts for a report's numbers; ``changes`` replace parts of the evidence."""
    return find_verdicts(evidence_of(report, **changes))


@dataclass(frozen=True)
class Tables:
    """Records in memory, with the interface of ``RecordFiles``."""

    of_files: tuple[pa.Table, ...] = ()
    unreadable: tuple[str, ...] = ()

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield the records, or some columns of them."""
        for table in self.of_files:
            yield table if columns is None else table.select(list(columns))


def records_table(records: Iterable[Record]) -> pa.Table:
    """Return records as a table with the schema of a file."""
    rows = list(records)
    return pa.Table.from_pylist([row._asdict() for row in rows], schema=SCHEMA) if rows else SCHEMA.empty_table()


@dataclass(frozen=True, kw_only=True)
class SyntheticRun:
    """A synthetic run of two epochs of 100 samples. Two workers take 16 a step, and 4 in an epoch's last step."""

    job: Job
    plan: Plan
    records: tuple[Record, ...] = ()
    events: tuple[Event, ...] = ()
    state: str = "succeeded"
    failure: str | None = None
    later_jobs: Mapping[int, Job] = field(default_factory=dict)
    submitted: float | None = SUBMITTED  # None: status.json does not say
    wall_s: float | None = 10.5  # from submission to the end, idle or not; None: it has not ended
    clock: float = (
        SUBMITTED  # when the next event happens; a step takes an eighth of a second, if no record says otherwise
    )

    def attempt(
        self,
        number: int,
        *,
        start: int = 0,
        stop: int | None = None,
        world_size: int = 2,
        grown: Mapping[int, int] | None = None,
        ramp: ResizeRamp | None = None,
        factors: Mapping[int, float] | None = None,
        job: Job | None = None,
        **values: Any,
    ) -> "SyntheticRun":
        """Add an attempt of the worker group, with the steps from ``start`` up to ``stop`` samples.

        ``grown`` has the sizes of the batch as it grew with the noise, by samples seen. ``ramp`` is the rewarmup, and
        ``factors`` are the controllers' factors on the learning rate, by the samples seen from which they hold. ``job``
        is the job from this attempt on, for a resume that changed it. ``values`` are fields of every record; a callable
        gets the rank and the samples seen.
        """
        later_jobs = {**self.later_jobs, **({number: job} if job is not None else {})}
        job = job or ([self.job, *later_jobs.values()])[-1]
        plan = make_plan(job, world_size, parameters=self.plan.parameters)
        newest = make_plan(job, self.plan.world_size, parameters=self.plan.parameters) if later_jobs else self.plan
        growth = []
        for at, size in (grown or {}).items():
            plan = grow(plan, job, samples_seen=at, global_batch_size=size)
            if at > start:
                growth.append(
                    BatchGrown(
                        time=self.clock,
                        attempt=number,
                        samples_seen=at,
                        global_batch_size=size,
                        peak_lr=plan.phase_at(at).peak_lr,
                    )
                )
        first = plan.phase_at(start)
        records, events = (
            [],
            [
                AttemptStarted(
                    time=self.clock,
                    attempt=number,
                    samples_seen=start,
                    start_samples=start,
                    world_size=world_size,
                    global_batch_size=first.global_batch_size,
                    per_worker_batch_size=first.per_worker_batch_size,
                    peak_lr=first.peak_lr,
                    ramp=ramp.to_dict() if ramp is not None else None,
                    flops_per_sample=None,
                ),
                *growth,
                *(
                    WorkerStarted(
                        time=self.clock,
                        attempt=number,
                        rank=rank,
                        node=f"node-{rank}",
                        pid=100 + rank,
                        world_size=world_size,
                        start_samples=start,
                        device=None,
                        memory_limit_gib=None,
                    )
                    for rank in range(0 if self._goes_back() else world_size)
                ),
            ],
        )
        seen, clock = start, self.clock
        while seen < (plan.most_samples if stop is None else stop):
            size = plan.step_size(seen)
            factor = ([1.0] + [value for at, value in (factors or {}).items() if at <= seen])[-1]
            lr = plan.lr_at(seen) * factor * (ramp.at(seen) if ramp is not None else 1.0)
            for rank in range(world_size):
                begin, end = share_bounds(size, parts=world_size, index=rank)
                record = Record(
                    attempt=number,
                    rank=rank,
                    step=plan.steps(seen),
                    samples_seen=seen,
                    progress=float(seen),
                    lr=lr,
                    lr_planned=lr,
                    samples=end - begin,
                    loss=2.0 if end > begin else None,
                    step_time_s=0.125,
                    data_wait_s=0.015625,
                    compute_s=0.0625,
                    sync_wait_s=0.03125,
                    grad_norm=1.0,
                    peak_memory_gib=0.5,
                    grad_signal=None,
                    grad_variance=None,
                    noise_scale=None,
                )
                mine = {name: value(rank, seen) if callable(value) else value for name, value in values.items()}
                records.append(record._replace(**mine))
            took = [row.step_time_s + row.evaluation_s + row.checkpoint_s for row in records[-world_size:]]
            seen, clock = seen + size, clock + sum(took) / world_size
        return replace(
            self,
            plan=newest,
            records=(*self.records, *records),
            events=(*self.events, *events),
            later_jobs=later_jobs,
            clock=clock,
        )

    def _goes_back(self) -> bool:
        """Whether the newest attempt diverged: the next has the same workers, which are not started again."""
        newest = self.events[-1] if self.events else None
        return isinstance(newest, Diverged) and newest.goes_back

    def event(self, kind: str, samples_seen: int, **values: Any) -> "SyntheticRun":
        """Add an event of the newest attempt."""
        newest = max(event.attempt for event in self.events if event.attempt is not None)
        return self.happened(kind, attempt=newest, samples_seen=samples_seen, **values)

    def happened(self, kind: str, **values: Any) -> "SyntheticRun":
        """Add an event; without an attempt, it is from the run driver, the collector or the controller."""
        return replace(self, events=(*self.events, make_event(kind, **{"time": self.clock, **values})))

    def later(self, seconds: float) -> "SyntheticRun":
        """Return the run with its clock that many seconds later."""
        return replace(self, clock=self.clock + seconds)

    def worker_event(self, kind: str, rank: int, **values: Any) -> "SyntheticRun":
        """Add an event about a worker of the newest attempt."""
        newest = max(start.attempt for start in of_type(self.events, AttemptStarted))
        return self.happened(kind, attempt=newest, rank=rank, **values)

    def died(self, *ranks: int) -> "SyntheticRun":
        """Add the event that the controller noticed dead workers."""
        return self.happened(
            "group_ended", cause="lost", ranks=list(ranks), message="its process was killed, or crashed"
        )

    def hung(
        self, rank: int, *, seconds: float = 600.0, doing: str = "computing", where: str = "recipe.py:30 in loss"
    ) -> "SyntheticRun":
        """Add the event that a worker hung."""
        return self.worker_event("worker_hung", rank, seconds=seconds, doing=doing, where=where)

    def failed(self, rank: int, problem: str, *, by_peer: bool = False) -> "SyntheticRun":
        """Add the event that a worker raised an error, its own or because a peer was gone."""
        error, _, _ = problem.partition(":")
        texts = {"error": error, "problem": problem, "remedy": "", "traceback": ""}
        return self.worker_event("worker_failed", rank, **texts, by_peer=by_peer)

    def left(self, why: str, detail: str = "") -> "SyntheticRun":
        """Add the event that the group was asked to leave."""
        return self.happened("leave_requested", why=why, detail=detail)

    def resumed(
        self, from_samples: int | None, *, idle_s: float = 0.0, changes: Iterable[Iterable[str]] = ()
    ) -> "SyntheticRun":
        """Add the event that the run was resumed, ``idle_s`` after it was last at work."""
        later = self.later(idle_s)
        changed = [list(change) for change in changes]
        return later.happened("resumed", from_samples=from_samples, workers=2, changes=changed, idle_s=idle_s)

    def evaluated(self, samples_seen: int, **values: float | None) -> "SyntheticRun":
        """Add an evaluation to the newest attempt."""
        return self.event("evaluated", samples_seen, values=values)

    def altered(self, choose: Callable[[Record], bool], **values: Any) -> "SyntheticRun":
        """Return the run with changed values in the records that ``choose`` selects, at least one."""
        assert any(choose(record) for record in self.records)
        changed = (record._replace(**values) if choose(record) else record for record in self.records)
        return replace(self, records=tuple(changed))

    def tables(self) -> Tables:
        """Return the records, with one file for each attempt."""
        attempts = sorted({record.attempt for record in self.records})
        of_each = ([record for record in self.records if record.attempt == attempt] for attempt in attempts)
        return Tables(tuple(records_table(records) for records in of_each))

    def arrays(self) -> StepArrays:
        """Return the step arrays of the run."""
        return make_step_arrays(self.tables(), self.events)

    def report(self, *, one_worker: tuple[float, str] | None = None, **changes: Any) -> Report:
        """Return the report of the run, with the fields in ``changes`` replaced."""
        report = summarize(
            job=self.job,
            plan=self.plan,
            status={
                "run_id": "digits-20260101-120000-7f3a",
                "state": self.state,
                "failure": self.failure,
                "started_at": self.submitted,
                "ended_at": SUBMITTED + self.wall_s if self.wall_s is not None else None,
                "idle_s": sum(event.idle_s for event in of_type(self.events, Resumed)),
            },
            records=self.tables(),
            events=self.events,
            later_jobs=self.later_jobs,
            one_worker=one_worker,
        )
        return replace(report, **changes)
