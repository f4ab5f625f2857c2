"""What is known of a run while it runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from scaler.metrics.events import AttemptStarted, Evaluated, Event
from scaler.metrics.means import Mean
from scaler.metrics.record import Record

WINDOW_S = 5.0  # the recent speed is of the last one to two of these, in step time
MOST_WORKERS = 32  # that a look carries: more than a screen has room for
RECENT = ("samples", "step_time_s")  # what the speed is made of
OWN_RATIO = 1.25  # a worker whose own time is this many times the others' median stands out ...
OWN_SHARE = 0.1  # ... if what it takes longer is also this share of the step: else nobody waits for long


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerLook:
    """One worker, recently. Times are of a step, means over the last seconds."""

    rank: int
    samples_per_s: float | None
    loss: float | None  # of its newest step
    step_time_s: float
    data_wait_s: float
    compute_s: float
    sync_wait_s: float
    peak_memory_gib: float

    @property
    def own_s(self) -> float:
        """What others wait for: its time before the synchronisation."""
        return self.data_wait_s + self.compute_s


@dataclass(frozen=True, kw_only=True, slots=True)
class Straggler:
    """The worker that makes the others wait; times of a step."""

    rank: int
    own_s: float
    others_s: float  # the median of the others
    waits_for_data: bool  # most of the difference is data wait; else it is compute


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """A look at a running job; None means not known yet."""

    attempt: int | None = None
    world_size: int | None = None
    samples_seen: int = 0  # as far as the slowest worker has handed over
    progress: float = 0.0  # likewise, in samples of the reference's training: samples_seen, unless rule: adascale
    lr: float | None = None
    loss_mean: float | None = None  # mean over ranks of each one's newest step, by the loss's weight
    samples_per_s: float | None = None  # of all workers, in the last seconds, over step times, mean over ranks
    evals: Mapping[str, float | None] = field(default_factory=dict)
    workers: Sequence[WorkerLook] = ()  # at most ``MOST_WORKERS``, by own time: the slowest first
    straggler: Straggler | None = None  # None: nobody stands out


@dataclass(slots=True)
class _Sums:
    """One worker's steps of some seconds."""

    steps: int = 0
    samples: int = 0
    step_time_s: float = 0.0
    data_wait_s: float = 0.0
    compute_s: float = 0.0
    sync_wait_s: float = 0.0


@dataclass(slots=True)
class _Worker:
    """One worker's newest record, and its sums of this window and the one before."""

    newest: Record
    worth: float = 1.0  # progress in a sample of the newest step but one
    now: _Sums = field(default_factory=_Sums)
    before: _Sums = field(default_factory=_Sums)

    def add(self, record: Record) -> None:
        samples = record.samples_seen - self.newest.samples_seen
        if samples > 0:
            self.worth = (record.progress - self.newest.progress) / samples
        self.newest = record
        if self.now.step_time_s >= WINDOW_S:
            self.before, self.now = self.now, _Sums()
        sums = self.now
        sums.steps += record.steps
        sums.samples += record.samples
        sums.step_time_s += record.step_time_s
        sums.data_wait_s += record.data_wait_s
        sums.compute_s += record.compute_s
        sums.sync_wait_s += record.sync_wait_s

    def recent(self, what: str) -> float:
        """Return one of the sums over the last seconds."""
        return float(getattr(self.now, what) + getattr(self.before, what))

    def look(self) -> WorkerLook:
        now, before = self.now, self.before
        steps, step_time_s = now.steps + before.steps, now.step_time_s + before.step_time_s
        return WorkerLook(
            rank=self.newest.rank,
            samples_per_s=(now.samples + before.samples) / step_time_s if step_time_s > 0 else None,
            loss=self.newest.loss,
            step_time_s=step_time_s / steps,
            data_wait_s=(now.data_wait_s + before.data_wait_s) / steps,
            compute_s=(now.compute_s + before.compute_s) / steps,
            sync_wait_s=(now.sync_wait_s + before.sync_wait_s) / steps,
            peak_memory_gib=self.newest.peak_memory_gib,
        )


class ProgressTracker:
    """Keeps the newest of what passes by, so that a look costs little and memory does not grow."""

    def __init__(self) -> None:
        self._attempt: AttemptStarted | None = None
        self._workers: dict[int, _Worker] = {}
        self._evals: Mapping[str, float | None] = {}

    def add(self, records: Sequence[Record], events: Sequence[Event]) -> None:
        """Look at what one worker handed over."""
        for event in events:
            if isinstance(event, AttemptStarted):
                self._attempt = event
                self._workers = {}
            elif isinstance(event, Evaluated):
                self._evals = event.values
        for record in records:
            if self._attempt is not None and record.attempt != self._attempt.attempt:
                continue
            worker = self._workers.get(record.rank)
            if worker is None:
                worker = self._workers[record.rank] = _Worker(record)
            worker.add(record)

    def look(self) -> Progress:
        """Return what is known now."""
        if self._attempt is None:
            return Progress(evals=self._evals)
        attempt, world_size = self._attempt.attempt, self._attempt.world_size
        if not self._workers or len(self._workers) != world_size:
            return Progress(attempt=attempt, world_size=world_size, evals=self._evals)
        newest = [worker.newest for worker in self._workers.values()]
        last = min(self._workers.values(), key=lambda worker: worker.newest.samples_seen)
        loss = Mean()
        for record in newest:
            loss.add(record.loss, record.loss_weight)
        size = sum(record.samples for record in newest)
        looks = sorted((worker.look() for worker in self._workers.values()), key=lambda look: (-look.own_s, look.rank))
        samples, worker_s = (sum(worker.recent(what) for worker in self._workers.values()) for what in RECENT)
        return Progress(
            attempt=attempt,
            world_size=world_size,
            samples_seen=last.newest.samples_seen + size,
            progress=last.newest.progress + last.worth * size,
            lr=last.newest.lr,
            loss_mean=loss.value,
            samples_per_s=samples / (worker_s / world_size) if worker_s > 0 else None,
            evals=self._evals,
            workers=tuple(looks[:MOST_WORKERS]),
            straggler=find_straggler(looks),
        )


def find_straggler(looks: Sequence[WorkerLook]) -> Straggler | None:
    """Return the first of workers, sorted by own time, if the others wait for it: ``OWN_RATIO`` and ``OWN_SHARE``."""
    if len(looks) < 2:
        return None
    worst, others = looks[0], looks[1:]
    others_s = median(look.own_s for look in others)
    longer_s = worst.own_s - others_s
    if worst.own_s < OWN_RATIO * others_s or longer_s < OWN_SHARE * worst.step_time_s or longer_s <= 0:
        return None
    data_s = worst.data_wait_s - median(look.data_wait_s for look in others)
    return Straggler(rank=worst.rank, own_s=worst.own_s, others_s=others_s, waits_for_data=data_s > longer_s / 2)
