"""Measure the progress of a run while it runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from scaler.metrics.events import AttemptStarted, Evaluated, Event, WorkerStarted
from scaler.metrics.mean import Mean
from scaler.metrics.record import Record

WINDOW_S = 5.0  # recent values are means over the last 1 to 2 windows of this much step time
MOST_WORKERS = 32  # in one ``Progress``: more than fit on a screen
RECENT = ("samples", "step_time_s")  # names of the sums from which the throughput is computed
OWN_RATIO = 1.25  # a worker is a straggler if its own time is this many times the others' median ...
OWN_SHARE = 0.1  # ... and if the difference is at least this share of the step time


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerProgress:
    """One worker's recent steps; times are means over the last seconds, in seconds a step."""

    rank: int  # of the worker
    samples_per_s: float | None  # over the last seconds; None: not known yet
    loss: float | None  # of the worker's newest step
    step_time_s: float  # the whole step
    data_wait_s: float  # waiting for the next batch
    compute_s: float  # forward and backward, before the all-reduce
    sync_wait_s: float  # from the worker's last gradient to the end of the all-reduce
    peak_memory_gib: float  # largest so far: of the GPU; without a GPU, of the process

    @property
    def own_s(self) -> float:
        """The worker's time before the synchronisation, in seconds a step: other workers wait for it."""
        return self.data_wait_s + self.compute_s


@dataclass(frozen=True, kw_only=True, slots=True)
class CurrentStraggler:
    """The worker that the others wait for now; times are seconds a step."""

    rank: int  # of the worker
    own_s: float  # its data wait and compute
    others_s: float  # the median of the others
    waits_for_data: bool  # most of the difference is data wait; otherwise it is compute


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """The progress of a run; None means not known yet."""

    attempt: int | None = None  # number of the attempt; the first is 0
    world_size: int | None = None  # workers in this attempt
    workers_started: int = 0  # workers that have joined the newest group; their recipes may not be built yet
    samples_seen: int = 0  # up to what the slowest worker has uploaded
    progress: float = 0.0  # the same in samples of the reference's training; equals samples_seen except with adascale
    lr: float | None = None  # of the newest step
    loss_mean: float | None = None  # mean over ranks of each rank's newest step, weighted by loss_weight
    samples_per_s: float | None = None  # of all workers over the last seconds: samples / mean step time of the ranks
    evals: Mapping[str, float | None] = field(default_factory=dict)  # of the newest evaluation
    evaluated_at: int | None = None  # the samples seen at the newest evaluation
    workers: Sequence[WorkerProgress] = ()  # at most ``MOST_WORKERS``, sorted by own time, the slowest first
    straggler: CurrentStraggler | None = None  # the worker that the others wait for; None: there is none


@dataclass(slots=True)
class _Sums:
    """Sums over one worker's steps in one window."""

    steps: int = 0
    samples: int = 0
    step_time_s: float = 0.0
    data_wait_s: float = 0.0
    compute_s: float = 0.0
    sync_wait_s: float = 0.0


@dataclass(slots=True)
class _Worker:
    """One worker's newest record, and its sums over this window and the last one."""

    newest: Record
    progress_per_sample: float = 1.0  # in the step before the newest one
    now: _Sums = field(default_factory=_Sums)
    before: _Sums = field(default_factory=_Sums)

    def add(self, record: Record) -> None:
        samples = record.samples_seen - self.newest.samples_seen
        if samples > 0:
            self.progress_per_sample = (record.progress - self.newest.progress) / samples
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

    def recent(self, name: str) -> float:
        """Return one of the sums over the last seconds."""
        return float(getattr(self.now, name) + getattr(self.before, name))

    def progress(self) -> WorkerProgress:
        now, before = self.now, self.before
        steps, step_time_s = now.steps + before.steps, now.step_time_s + before.step_time_s
        return WorkerProgress(
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
    """Computes the progress from records and events, with constant memory a worker."""

    def __init__(self) -> None:
        self._attempt: AttemptStarted | None = None
        self._group: tuple[int, set[int]] = (-1, set())  # the newest attempt of a group, and the ranks that joined it
        self._workers: dict[int, _Worker] = {}
        self._evals: Mapping[str, float | None] = {}
        self._evaluated_at: int | None = None

    def add(self, records: Sequence[Record], events: Sequence[Event]) -> None:
        """Take records and events of one worker."""
        for event in events:
            if isinstance(event, AttemptStarted):
                self._attempt = event
                self._workers = {}
            elif isinstance(event, WorkerStarted):
                if event.attempt > self._group[0]:
                    self._group = (event.attempt, set())
                self._group[1].add(event.rank)
            elif isinstance(event, Evaluated):
                self._evals, self._evaluated_at = event.values, event.samples_seen
        for record in records:
            if self._attempt is not None and record.attempt != self._attempt.attempt:
                continue
            worker = self._workers.get(record.rank)
            if worker is None:
                worker = self._workers[record.rank] = _Worker(record)
            worker.add(record)

    def progress(self) -> Progress:
        """Return the progress now."""
        evaluation: Any = {
            "workers_started": len(self._group[1]),
            "evals": self._evals,
            "evaluated_at": self._evaluated_at,
        }
        if self._attempt is None:
            return Progress(**evaluation)
        attempt, world_size = self._attempt.attempt, self._attempt.world_size
        if not self._workers or len(self._workers) != world_size:
            return Progress(attempt=attempt, world_size=world_size, **evaluation)
        newest = [worker.newest for worker in self._workers.values()]
        last = min(self._workers.values(), key=lambda worker: worker.newest.samples_seen)
        loss = Mean()
        for record in newest:
            loss.add(record.loss, record.loss_weight)
        size = sum(record.samples for record in newest)
        workers = [worker.progress() for worker in self._workers.values()]
        workers.sort(key=lambda worker: (-worker.own_s, worker.rank))
        samples, worker_s = (sum(worker.recent(name) for worker in self._workers.values()) for name in RECENT)
        return Progress(
            attempt=attempt,
            world_size=world_size,
            samples_seen=last.newest.samples_seen + size,
            progress=last.newest.progress + last.progress_per_sample * size,
            lr=last.newest.lr,
            loss_mean=loss.value,
            samples_per_s=samples / (worker_s / world_size) if worker_s > 0 else None,
            **evaluation,
            workers=tuple(workers[:MOST_WORKERS]),
            straggler=find_straggler(workers),
        )


def find_straggler(workers: Sequence[WorkerProgress]) -> CurrentStraggler | None:
    """Return the worker that the others wait for, by ``OWN_RATIO`` and ``OWN_SHARE``, or None.

    Args:
        workers: sorted by own time, the slowest first.
    """
    if len(workers) < 2:
        return None
    worst, others = workers[0], workers[1:]
    others_s = median(worker.own_s for worker in others)
    longer_s = worst.own_s - others_s
    if worst.own_s < OWN_RATIO * others_s or longer_s < OWN_SHARE * worst.step_time_s or longer_s <= 0:
        return None
    data_s = worst.data_wait_s - median(worker.data_wait_s for worker in others)
    return CurrentStraggler(rank=worst.rank, own_s=worst.own_s, others_s=others_s, waits_for_data=data_s > longer_s / 2)
