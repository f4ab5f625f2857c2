"""Compute the learning rates of each attempt again, from jobs, plans and events and not from the records.

A checkpoint holds what the controllers decided before it. So an attempt starts with the decisions of the newest earlier
attempt that trained up to its start.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isclose
from operator import itemgetter

from scaler.core.plateau import Plateau, PlateauState
from scaler.core.resize_ramp import ResizeRamp, ramp_after
from scaler.errors import PlanError
from scaler.job import Job
from scaler.metrics.events import (
    OWN_LOOP,
    AttemptStarted,
    BatchGrown,
    Diverged,
    Evaluated,
    Event,
    LrLowered,
    WorkerStarted,
    of_type,
)
from scaler.plan import Plan, grow, regrow

RAMP_TOLERANCE = 1e-9  # relative, of a ramp's factor

_PLACE = itemgetter(0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Decided:
    """What the controllers had decided when the run had seen some number of samples."""

    plateau: PlateauState = field(default_factory=PlateauState)
    follows: bool = True  # whether the state of the plateau controller is known: every evaluation had a value
    guard: float = 1.0  # factor on the learning rate after returns to a checkpoint
    times: int = 0  # returns to a checkpoint
    # Samples seen where the batch grew with the noise, and its size over the size at the start of training.
    growth: tuple[tuple[int, float], ...] = ()

    @property
    def factor(self) -> float:
        """The factor on the planned learning rate."""
        return self.plateau.factor * self.guard


@dataclass(kw_only=True, slots=True)
class ReplayedAttempt:
    """One attempt, with the decisions and learning rates that it should have had."""

    attempt: int
    start: int
    job: Job
    plan: Plan  # with the phases in which the batch grew
    is_own_loop: bool  # whether a loop of one's own decided how many samples each step has
    is_known: bool  # whether its decisions at the start are known: no earlier attempt lacks its events
    ramp: ResizeRamp | None = None  # rewarmup by the rule
    reported_ramp: ResizeRamp | None = None  # rewarmup in its event; the same unless something is wrong
    decided: list[tuple[int, Decided]] = field(default_factory=list)  # by samples seen, ascending
    contradiction: float = 0.0  # largest error of the learning rate, by events against evaluations

    def at(self, samples_seen: int) -> Decided:
        """Return what was decided before the step that starts after ``samples_seen`` samples."""
        return self.decided[bisect_right(self.decided, samples_seen, key=_PLACE) - 1][1]

    def lr(self, samples_seen: int, ramp: ResizeRamp | None, *, samples: int) -> float:
        """Return the learning rate of a step, equal to the loop's to the last digit.

        Args:
            samples_seen: samples in the weights before the step.
            ramp: the rewarmup; None: there is none.
            samples: in the step, as recorded; it counts where a loop of one's own decided it.
        """
        return self._with(
            self.plan.lr_at(samples_seen, samples=samples if self.is_own_loop else None), samples_seen, ramp
        )

    def whole_step_lr(self, samples_seen: int, ramp: ResizeRamp | None) -> float:
        """Return the learning rate of a step with a whole batch that starts after ``samples_seen`` samples."""
        return self._with(self.plan.whole_step_lr_at(samples_seen), samples_seen, ramp)

    def _with(self, planned: float, samples_seen: int, ramp: ResizeRamp | None) -> float:
        lr = planned * self.at(samples_seen).factor  # in the loop's order of operations
        return lr * ramp.at(samples_seen) if ramp is not None else lr


def replay(
    events: Sequence[Event],
    jobs: Mapping[int, Job],
    plans: Mapping[int, Plan],
    *,
    recorded: Sequence[int],
    known_from: int = 0,
) -> dict[int, ReplayedAttempt]:
    """Return each attempt by its number, with the learning rates that it should have used.

    Args:
        events: of the run, with the starts of short attempts.
        jobs: each job of the run, by the first attempt that used it.
        plans: of each attempt, with the batch as planned.
        recorded: the attempts that have records.
        known_from: samples seen up to which no controller has decided anything, also where the run began from a
            checkpoint of another run.
    """
    starts = of_type(events, AttemptStarted)
    missing = set(recorded) - {start.attempt for start in starts}
    attempts: list[ReplayedAttempt] = []
    for start in starts:
        attempt, begin = start.attempt, start.start_samples
        source = next((replayed for replayed in reversed(attempts) if replayed.start < begin), None)
        replayed = ReplayedAttempt(
            attempt=attempt,
            start=begin,
            job=jobs[max(first for first in jobs if first <= attempt)],
            plan=plans[attempt],
            is_own_loop=start.data_order == OWN_LOOP,
            is_known=not any(other < attempt for other in missing)
            and (begin <= known_from or (source is not None and source.is_known)),
        )
        decided = source.at(begin) if source is not None else Decided()
        replayed.plan = regrow(replayed.plan, replayed.job, decided.growth)
        replayed.decided = [(begin, decided)]
        _set_ramp(replayed, start, source, attempts)
        if attempts and _has_returned(attempts[-1], events, attempt):
            replayed.decided = [(begin, _lowered(decided, attempts[-1].decided[-1][1].times + 1, replayed.job))]
        _decide(replayed, [event for event in events if event.attempt == attempt])
        attempts.append(replayed)
    return {replayed.attempt: replayed for replayed in attempts}


def _has_returned(before: ReplayedAttempt, events: Sequence[Event], attempt: int) -> bool:
    """Whether an attempt has the same workers as the one before it, which diverged and returned to a checkpoint.

    New workers know only the checkpoint, which does not have a divergence that came after it.
    """
    diverged = any(event.goes_back and event.attempt == before.attempt for event in of_type(events, Diverged))
    return diverged and not any(event.attempt == attempt for event in of_type(events, WorkerStarted))


def _lowered(decided: Decided, times: int, job: Job) -> Decided:
    divergence = job.failures.divergence
    return replace(decided, times=times, guard=divergence.lr_factor**times if divergence is not None else 1.0)


def _decide(replayed: ReplayedAttempt, events: Sequence[Event]) -> None:
    """Add the decisions of an attempt's events: evaluations, lowered learning rates, and batches that grew."""
    wanted = replayed.job.schedule.plateau
    plateau = Plateau(**wanted.model_dump(exclude={"metric"})) if wanted is not None else None
    seen_at = None
    for event in events:
        now = replayed.decided[-1][1]
        match event:
            case Evaluated() if plateau is not None and wanted is not None and now.follows:
                value = event.values.get(wanted.metric)
                seen_at = event.samples_seen
                state = plateau.step(now.plateau, value) if value is not None else now.plateau
                replayed.decided.append((seen_at, replace(now, plateau=state, follows=value is not None)))
            case LrLowered() if seen_at == event.samples_seen and now.follows:
                wrong = abs(event.factor - now.plateau.factor) * max(phase.peak_lr for phase in replayed.plan.phases)
                replayed.contradiction = max(replayed.contradiction, wrong)
            case LrLowered():
                state = replace(now.plateau, factor=event.factor)
                replayed.decided.append((event.samples_seen, replace(now, plateau=state)))
            case BatchGrown():
                at, size = event.samples_seen, event.global_batch_size
                factor = size / replayed.plan.phases[0].global_batch_size
                replayed.plan = grow(replayed.plan, replayed.job, samples_seen=at, global_batch_size=size)
                replayed.decided.append((at, replace(now, growth=(*now.growth, (at, factor)))))


