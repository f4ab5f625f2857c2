"""Runs that nobody trained, with numbers that can be worked out by hand."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from scaler.core.batch import share_bounds
from scaler.job import Job
from scaler.metrics.record import Record
from scaler.metrics.writer import SCHEMA
from scaler.plan import Plan, grow, make_plan
from scaler.report.model import Report
from scaler.report.numbers import summarize

SYNTHETIC_JOB = (  # what makes jobs/digits/job.yaml a job whose numbers can be worked out by hand
    "train.num_samples=100",
    "train.epochs=2",
    "scale.per_worker_batch_size=8",
    "reference.global_batch_size=4",
    "schedule.warmup={samples: 32}",
)


def as_json(report: Report) -> dict[str, Any]:
    """Return what a reader of ``report.json`` has."""
    values: dict[str, Any] = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    return values


def codes(report: Report) -> list[tuple[str, int | None]]:
    """Return the report's verdicts, by code and rank."""
    return [(verdict.code, verdict.rank) for verdict in report.verdicts]


def records_table(records: Iterable[Record]) -> pa.Table:
    rows = list(records)
    return pa.Table.from_pylist([row._asdict() for row in rows], schema=SCHEMA) if rows else SCHEMA.empty_table()


@dataclass(frozen=True, kw_only=True)
class SyntheticRun:
    """A run that nobody trained. Two epochs of 100 samples; two workers take 16 a step, and 4 in an epoch's last."""

    job: Job
    plan: Plan
    records: tuple[Record, ...] = ()
    events: tuple[Mapping[str, Any], ...] = ()
    state: str = "succeeded"
    failure: str | None = None

    def attempt(
        self,
        number: int,
        *,
        start: int = 0,
        stop: int | None = None,
        world_size: int = 2,
        grown: Mapping[int, int] | None = None,
        **values: Any,
    ) -> "SyntheticRun":
        """Add a life of the worker group that took the steps from ``start`` up to ``stop`` samples.

        ``grown`` says at which sample the batch grew with the noise, and to what. ``values`` are fields of every
        record; a callable gets the rank and the samples seen.
        """
        plan = make_plan(self.job, world_size, parameters=self.plan.parameters)
        growth = []
        for at, size in (grown or {}).items():
            plan = grow(plan, self.job, samples_seen=at, global_batch_size=size)
            if at > start:
                peak_lr = plan.phase_at(at).peak_lr
                growth.append({"kind": "batch_grown", "attempt": number, "samples_seen": at, "peak_lr": peak_lr,
                               "global_batch_size": size})  # fmt: skip
        first = plan.phase_at(start)
        records, events = [], [
            {
                "kind": "attempt_started",
                "attempt": number,
                "samples_seen": start,
                "start_samples": start,
                "world_size": world_size,
                "global_batch_size": first.global_batch_size,
                "peak_lr": first.peak_lr,
            },
            *growth,
            *(
                {"kind": "worker_started", "attempt": number, "rank": rank, "node": f"node-{rank}", "pid": 100 + rank}
                for rank in range(world_size)
            ),
        ]  # fmt: skip
        seen = start
        while seen < (plan.most_samples if stop is None else stop):
            size = plan.step_size(seen)
            for rank in range(world_size):
                begin, end = share_bounds(size, parts=world_size, index=rank)
                record = Record(
                    attempt=number,
                    rank=rank,
                    step=plan.steps(seen),
                    samples_seen=seen,
                    progress=float(seen),
                    lr=plan.lr_at(seen),
                    lr_planned=plan.lr_at(seen),
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
            seen += size
        return replace(self, records=(*self.records, *records), events=(*self.events, *events))

    def event(self, kind: str, samples_seen: int, **values: Any) -> "SyntheticRun":
        """Add something that happened to the newest life."""
        newest = max(event["attempt"] for event in self.events)
        event = {"kind": kind, "attempt": newest, "samples_seen": samples_seen, **values}
        return replace(self, events=(*self.events, event))

    def evaluated(self, samples_seen: int, **values: float | None) -> "SyntheticRun":
        """Add an evaluation to the newest life."""
        return self.event("evaluated", samples_seen, values=values)

    def altered(self, choose: Callable[[Record], bool], **values: Any) -> "SyntheticRun":
        """Change the records that ``choose`` picks; there must be one."""
        assert any(choose(record) for record in self.records)
        changed = (record._replace(**values) if choose(record) else record for record in self.records)
        return replace(self, records=tuple(changed))

    def report(self, **changes: Any) -> Report:
        """Summarize the run; ``changes`` are fields of the report that shall be what no run made them."""
        times = {"started_at": 1000.0, "ended_at": 1010.5}
        report = summarize(
            job=self.job,
            plan=self.plan,
            status={"run_id": "digits-20260101-120000-7f3a", "state": self.state, "failure": self.failure, **times},
            records=records_table(self.records),
            events=self.events,
        )
        return replace(report, **changes)
