"""The rates of each life made again from what does not come from its rates: jobs, plans, and the run's events.

A checkpoint holds what the controllers decided up to its place, so a life begins with what the newest life before it
that trained up to there had decided by then.
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
    """What the controllers had decided by a place."""

    plateau: PlateauState = field(default_factory=PlateauState)
    follows: bool = True  # every evaluation so far had a number for the plateau, so that its state is known
    guard: float = 1.0  # what going back to checkpoints made of the rate
    times: int = 0  # how often it went back
    growth: tuple[tuple[int, float], ...] = ()  # where the batch grew with the noise, and to how many times the start's

    @property
    def factor(self) -> float:
        """What the planned rate is multiplied by."""
        return self.plateau.factor * self.guard


@dataclass(kw_only=True, slots=True)
class ReplayedAttempt:
    """One life of the worker group, as it should have gone."""

    attempt: int
    start: int
    job: Job
    plan: Plan  # with the batch as it grew
    is_known: bool  # what it began with is known: no life before it lacks its events
    ramp: ResizeRamp | None = None  # by the rule
    reported_ramp: ResizeRamp | None = None  # as its own event has it; equal to ``ramp`` unless something is wrong
    decided: list[tuple[int, Decided]] = field(default_factory=list)  # by place, ascending
    contradiction: float = 0.0  # the most by which an event of a factor differs from what evaluations say

    def at(self, samples_seen: int) -> Decided:
        """Return what was decided before the step that starts after ``samples_seen`` samples."""
        return self.decided[bisect_right(self.decided, samples_seen, key=_PLACE) - 1][1]

    def rate(self, samples_seen: int, ramp: ResizeRamp | None) -> float:
        """Return the rate of a step, by the loop's order of operations: equal to the last digit."""
        return self._with(self.plan.lr_at(samples_seen), samples_seen, ramp)

    def whole_step_lr(self, samples_seen: int, ramp: ResizeRamp | None) -> float:
        """Return the rate that a whole batch from ``samples_seen`` on would have."""
        return self._with(self.plan.whole_step_lr_at(samples_seen), samples_seen, ramp)

    def _with(self, planned: float, samples_seen: int, ramp: ResizeRamp | None) -> float:
        rate = planned * self.at(samples_seen).factor
        return rate * ramp.at(samples_seen) if ramp is not None else rate


def replay(
    events: Sequence[Event], jobs: Mapping[int, Job], plans: Mapping[int, Plan], *, recorded: Sequence[int]
) -> dict[int, ReplayedAttempt]:
    """Return each life by its attempt.

    Args:
        events: of the run, with the starts of short lives.
        jobs: each with the attempt from which on it was in force; the first from 0.
        plans: of each attempt, without what the noise made of the batch.
        recorded: the attempts that have records.
    """
    starts = of_type(events, AttemptStarted)
    missing = set(recorded) - {start.attempt for start in starts}
    lives: list[ReplayedAttempt] = []
    for start in starts:
        attempt, begin = start.attempt, start.start_samples
        source = next((life for life in reversed(lives) if life.start < begin), None)
        life = ReplayedAttempt(
            attempt=attempt,
            start=begin,
            job=jobs[max(first for first in jobs if first <= attempt)],
            plan=plans[attempt],
            is_known=not any(other < attempt for other in missing)
            and (begin == 0 or (source is not None and source.is_known)),
        )
        decided = source.at(begin) if source is not None else Decided()
        life.plan = regrow(life.plan, life.job, decided.growth)
        life.decided = [(begin, decided)]
        _set_ramp(life, start, source, lives)
        if lives and _went_back(lives[-1], events, attempt):
            life.decided = [(begin, _lowered(decided, lives[-1].decided[-1][1].times + 1, life.job))]
        _decide(life, [event for event in events if event.attempt == attempt])
        lives.append(life)
    return {life.attempt: life for life in lives}


