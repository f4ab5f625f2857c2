"""The audit of the learning rate: used by the optimizers, planned by the loop, and computed from plan and events."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaler.plan import Plan
from scaler.report.run.lr_replay import ReplayedAttempt
from scaler.report.run.model import LrAudit
from scaler.report.run.step_arrays import Columns, chosen

LR_TOLERANCE = 1e-9  # share of the peak; one formula evaluated twice differs far less


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditedLrs:
    """The audit, and what verdicts need besides it."""

    audit: LrAudit
    is_followed: bool  # whether every optimizer used the learning rate that its loop planned
    unplanned: tuple[int, ...]  # attempts whose plan is not known, because events are missing


def audit_lrs(steps: Columns, replayed: Mapping[int, ReplayedAttempt], plan: Plan) -> AuditedLrs:
    """Return the audit of the used learning rates against the planned ones, and of these against ones computed again.

    The learning rate computed again is that of the attempt's plan, times the factors of plateau and divergence, times
    the rewarmup after a resize. The plan is made from the job, the factors are replayed from evaluations and events,
    and the rewarmup follows its rule from the attempt before. A factor or a rewarmup that differs in an event counts as
    the error that it makes in the learning rate.

    Two values come from the training alone. With ``rule: adascale`` no event has the gain: there the learning rate that
    was used is compared with the recorded one only, and a rewarmup with its rule except for its factor. Where the batch
    follows the noise, its growth is taken from the event; its learning rate is computed again.

    Args:
        steps: those in the weights: see ``StepArrays.kept``.
        replayed: each attempt, by its number.
        plan: of the run.
    """
    attempts = np.unique(steps["attempt"]).tolist()
    unplanned = tuple(attempt for attempt in attempts if not replayed[attempt].is_known)
    steps = chosen(steps, ~np.isin(steps["attempt"], unplanned))
    if not len(steps["samples_seen"]):
        audit = LrAudit(checked_steps=0, max_abs_error=None, as_planned=None)
        return AuditedLrs(audit=audit, is_followed=True, unplanned=unplanned)
    used = [steps["lr_error"].max()]
    starts = {
        attempt: min((later.start for later in replayed.values() if later.attempt > attempt), default=None)
        for attempt in attempts
    }
    errors = [
        _plan_error(steps, replayed[attempt], until=starts[attempt]) for attempt in attempts if attempt not in unplanned
    ]
    error, bound = float(np.max(used + errors)), LR_TOLERANCE * highest_peak(plan)  # not finite when one of them is not
    return AuditedLrs(
        audit=LrAudit(
            checked_steps=len(steps["samples_seen"]),
            max_abs_error=error if np.isfinite(error) else None,
            as_planned=error <= bound,
        ),
        is_followed=bool(used[0] <= bound),
        unplanned=unplanned,
    )


def _plan_error(steps: Columns, attempt: ReplayedAttempt, *, until: int | None) -> float:
    """The largest difference between an attempt's planned learning rates and the learning rates computed again.

    Args:
        steps: of all attempts, without those that were done again.
        attempt: the attempt.
        until: samples seen where work of the attempt was done again; None: none was.
    """
    theirs = chosen(steps, steps["attempt"] == attempt.attempt)
    seen = theirs["samples_seen"]
    right_ramp = attempt.reported_ramp is attempt.ramp
    if attempt.plan.is_measured:
        if right_ramp:
            return 0.0
        ramps = [
            np.array([ramp.at(at) if ramp is not None else 1.0 for at in seen.tolist()])
            for ramp in (attempt.ramp, attempt.reported_ramp)
        ]
        return float((np.abs(ramps[0] - ramps[1]) * theirs["lr_planned"]).max())
    sizes, is_known = _step_sizes(theirs, attempt, until=until)
    theirs, seen = chosen(theirs, is_known), seen[is_known]
    if not len(seen):
        return attempt.contradiction
    steps_taken = list(zip(seen.tolist(), sizes[is_known].tolist(), strict=True))
    lrs = np.array([attempt.lr(at, attempt.ramp, samples=size) for at, size in steps_taken])
    errors = [np.abs(theirs[name] - lrs).max() for name in ("lr_planned_min", "lr_planned_max")]
    errors.append(attempt.contradiction)
    if not right_ramp:
        reported = np.array([attempt.lr(at, attempt.reported_ramp, samples=size) for at, size in steps_taken])
        errors.append(np.abs(reported - lrs).max())
    return float(np.max(errors))


def _step_sizes(
    steps: Columns, attempt: ReplayedAttempt, *, until: int | None
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the samples of each step of an attempt, and whether they are known.

    After a crash, the newest records of some workers are missing. Then a step ends where the next one begins.

    Args:
        steps: of the attempt, ascending.
        attempt: the attempt.
        until: samples seen where the next attempt begins; None: there is none.
    """
    sizes, seen = steps["samples"].astype(np.int64), steps["samples_seen"].astype(np.int64)
    if not attempt.is_own_loop:  # the plan says how many samples a step has
        return sizes, np.ones(len(sizes), dtype=np.bool_)
    ends = np.append(seen[1:], seen[-1] if until is None else until)
    is_whole = steps["workers"] == attempt.plan.world_size
    return np.where(is_whole, sizes, ends - seen), is_whole | (ends > seen)


def highest_peak(plan: Plan) -> float:
    """Return the largest peak learning rate of the plan's phases."""
    return max(phase.peak_lr for phase in plan.phases)
