"""The audit of the learning rate: what the optimizers used, what the loop planned, what the plan and the events say."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from scaler.plan import Plan
from scaler.report.run.lr_replay import ReplayedAttempt
from scaler.report.run.model import LrAudit
from scaler.report.run.step_arrays import Columns, chosen

LR_TOLERANCE = 1e-9  # of the peak: floats of one formula evaluated twice agree far better


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditedLrs:
    """The audit, and what a verdict needs beside it."""

    audit: LrAudit
    is_followed: bool  # every optimizer used what its loop planned: a difference is between loop and plan
    unplanned: tuple[int, ...]  # attempts whose plan is not known for want of events


def audit_lrs(steps: Columns, lives: Mapping[int, ReplayedAttempt], plan: Plan) -> AuditedLrs:
    """Compare every record of every worker with the rate planned at its step, and that with the rate made again.

    Made again: the rate of the attempt's plan, times the factors of plateau and divergence, times the ramp after a
    resize. The plan is made from the job, the factors are replayed from evaluations and events, and the ramp by its
    rule from the life before; a ramp or a factor that an event tells otherwise is an error of the rates that it makes.

    Two things have no other evidence than the training's own. With ``rule: adascale`` no event tells the gain: there
    the used rate is compared with the recorded plan alone, and of a ramp everything but its factor with the rule. And
    where the batch follows the noise, that it grew is taken from the event; its rate is made again.

    Args:
        steps: those in the weights, each with the extremes of what its workers recorded: see ``StepArrays.kept``.
        lives: of the run, by attempt.
        plan: of the run.
    """
    attempts = np.unique(steps["attempt"]).tolist()
    unplanned = tuple(attempt for attempt in attempts if not lives[attempt].is_known)
    steps = chosen(steps, ~np.isin(steps["attempt"], unplanned))
    if not len(steps["samples_seen"]):
        audit = LrAudit(checked_steps=0, max_abs_error=None, as_planned=None)
        return AuditedLrs(audit=audit, is_followed=True, unplanned=unplanned)
    used = [steps["lr_error"].max()]
    errors = [_plan_error(steps, lives[attempt]) for attempt in attempts if attempt not in unplanned]
    error, bound = float(np.max(used + errors)), LR_TOLERANCE * highest_peak(plan)  # no number, when one is none
    return AuditedLrs(
        audit=LrAudit(
            checked_steps=len(steps["samples_seen"]),
            max_abs_error=error if np.isfinite(error) else None,
            as_planned=error <= bound,
        ),
        is_followed=bool(used[0] <= bound),
        unplanned=unplanned,
    )


def _plan_error(steps: Columns, life: ReplayedAttempt) -> float:
    """The largest difference of a life's planned rates from those made again."""
    theirs = chosen(steps, steps["attempt"] == life.attempt)
    seen = theirs["samples_seen"]
    right_ramp = life.reported_ramp is life.ramp
    if life.plan.is_measured:
        if right_ramp:
            return 0.0
        ramps = [
            np.array([ramp.at(at) if ramp is not None else 1.0 for at in seen.tolist()])
            for ramp in (life.ramp, life.reported_ramp)
        ]
        return float((np.abs(ramps[0] - ramps[1]) * theirs["lr_planned"]).max())
    rates = np.array([life.rate(at, life.ramp) for at in seen.tolist()])
    errors = [np.abs(theirs[name] - rates).max() for name in ("lr_planned_min", "lr_planned_max")]
    errors.append(life.contradiction)
    if not right_ramp:
        told = np.array([life.rate(at, life.reported_ramp) for at in seen.tolist()])
        errors.append(np.abs(told - rates).max())
    return float(np.max(errors))


def highest_peak(plan: Plan) -> float:
    """Return the greatest peak rate of the plan's phases."""
    return max(phase.peak_lr for phase in plan.phases)