def _went_back(before: ReplayedAttempt, events: Sequence[Event], attempt: int) -> bool:
    """Whether a life is the one before it, gone back to a checkpoint: its workers are the same, and were not started.

    New workers know only what the checkpoint says, and it says nothing of a divergence that came after it.
    """
    diverged = any(event.goes_back and event.attempt == before.attempt for event in of_type(events, Diverged))
    return diverged and not any(event.attempt == attempt for event in of_type(events, WorkerStarted))


def _lowered(decided: Decided, times: int, job: Job) -> Decided:
    divergence = job.failures.divergence
    return replace(decided, times=times, guard=divergence.lr_factor**times if divergence is not None else 1.0)


def _decide(life: ReplayedAttempt, events: Sequence[Event]) -> None:
    """Follow a life's events: evaluations that the plateau saw, cuts, and batches that grew."""
    wanted = life.job.schedule.plateau
    plateau = Plateau(**wanted.model_dump(exclude={"metric"})) if wanted is not None else None
    seen_at = None
    for event in events:
        now = life.decided[-1][1]
        match event:
            case Evaluated() if plateau is not None and wanted is not None and now.follows:
                value = event.values.get(wanted.metric)
                seen_at = event.samples_seen
                state = plateau.step(now.plateau, value) if value is not None else now.plateau
                life.decided.append((seen_at, replace(now, plateau=state, follows=value is not None)))
            case LrLowered() if seen_at == event.samples_seen and now.follows:
                wrong = abs(event.factor - now.plateau.factor) * max(phase.peak_lr for phase in life.plan.phases)
                life.contradiction = max(life.contradiction, wrong)
            case LrLowered():
                state = replace(now.plateau, factor=event.factor)
                life.decided.append((event.samples_seen, replace(now, plateau=state)))
            case BatchGrown():
                at, size = event.samples_seen, event.global_batch_size
                factor = size / life.plan.phases[0].global_batch_size
                life.plan = grow(life.plan, life.job, samples_seen=at, global_batch_size=size)
                life.decided.append((at, replace(now, growth=(*now.growth, (at, factor)))))


def _set_ramp(
    life: ReplayedAttempt, start: AttemptStarted, source: ReplayedAttempt | None, lives: Sequence[ReplayedAttempt]
) -> None:
    """Set the ramp that a life's event tells of, and the one that the rule gives."""
    try:
        told = ResizeRamp.from_dict(start.ramp)
    except (PlanError, KeyError, TypeError, ValueError):
        told = None
    # A checkpoint of the very start is there only where a training may go back to it: of whichever life was first.
    sources = [source] if source is not None else [other for other in lives if other.start == life.start]
    right = [_ramp_after(other, life, told) for other in sources]
    if source is None:
        right.insert(0, None)
    if not life.is_known:
        right = [told]
    life.ramp = right[0]
    life.reported_ramp = told
    for ramp in right:
        if _is_same(life.reported_ramp, ramp):
            life.ramp = life.reported_ramp  # to the last digit
            break


def _ramp_after(source: ReplayedAttempt, life: ReplayedAttempt, told: ResizeRamp | None) -> ResizeRamp | None:
    """The ramp that a life begins with after a checkpoint of another: by the training's rule, from the other's rates.

    Where progress is measured the gain is in both rates, and no event tells it: there the told factor is believed.
    """
    at, plan, rewarmup = life.start, life.plan, life.job.scale.rewarmup
    if source.plan.phase_at(at).global_batch_size == plan.phase_at(at).global_batch_size:
        return source.ramp
    if rewarmup is None:
        return None
    length = plan.rewarmup_samples
    if plan.is_measured or source.plan.is_measured:
        return ResizeRamp(start=at, stop=at + length, factor=told.factor) if told is not None else None
    before, now = source.whole_step_lr(at, source.ramp), life.whole_step_lr(at, None)
    return ramp_after(before, now, above=rewarmup.above, start=at, length=length)


def _is_same(told: ResizeRamp | None, right: ResizeRamp | None) -> bool:
    if told is None or right is None:
        return told is right
    places = (told.start, told.stop) == (right.start, right.stop)
    return places and isclose(told.factor, right.factor, rel_tol=RAMP_TOLERANCE)
