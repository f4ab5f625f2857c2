"""What the numbers say, each with its evidence and the next thing to do."""

from collections.abc import Sequence

from scaler.plan import Plan
from scaler.report.model import AttemptRow, LrAudit, Totals, Verdict, WorkerRow
from scaler.runs import RunState


def find_verdicts(
    *,
    state: RunState,
    plan: Plan,
    totals: Totals,
    workers: Sequence[WorkerRow],
    attempts: Sequence[AttemptRow],
    audit: LrAudit,
) -> tuple[Verdict, ...]:
    """Return what is worth saying about a run, the gravest first; nothing is a good answer."""
    found = [
        _not_finished(state, plan, totals),
        *_without_records(workers),
        _lr_differs(audit, plan),
        *_no_loss(workers),
        _restarts(attempts),
    ]
    return tuple(verdict for verdict in found if verdict is not None)


def _not_finished(state: RunState, plan: Plan, totals: Totals) -> Verdict | None:
    if state is RunState.SUCCEEDED:
        return None
    share = totals.samples_seen / plan.total_samples
    return Verdict(
        code="not_finished",
        rank=None,
        message=f"The run {'is ' if not state.is_end else ''}{state.value} after {share:.0%} of the training.",
        evidence=f"{totals.samples_seen} of {plan.total_samples} samples",
        next={
            RunState.FAILED: "Read the error below, mend its cause, submit again.",
            RunState.STOPPED: "Submit again to train from the start.",
        }.get(state, "Report again when it has ended."),
    )


def _without_records(workers: Sequence[WorkerRow]) -> list[Verdict]:
    return [
        Verdict(
            code="worker_without_records",
            rank=worker.rank,
            message=f"Rank {worker.rank} started and recorded no step.",
            evidence=f"{sum(other.steps > 0 for other in workers)} of {len(workers)} workers have records",
            next=f"Read its log: logs/rank-{worker.rank}.log in the run's folder.",
        )
        for worker in workers
        if worker.steps == 0
    ]


def _lr_differs(audit: LrAudit, plan: Plan) -> Verdict | None:
    if audit.as_planned is not False:
        return None
    error = audit.max_abs_error
    difference = "a rate that is no number" if error is None else f"largest difference {error:.3g}"
    return Verdict(
        code="lr_differs_from_plan",
        rank=None,
        message="The optimizer did not use the planned learning rate.",
        evidence=f"{difference} at a peak of {plan.peak_lr:g}",
        next="Look for code in the recipe that writes the optimizer's lr.",
    )


def _no_loss(workers: Sequence[WorkerRow]) -> list[Verdict]:
    return [
        Verdict(
            code="loss_not_finite",
            rank=worker.rank,
            message=f"The loss of rank {worker.rank} is not a finite number at the end.",
            evidence=f"over its samples of the last epoch, of {worker.samples} in all",
            next="Lower reference.lr, warm up longer, or set train.clip_grad_norm.",
        )
        for worker in workers
        if worker.samples > 0 and worker.loss_mean is None
    ]


def _restarts(attempts: Sequence[AttemptRow]) -> Verdict | None:
    lost = [attempt for attempt in attempts if attempt.ended_by == "lost"]
    if not lost:
        return None
    return Verdict(
        code="restarts",
        rank=None,
        message=f"The worker group was restarted {len(lost)} time{'s' if len(lost) > 1 else ''}.",
        evidence=", ".join(f"attempt {row.attempt} ended at {row.end_samples} samples" for row in lost),
        next="Look at the cluster's nodes and at the workers' memory; no sample was lost or counted twice.",
    )
