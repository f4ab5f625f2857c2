"""Collect the records and events of all workers in one process, and write them to the run's folder.

The process may die: Ray starts it again, and it recovers its state from the run's folder. Workers keep each batch until
it is in the folder, and send it again to a collector that does not have it (``mailbox.py``). Batches that arrive twice
are written once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import monotonic, time

from scaler.cluster.messages import AttemptStart, LeaveReason, Trouble, Upload, UploadBatch, UploadReply
from scaler.cluster.progress import Progress, ProgressTracker
from scaler.cluster.recovered_state import RecoveredState, limit_after
from scaler.cluster.review import Decision
from scaler.errors import ScalerError
from scaler.job.tracking import Tracking
from scaler.metrics.events import Event, GroupEnded, LeaveRequested, WorkerFailed, WorkerHung, WorkerStarted, of_type
from scaler.metrics.writer import MetricsWriter
from scaler.runs import RunFolder, RunState
from scaler.runs.filesystems import STORAGE_PATIENCE_S, reason

FLUSH_S = 0.5  # between two flushes ...
AWAITED_S = 0.05  # ... and while a worker waits for one, so that it can end
UPLOADS_PER_S = 200  # of all workers together; each of 1000 workers then uploads every 5 s
ACTIVE_S = 30.0  # a worker that uploaded within this time counts as active
FORGET_S = 600.0  # a worker that has not uploaded for this long is forgotten
MOST_NOTICES = 20
MOST_TROUBLES = 50  # kept for the status, which is sent several times a second; the newest ones show why a run ended


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectorStatus:
    """What the driver needs to know of a run."""

    progress: Progress
    troubles: Sequence[Trouble]  # the newest
    notices: Sequence[str]  # sentences for the user, on versions that differ
    storage: str  # why nothing could be written for ``STORAGE_PATIENCE_S``; empty: the folder can be written
    storage_remedy: str  # what to do about it


@dataclass(kw_only=True, slots=True)
class _Sender:
    """One worker in one attempt."""

    taken: int = 0  # number of its newest batch that arrived
    written: int = 0  # number of its newest batch in the folder
    heard_at: float = 0.0


class Collector:
    """Takes what workers upload, without making them wait; a Ray actor, or a plain object in tests.

    Args:
        folder: the run's folder; only the collector writes its ``metrics/`` and ``events.jsonl``.
        opening: events to write first, such as ``resumed``.
        tracking: the job's trackers.
    """

    def __init__(self, folder: RunFolder, opening: Sequence[Event] = (), tracking: Tracking | None = None) -> None:
        self._recovered = RecoveredState(folder)
        self._writer = MetricsWriter(folder, tracking)
        self._tracker = ProgressTracker()
        self._attempts = self._recovered.attempts
        self._micro_batch_limit = self._recovered.micro_batch_limit
        self._leave: LeaveReason | None = None
        self._troubles: list[Trouble] = []
        self._notices: dict[str, None] = {}  # in the order in which they came
        self._requests: set[tuple[int | None, str, str]] = set()
        self._senders: dict[str, _Sender] = {}
        self._rest_s = 0.0
        # By attempt and rank: the samples seen up to which records were received, and up to which they were written.
        self._reached: dict[tuple[int | None, int], int] = {}
        self._secured: dict[tuple[int | None, int], int] = {}
        self._flushed_at = monotonic()
        self._unwritten_since: float | None = None
        self._problem, self._remedy = "", ""
        self._decided: tuple[int, Decision] = (0, "continue")
        began_before = all(self._recovered.has(event) for event in opening)
        for event in opening:
            self._take_event(event)
        if began_before:  # this replaces a collector that died during the same submit or resume
            self._leave = self._recovered.leave
            self._troubles = [event for event in self._recovered.events if isinstance(event, Trouble)][-MOST_TROUBLES:]
            self._tracker.add([], self._recovered.of_newest_attempt)
        self._flush()

    def begin_attempt(self, *, is_new_group: bool = True) -> AttemptStart:
        """Begin the next attempt; return its number and its limit of the micro-batch.

        Args:
            is_new_group: False if the same workers return to a checkpoint; then a request to leave stays valid.
        """
        if is_new_group and self._leave != "stop":
            self._leave = None
        self._attempts += 1
        self._forget()
        return AttemptStart(attempt=self._attempts - 1, micro_batch_limit=self._micro_batch_limit)

    def hand_over(self, upload: Upload) -> UploadReply:
        """Take one worker's records and events; batches that arrived before are skipped."""
        sender = self._senders.setdefault(upload.sender, _Sender())
        sender.heard_at = monotonic()
        sender.taken, sender.written = max(sender.taken, upload.written), max(sender.written, upload.written)
        attempt, samples_seen = upload.written_to
        self._secured[attempt, upload.rank] = max(self._secured.get((attempt, upload.rank), 0), samples_seen)
        for batch in upload.batches:
            if batch.number == sender.taken + 1:  # a batch after a missing one will be sent again
                self._take(batch, upload.rank)
                sender.taken = batch.number
        self._flush_when_due(AWAITED_S if upload.is_awaited else FLUSH_S)
        return UploadReply(taken=sender.taken, written=sender.written, leave=self._leave, rest_s=self._rest_s)

    def is_secured(self, attempt: int, *, world_size: int, samples_seen: int) -> bool:
        """Return whether all records of an attempt's workers up to ``samples_seen`` are in the folder."""
        workers = [(attempt, rank) for rank in range(world_size)]
        have_arrived = all(max(self._reached.get(who, 0), self._secured.get(who, 0)) >= samples_seen for who in workers)
        if have_arrived and not all(self._secured.get(who, 0) >= samples_seen for who in workers):
            self._flush()
        return all(self._secured.get(who, 0) >= samples_seen for who in workers)

    def decide(self, samples_seen: int, decision: Decision) -> None:
        """Take the decision on an evaluation at ``samples_seen``, and on earlier ones."""
        self._decided = (samples_seen, decision)

    def decision(self, samples_seen: int) -> Decision | None:
        """Return the decision on an evaluation at ``samples_seen``; None: there is none yet."""
        place, decision = self._decided
        return decision if place >= samples_seen else None

    def request_leave(self, why: LeaveReason, detail: str) -> None:
        """Ask the workers to save a checkpoint and leave, at a step that they agree on."""
        if self._leave != "stop":
            self._leave = why
        self.note(LeaveRequested(time=time(), attempt=None, why=why, detail=detail))

    def note(self, event: LeaveRequested | WorkerHung | GroupEnded, *, witnesses: Sequence[int] = ()) -> None:
        """Add an event of the driver or of Ray Train's controller, which do not know the attempt.

        Args:
            event: its attempt is set by this method.
            witnesses: ranks that reported the loss of a peer; the other ranks are the lost ones.
        """
        event = replace(event, attempt=self._attempts - 1 if self._attempts else None)
        if witnesses and isinstance(event, GroupEnded):
            everybody = range(self._tracker.progress().world_size or 0)
            event = replace(event, ranks=[rank for rank in everybody if rank not in witnesses] or list(witnesses))
        self._take_event(event)
        self._flush_when_due()

    def samples_at_loss(self, died: Sequence[int]) -> tuple[bool, int | None]:
        """Return where the newest attempt was when it lost workers, as the survivors reported it.

        A worker that loses a peer uploads all its records: those of the steps before the one in which the peer died.

        Args:
            died: the ranks that are gone.

        Returns:
            Whether more survivors may still report, and the samples seen, or None if no survivor has reported.
        """
        attempt, failed = self._attempts - 1, of_type(self._troubles, WorkerFailed)
        survivors = {event.rank for event in failed if event.attempt == attempt and event.by_peer}
        reached = [samples for rank in survivors if (samples := self._reached.get((attempt, rank))) is not None]
        return len(survivors) + len(died) < (self._tracker.progress().world_size or 0), max(reached, default=None)

    def status(self) -> CollectorStatus:
        """Return the run's progress and troubles."""
        self._flush_when_due()
        is_failing = self._unwritten_since is not None and monotonic() - self._unwritten_since > STORAGE_PATIENCE_S
        return CollectorStatus(
            progress=self._tracker.progress(),
            troubles=self._troubles,
            notices=list(self._notices),
            storage=self._problem if is_failing else "",
            storage_remedy=self._remedy,
        )

    def close(self, state: RunState | None = None) -> None:
        """Write everything that is left; the trackers get the final ``state`` of the run."""
        self._writer.close(state)

    def _take(self, batch: UploadBatch, rank: int) -> None:
        for event in batch.events:  # before the records, because an attempt begins with an event
            self._take_event(event)
        records = self._recovered.new_records(batch.records)
        self._tracker.add(records, [])
        self._writer.add(records)
        self._reached[batch.attempt, rank] = batch.samples_seen

    def _take_event(self, event: Event) -> None:
        if self._recovered.has(event) or self._is_known_request(event):
            return
        if event.attempt is not None:
            self._attempts = max(self._attempts, event.attempt + 1)
        if isinstance(event, Trouble):
            self._troubles = [*self._troubles, event][-MOST_TROUBLES:]
        if isinstance(event, WorkerStarted) and len(self._notices) < MOST_NOTICES:
            self._notices.update(dict.fromkeys(event.differences or ()))
        self._micro_batch_limit = limit_after(self._micro_batch_limit, event)
        self._tracker.add([], [event])
        self._writer.add_event(event)

    def _is_known_request(self, event: Event) -> bool:
        """Return whether another worker has sent the same request: each of the group reports a preemption."""
        if not isinstance(event, LeaveRequested):
            return False
        request = (event.attempt, event.why, event.detail)
        if request in self._requests:
            return True
        self._requests.add(request)
        return False

    def _forget(self) -> None:
        """Forget workers and attempts that ended long ago, when another attempt begins."""
        now = monotonic()
        self._senders = {name: who for name, who in self._senders.items() if now - who.heard_at < FORGET_S}
        for marks in (self._reached, self._secured):
            for attempt, rank in list(marks):
                if attempt is not None and attempt < self._attempts - 2:
                    del marks[attempt, rank]

    def _flush_when_due(self, after_s: float = FLUSH_S) -> None:
        if monotonic() - self._flushed_at >= after_s:
            self._flush()

    def _flush(self) -> None:
        """Write what has arrived. What cannot be written is kept for the next flush."""
        self._flushed_at = monotonic()
        active = sum(self._flushed_at - sender.heard_at < ACTIVE_S for sender in self._senders.values())
        self._rest_s = active / UPLOADS_PER_S
        taken = [(sender, sender.taken) for sender in self._senders.values()]
        reached = dict(self._reached)
        try:
            self._writer.flush()
            self._unwritten_since = None
            for sender, newest in taken:
                sender.written = newest
            self._secured |= reached
        except Exception as error:  # each filesystem has its own errors; if they last, the driver ends the run
            self._unwritten_since = self._unwritten_since or monotonic()
            if isinstance(error, ScalerError):
                self._problem, self._remedy = error.problem.rstrip("."), error.remedy
            else:
                self._problem = f"{type(error).__name__}: {reason(error)}"
                self._remedy = "Free space or repair the storage."
