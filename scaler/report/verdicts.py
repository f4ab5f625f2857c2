"""What the numbers say, each with its evidence and the next thing to do."""

from collections.abc import Mapping, Sequence
from typing import Any

from scaler.plan import Plan
from scaler.report.gaps import find_missing_events, find_unreadable
from scaler.report.model import AttemptRow, LrAudit, Noise, Totals, Verdict, WorkerRow
from scaler.report.rates import highest_peak
from scaler.report.words import joined, noise_words, number, one_line, plural, seconds
from scaler.runs import RunState

SHOWN_ENDS = 3


def find_verdicts(
    *,
    run_id: str,
    state: RunState,
    plan: Plan,
    totals: Totals,
    workers: Sequence[WorkerRow],
    attempts: Sequence[AttemptRow],
    audit: LrAudit,
    noise: Noise | None,
    events: Sequence[Mapping[str, Any]],
    is_followed: bool = False,
    unplanned: Sequence[int] = (),
    recorded: Sequence[int] = (),
    unreadable: Sequence[str] = (),
) -> tuple[Verdict, ...]:
    """Return what is worth saying about a run, the gravest first; nothing is a good answer.

    Args:
        run_id: of the run.
        state: of the run.
        plan: of the run.
        totals: of the run.
        workers: each, over the steps in the final weights.
        attempts: its lives.
        audit: of the rate.
        noise: of the gradient, when it was measured.
        events: of the run, in order.
        is_followed: every optimizer used what its loop planned.
        unplanned: attempts that the audit leaves out.
        recorded: attempts that have records.
        unreadable: files of records that are damaged.
    """
    divergences = [event for event in events if event["kind"] == "diverged"]
    is_stopped = bool(divergences) and not divergences[-1]["goes_back"]
    found = [
        find_missing_events(state, attempts, recorded=recorded, unplanned=unplanned),
        find_unreadable(unreadable),
        _not_finished(run_id, state, plan, totals),
        _diverged(divergences),
        *_without_records(workers),
        _lr_differs(audit, plan, is_followed=is_followed),
        *(_no_loss(workers) if not is_stopped else ()),  # said already, and of every rank
        _restarts(attempts),
        _checkpoint_passed_over(events),
        _checkpoint_failed(events),
        _batch_beyond_noise_scale(attempts, noise),
    ]
    return tuple(verdict for verdict in found if verdict is not None)


def _not_finished(run_id: str, state: RunState, plan: Plan, totals: Totals) -> Verdict | None:
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
            RunState.FAILED: f"Read the error below, mend its cause, and go on: scaler resume {run_id}.",
            RunState.STOPPED: f"Go on from its newest checkpoint: scaler resume {run_id}.",
        }.get(state, "Report again when it has ended."),
    )


def _diverged(divergences: Sequence[Mapping[str, Any]]) -> Verdict | None:
    """The guard of the loss stopped the run, or it went back to a checkpoint."""
    if not divergences:
        return None
    times = sum(event["goes_back"] for event in divergences)
    back = _times(times)
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


