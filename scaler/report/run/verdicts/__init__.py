"""What the numbers say: each verdict with its evidence and the next thing to do. ``docs/verdicts.md`` lists them."""

from scaler.report.run.missing_data import find_missing_events, find_unreadable
from scaler.report.run.model import Verdict
from scaler.report.run.verdicts.batch import batch_beyond_noise_scale
from scaler.report.run.verdicts.curve import Curve
from scaler.report.run.verdicts.data import loss_not_checked, uneven_data
from scaler.report.run.verdicts.ending import diverged, not_finished, without_records
from scaler.report.run.verdicts.evidence import Evidence
from scaler.report.run.verdicts.learning_rate import lr_differs, lr_maybe_too_low, rate_trouble
from scaler.report.run.verdicts.loss import no_loss, overfitting, plateaued, spiked, still_falling
from scaler.report.run.verdicts.memory import memory_near_limit
from scaler.report.run.verdicts.recording import records_thinned, tracking_failed
from scaler.report.run.verdicts.restarts import checkpoint_failed, checkpoint_passed_over, restarts
from scaler.report.run.verdicts.stragglers import find_stragglers, slow_steps, straggler_verdicts
from scaler.report.run.verdicts.waiting import input_bound, low_efficiency, slow_startup, sync_bound

GRAVEST_FIRST = (
    "events_missing",
    "records_unreadable",
    "not_finished",
    "diverged",
    "worker_without_records",
    "lr_differs_from_plan",
    "loss_not_finite",
    "uneven_data",
    "lr_too_high",
    "warmup_too_short",
    "loss_spiked",
    "loss_plateaued",
    "overfitting",
    "restarts",
    "checkpoint_passed_over",
    "checkpoint_failed",
    "memory_near_limit",
    "slow_node",
    "straggler",
    "slow_steps",
    "input_bound",
    "sync_bound",
    "low_efficiency",
    "slow_startup",
    "tracking_failed",
    "records_thinned",
    "loss_not_checked",
    "loss_still_falling",
    "lr_maybe_too_low",
    "batch_beyond_noise_scale",
)
"""Every code there is."""


def find_verdicts(evidence: Evidence) -> tuple[Verdict, ...]:
    """Return what is worth saying about a run, the gravest first; nothing is a good answer."""
    found = [
        *_of_the_run(evidence),
        *_of_the_loss(evidence),
        *_of_the_time(evidence),
    ]
    verdicts = [verdict for verdict in found if verdict is not None]
    return tuple(sorted(verdicts, key=lambda verdict: GRAVEST_FIRST.index(verdict.code)))


def _of_the_run(evidence: Evidence) -> list[Verdict | None]:
    """How it went, and what is missing."""
    events, attempts = evidence.events, evidence.attempts
    recorded = evidence.arrays.attempts.tolist()
    return [
        find_missing_events(evidence.state, attempts, recorded=recorded, unplanned=evidence.unplanned),
        find_unreadable(evidence.unreadable),
        not_finished(evidence),
        diverged(evidence.of_kind("diverged")),
        *without_records(evidence),
        restarts(evidence),
        checkpoint_passed_over(events),
        checkpoint_failed(events),
        memory_near_limit(evidence),
        tracking_failed(events),
        records_thinned(events),
        loss_not_checked(events),
    ]


def _of_the_loss(evidence: Evidence) -> list[Verdict | None]:
    """What was learned, and whether rate, warmup, batch and data were right for it.

    A range test climbs until the loss goes astray: what its loss does is its result, and no verdict.
    """
    audited = [lr_differs(evidence.audit, evidence.plan, is_followed=evidence.is_followed), *no_loss(evidence)]
    if evidence.plan.purpose == "find_lr":
        return audited
    curve = Curve.of(evidence.arrays)
    jumps = curve.jumps()
    trouble = rate_trouble(evidence, curve, jumps)
    overfit = overfitting(evidence, curve)
    plateau = plateaued(evidence, curve, trouble.verdict)
    too_low = lr_maybe_too_low(curve, jumps) if trouble.verdict is None else None
    return [
        *audited,
        trouble.verdict,
        spiked(curve, trouble.jumps),
        plateau,
        overfit,
        still_falling(evidence, curve, [trouble.verdict, plateau, overfit]),
        too_low,
        uneven_data(evidence.arrays),
        batch_beyond_noise_scale(evidence.attempts, evidence.noise),
    ]


def _of_the_time(evidence: Evidence) -> list[Verdict | None]:
    """Who waited for whom, and for what."""
    stragglers = find_stragglers(evidence.arrays)
    return [
        *straggler_verdicts(evidence, stragglers),
        slow_steps(evidence.arrays),
        input_bound(evidence),
        sync_bound(evidence, stragglers),
        low_efficiency(evidence.scaling, evidence.totals),
        slow_startup(evidence),
    ]