def _set_ramp(
    replayed: ReplayedAttempt,
    start: AttemptStarted,
    source: ReplayedAttempt | None,
    earlier: Sequence[ReplayedAttempt],
) -> None:
    """Set the rewarmup that an attempt's event has, and the one by the rule."""
    try:
        reported = ResizeRamp.from_dict(start.ramp)
    except (PlanError, KeyError, TypeError, ValueError):
        reported = None
    # There is a checkpoint of the start itself only where training may return to it; any attempt may have written it.
    sources = [source] if source is not None else [other for other in earlier if other.start == replayed.start]
    right = [_ramp_after(other, replayed, reported) for other in sources]
    if source is None:
        right.insert(0, None)
    if not replayed.is_known:
        right = [reported]
    replayed.ramp = right[0]
    replayed.reported_ramp = reported
    for ramp in right:
        if _is_same(replayed.reported_ramp, ramp):
            replayed.ramp = replayed.reported_ramp  # equal to the last digit
            break


def _ramp_after(source: ReplayedAttempt, replayed: ReplayedAttempt, reported: ResizeRamp | None) -> ResizeRamp | None:
    """The rewarmup of an attempt that starts from another's checkpoint, by the rule, from the other's learning rate.

    With adascale the gain is part of both learning rates and in no event: there the reported factor is used.
    """
    at, plan, rewarmup = replayed.start, replayed.plan, replayed.job.scale.rewarmup
    if source.plan.phase_at(at).global_batch_size == plan.phase_at(at).global_batch_size:
        return source.ramp
    if rewarmup is None:
        return None
    length = plan.rewarmup_samples
    if plan.is_measured or source.plan.is_measured:
        return ResizeRamp(start=at, stop=at + length, factor=reported.factor) if reported is not None else None
    before, now = source.whole_step_lr(at, source.ramp), replayed.whole_step_lr(at, None)
    return ramp_after(before, now, above=rewarmup.above, start=at, length=length)


def _is_same(reported: ResizeRamp | None, right: ResizeRamp | None) -> bool:
    if reported is None or right is None:
        return reported is right
    places = (reported.start, reported.stop) == (right.start, right.stop)
    return places and isclose(reported.factor, right.factor, rel_tol=RAMP_TOLERANCE)