def _lr_differs(audit: LrAudit, plan: Plan, *, is_followed: bool) -> Verdict | None:
    """A fault of the recipe where the optimizer did not follow its loop; else of the loop, or of altered files."""
    if audit.as_planned is not False:
        return None
    error = audit.max_abs_error
    difference = "a rate that is no number" if error is None else f"largest difference {error:.3g}"
    return Verdict(
        code="lr_differs_from_plan",
        rank=None,
        message="The rate that the training planned is not the one that the job and the events give."
        if is_followed
        else "The optimizer did not use the planned learning rate.",
        evidence=f"{difference} at a peak of {highest_peak(plan):g}",
        next="See whether the run's job, plan.json or events.jsonl were altered; if not, it is a fault of scaler."
        if is_followed
        else "Look for code in the recipe that writes the optimizer's lr.",
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
    """Lives that ended by a fault and were followed; a resize, a preemption or a stop is none."""
    lost = [attempt for attempt in attempts[:-1] if attempt.ended_by in _FAULTS]
    if not lost:
        return None
    counts = {ended_by: sum(row.ended_by == ended_by for row in lost) for ended_by in _FAULTS}
    kinds = {ended_by: count for ended_by, count in counts.items() if count}
    whys = ", ".join(
        f"{count} {_FAULTS[ended_by]}" if len(lost) > 1 else _FAULTS[ended_by] for ended_by, count in kinds.items()
    )
    ends = [
        f"attempt {row.attempt} ended at {plural(row.end_samples + row.redone_samples, 'sample')}{_why(row)}"
        for row in lost[:SHOWN_ENDS]
    ]
    rest = [f"{len(lost) - SHOWN_ENDS} more"] if len(lost) > SHOWN_ENDS else []
    return Verdict(
        code="restarts",
        rank=None,
        message=f"The worker group was restarted {_times(len(lost))}{':' if len(lost) > 1 else ''} {whys}.",
        evidence=joined(*ends, *rest, _cost(lost)),
        next=" ".join(_restart_advice(ended_by, attempts) for ended_by in kinds)
        + " No sample in the weights was lost or counted twice.",
    )


_FAULTS = {
    "hung": "after a hang",
    "out_of_memory": "for want of memory",
    "lost": "after the loss of a worker",
    "failed": "after an error",
    "killed": "after the loss of the driver",
}


def _why(row: AttemptRow) -> str:
    return f": {row.cause}" if row.cause is not None else ""


def _cost(rows: Sequence[AttemptRow]) -> str:
    """What restarts took, in all."""
    again = sum(row.redone_samples for row in rows)
    took = [row.restart_s for row in rows if row.restart_s is not None]
    cost = [f"{plural(again, 'sample')} done again in {seconds(sum(row.redone_s for row in rows))}"] if again else []
    cost += [f"restarting took {seconds(sum(took))}"] if took else []
    return ", ".join(cost) or "no recorded work was done again"


def _restart_advice(ended_by: str, attempts: Sequence[AttemptRow]) -> str:
    """What to do about one kind of fault."""
    match ended_by:
        case "hung":
            return "Read the log of the rank that hung, logs/rank-N.log in the run's folder: it holds the stack."
        case "out_of_memory":
            fits = attempts[-1].per_worker_batch_size
            fitted = f": {fits} fitted at the end" if fits is not None else ""
            return f"Begin with a smaller scale.per_worker_batch_size{fitted}."
        case "failed":
            return "Read the log of the rank that failed, logs/rank-N.log in the run's folder."
        case "killed":
            return "See why the process that drove the run went: its machine, or its terminal."
        case _:
            return "Look at the cluster's nodes and at the workers' memory."


def _checkpoint_passed_over(events: Sequence[Mapping[str, Any]]) -> Verdict | None:
    """A checkpoint that could not be gone on from, and what was gone on from instead."""
    bad = [(index, event) for index, event in enumerate(events) if event["kind"] == "checkpoint_passed_over"]
    if not bad:
        return None
    shown = [
        f"at {plural(event['samples_seen'], 'sample')}: {one_line(event['reason'])}" for _, event in bad[-SHOWN_ENDS:]
    ]
    starts = [event["start_samples"] for event in events[bad[-1][0] :] if event["kind"] == "attempt_started"]
    were = "was" if len(bad) == 1 else "were"
    went_on = []
    if starts:
        at = f"the checkpoint at {plural(starts[0], 'sample')}" if starts[0] else "the start of training"
        went_on = [f"went on from {at}"]
    return Verdict(
        code="checkpoint_passed_over",
        rank=None,
        message=f"{plural(len(bad), 'checkpoint')} could not be read, and {were} passed over.",
        evidence=joined(*shown, *went_on),
        next="See what the storage did to it: it is still there, renamed *.bad. The work since the one before was done "
        "again.",
    )


def _checkpoint_failed(events: Sequence[Mapping[str, Any]]) -> Verdict | None:
    """Checkpoints that could not be written; the training went on."""
    failed = [event for event in events if event["kind"] == "checkpoint_failed"]
    if not failed:
        return None
    last = failed[-1]
    return Verdict(
        code="checkpoint_failed",
        rank=None,
        message=f"{plural(len(failed), 'checkpoint')} could not be written; the training went on.",
        evidence=f"the last at {plural(last['samples_seen'], 'sample')}: {one_line(last['reason'])}",
        next="Make room where the run lies, or see that its storage can be written: a restart goes on from the newest "
        "checkpoint that was.",
    )


def _times(count: int) -> str:
    return f"{count} time{'s' if count > 1 else ''}"


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
