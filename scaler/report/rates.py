"""The audit of the learning rate: what the optimizers used, what the loop planned, what the plan says."""

from collections.abc import Mapping

import numpy as np

from scaler.core.ramp import Ramp
from scaler.plan import Plan
from scaler.report.model import LrAudit
from scaler.report.steps import Columns

LR_TOLERANCE = 1e-9  # of the peak: floats of one formula evaluated twice agree far better


def audit_rates(
    columns: Columns, steps: Columns, plans: Mapping[int, Plan], ramps: Mapping[int, Ramp], plan: Plan
) -> LrAudit:
    """Compare every record of every worker with the rate planned at its step, and that with the plan made again.

    The second only where nothing reacts to measurements: elsewhere no plan knows the rate beforehand.

    Args:
        columns: the records of work that is in the weights.
        steps: the same, by step.
        plans: of each attempt.
        ramps: of each attempt that began with one.
        plan: of the run.
    """
    if not len(steps["samples_seen"]):
        return LrAudit(checked_steps=0, max_abs_error=None, as_planned=None)
    errors = [np.abs(columns["lr"] - columns["lr_planned"]).max()]
    for attempt in np.unique(columns["attempt"]).tolist():
        if plans[attempt].reacts:
            continue
        seen = steps["samples_seen"][steps["attempt"] == attempt]
        by_plan = np.array([_planned(samples, plans[attempt], ramps.get(attempt)) for samples in seen.tolist()])
        theirs = columns["attempt"] == attempt
        position = np.searchsorted(seen, columns["samples_seen"][theirs])
        errors.append(np.abs(columns["lr_planned"][theirs] - by_plan[position]).max())
    error = float(np.max(errors))  # no number, when one is none
    return LrAudit(
        checked_steps=len(steps["samples_seen"]),
        max_abs_error=error if np.isfinite(error) else None,
        as_planned=error <= LR_TOLERANCE * highest_peak(plan),
    )


def _planned(samples_seen: int, plan: Plan, ramp: Ramp | None) -> float:
    """The rate of a step where nothing reacts, by the loop's order of operations: equal to the last digit."""
    rate = plan.lr_at(samples_seen)
    return rate * ramp.at(samples_seen) if ramp is not None else rate


def highest_peak(plan: Plan) -> float:
    """Return the greatest peak rate of the plan's phases."""
    return max(phase.peak_lr for phase in plan.phases)
