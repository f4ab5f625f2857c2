"""What the numbers say, each with its evidence and the next thing to do."""

from collections.abc import Mapping, Sequence
from typing import Any

from scaler.plan import Plan
from scaler.report.model import AttemptRow, LrAudit, Noise, Totals, Verdict, WorkerRow
from scaler.report.rates import highest_peak
from scaler.report.words import noise_words, number, plural
from scaler.runs import RunState


def find_verdicts(
    *,
    state: RunState,
    plan: Plan,
    totals: Totals,
    workers: Sequence[WorkerRow],
    attempts: Sequence[AttemptRow],
    audit: LrAudit,
    noise: Noise | None,
    divergences: Sequence[Mapping[str, Any]],
) -> tuple[Verdict, ...]:
    """Return what is worth saying about a run, the gravest first; nothing is a good answer.

    Args:
        state: of the run.
        plan: of the run.
        totals: of the run.
        workers: each, over the steps in the final weights.
        attempts: its lives.
        audit: of the rate.
        noise: of the gradient, when it was measured.
        divergences: the events of the guard of the loss.
    """
    is_stopped = bool(divergences) and not divergences[-1]["goes_back"]
    found = [
        _not_finished(state, plan, totals),
        _diverged(divergences),
        *_without_records(workers),
        _lr_differs(audit, plan),
        *(_no_loss(workers) if not is_stopped else ()),  # said already, and of every rank
        _restarts(attempts),
        _batch_beyond_noise_scale(attempts, noise),
    ]
    return tuple(verdict for verdict in found if verdict is not None)


def _not_finished(state: RunState, plan: Plan, totals: Totals) -> Verdict | None:
    if state is RunState.SUCCEEDED:
        return None
    share = min(1.0, totals.progress / plan.total_samples)
    done = f"{totals.samples_seen} of {plan.total_samples} samples"
    if plan.is_measured:
        worth = f"{totals.progress:.0f} of {plan.total_samples} samples of the reference's training"
        done = f"{worth}, in {totals.samples_seen} samples"
    return Verdict(
        code="not_finished",
        rank=None,
        message=f"The run {'is ' if not state.is_end else ''}{state.value} after {share:.0%} of the training.",
        evidence=done,
        next={
            RunState.FAILED: "Read the error below, mend its cause, submit again.",
            RunState.STOPPED: "Submit again to train from the start.",
        }.get(state, "Report again when it has ended."),
    )


def _diverged(divergences: Sequence[Mapping[str, Any]]) -> Verdict | None:
    """The guard of the loss stopped the run, or it went back to a checkpoint."""
    if not divergences:
        return None
    times = sum(event["goes_back"] for event in divergences)
    back = f"{times} time{'s' if times > 1 else ''}"
    if divergences[-1]["goes_back"]:
        message = f"The training diverged {back}; it went back to a checkpoint, and on with a lower rate."
    elif times:
        message = f"The training diverged again after it had gone back {back}, and was stopped."
    else:
        message = "The training diverged, and was stopped."
    advice = "Lower reference.lr, warm up longer (schedule.warmup), or set train.clip_grad_norm"
    more = ". To go on from a checkpoint with a lower rate: failures.divergence: {then: go_back}" if not times else ""
    return Verdict(
        code="diverged",
        rank=None,
        message=message,
        evidence=f"at {divergences[-1]['samples_seen']} samples, {divergences[-1]['reason']}",
        next=f"{advice}{more}.",
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
        evidence=f"{difference} at a peak of {highest_peak(plan):g}",
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


def _batch_beyond_noise_scale(attempts: Sequence[AttemptRow], noise: Noise | None) -> Verdict | None:
    """Advice, and it says so: the batch is surely above the noise scale, as far as that is known.

    A noise scale of the preconditioned gradient says nothing of the kind.
    """
    if not attempts or noise is None or noise.upper is None or noise.is_preconditioned:
        return None
    batch = attempts[-1].end_global_batch_size
    if batch <= noise.upper:
        return None
    return Verdict(
        code="batch_beyond_noise_scale",
        rank=None,
        message="An estimate: the global batch is larger than the gradient noise scale.",
        evidence=f"{plural(batch, 'sample')} a step at the end; noise scale {noise_words(noise)} "
        f"from {number(noise.measured_steps)} steps",
        next="Fewer workers or a smaller batch should reach the same loss for less (McCandlish et al. 2018, "
        "https://arxiv.org/abs/1812.06162). Try it before you trust it: the noise scale can be far too small "
        "(Merrill et al. 2025, https://arxiv.org/abs/2505.23971).",
    )
