"""Verdicts on the end of a run: not finished, diverged, workers without records."""

from collections.abc import Sequence

from scaler.core.unit import Unit
from scaler.metrics.events import Diverged
from scaler.report.run.model import Verdict
from scaler.report.run.verdicts.evidence import Evidence
from scaler.report.text.format import joined
from scaler.runs import RunState


def not_finished(evidence: Evidence) -> Verdict | None:
    """Return a verdict if the run failed, was stopped, lost its driver, or has not ended."""
    state, plan, totals = evidence.state, evidence.plan, evidence.totals
    if state is RunState.SUCCEEDED:
        return None
    share = min(1.0, totals.progress / plan.end_samples)
    units = plan.units
    done = f"{units.place(totals.samples_seen)} of {units.place(plan.end_samples)} {units.many}"
    if plan.is_measured:
        progress = f"{units.place(totals.progress, form=',.0f')} of {units.place(plan.end_samples)} {units.many}"
        done = f"{progress} of the reference's training, in {units.place(totals.samples_seen)} {units.many}"
    if state is RunState.LOST:
        return Verdict(
            code="not_finished",
            rank=None,
            message=f"The run is lost: its driver ended after {share:.0%} of the training.",
            evidence=joined(*filter(None, [done, evidence.driver])),
            next=f"Continue the run from its newest checkpoint: scaler resume {evidence.run_id}.",
        )
    return Verdict(
        code="not_finished",
        rank=None,
        message=f"The run {'is ' if not state.is_end else ''}{state.value} after {share:.0%} of the training.",
        evidence=done,
        next={
            RunState.FAILED: f"Read the error below, fix its cause, and continue: scaler resume {evidence.run_id}.",
            RunState.STOPPED: f"Continue the run: scaler resume {evidence.run_id}.",
        }.get(state, "Make the report again when the run has ended."),
    )


def diverged(divergences: Sequence[Diverged], units: Unit) -> Verdict | None:
    """Return a verdict if the divergence guard stopped the run, or returned it to a checkpoint.

    ``units``: of the plan.
    """
    if not divergences:
        return None
    times = sum(event.goes_back for event in divergences)
    back = f"{times} time{'s' if times > 1 else ''}"
    if divergences[-1].goes_back:
        message = f"The training diverged {back}, and continued from a checkpoint with a lower learning rate."
    elif times:
        message = f"The training diverged again after it had returned to a checkpoint {back}, and was stopped."
    else:
        message = "The training diverged, and was stopped."
    advice = "Lower reference.lr, warm up longer (schedule.warmup), or set train.clip_grad_norm"
    more = (
        ". To continue from a checkpoint with a lower learning rate: failures.divergence: {then: go_back}"
        if not times
        else ""
    )
    return Verdict(
        code="diverged",
        rank=None,
        message=message,
        evidence=f"at {units.place(divergences[-1].samples_seen)} {units.many}, {divergences[-1].reason}",
        next=f"{advice}{more}.",
    )


def worker_without_records(evidence: Evidence) -> list[Verdict]:
    """Return a verdict for each worker without a recorded step in the final weights."""
    workers = evidence.workers
    return [
        Verdict(
            code="worker_without_records",
            rank=worker.rank,
            message=f"Rank {worker.rank} started and recorded no step.",
            evidence=f"{sum(other.steps > 0 for other in workers)} of {len(workers)} workers have records",
            next=_where_to_read(worker.rank, evidence),
        )
        for worker in workers
        if worker.steps == 0
    ]


def _where_to_read(rank: int, evidence: Evidence) -> str:
    if evidence.has_log(rank):
        return f"Read its log: scaler logs {evidence.run_id} --rank {rank}."
    if evidence.state is RunState.FAILED:
        return "Read the error below."
    return "Read its output in the terminal where the run was started."
