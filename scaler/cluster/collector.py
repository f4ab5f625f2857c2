"""The one process that every worker's records and events go to, and that writes them.

It may die: Ray starts it again, and it goes on from the run's folder. Workers keep what they handed over until it is in
the folder and send it again to a collector that does not have it (``mailbox.py``); what arrives twice is written once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import monotonic, time

from scaler.cluster.messages import Batch, Beginning, Trouble, Upload, UploadReply, Why
from scaler.cluster.progress import Progress, ProgressTracker
from scaler.cluster.recovered_state import RecoveredState, limit_after
from scaler.errors import ScalerError
from scaler.job.tracking import Tracking
from scaler.metrics.events import Event, GroupEnded, LeaveRequested, WorkerFailed, WorkerHung, of_type
from scaler.metrics.writer import MetricsWriter
from scaler.runs import RunFolder, RunState
from scaler.runs.filesystems import reason

FLUSH_S = 0.5
UPLOADS_PER_S = 200  # that are asked for; of a thousand workers, each then sends every 5 s
HEARD_S = 30.0  # who sent something within it is counted among the workers
FORGET_S = 600.0  # after this, what a life of a worker handed over is not asked for again
STORAGE_PATIENCE_S = 30.0
MOST_TROUBLES = 50  # a look is sent several times a second; the newest tell why a run ended


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What the collector knows of a run."""

    progress: Progress
    troubles: Sequence[Trouble]  # the newest
    storage: str  # why the run's folder has not taken records for ``STORAGE_PATIENCE_S``; empty when it does


@dataclass(kw_only=True, slots=True)
class _Sender:
    """What is known of one life of one worker."""

    taken: int = 0  # its newest batch that is here
    written: int = 0  # its newest batch that is in the folder
    heard_at: float = 0.0


class Collector:
    """Takes what workers hand over, without making them wait; a Ray actor, or a plain object in tests.

    Args:
        folder: the run's folder; this is the one writer of its ``metrics/`` and ``events.jsonl``.
        opening: events to begin with, such as that the run was resumed.
        tracking: the job's trackers.
    """

    def __init__(self, folder: RunFolder, opening: Sequence[Event] = (), tracking: Tracking | None = None) -> None:
        self._recovered = RecoveredState(folder)
        self._writer = MetricsWriter(folder, tracking)
        self._tracker = ProgressTracker()
        self._attempts = self._recovered.attempts
        self._micro_batch_limit = self._recovered.micro_batch_limit
        self._leave: Why | None = None
        self._troubles: list[Trouble] = []
        self._wishes: set[tuple[int | None, str, str]] = set()
        self._senders: dict[str, _Sender] = {}
        self._rest_s = 0.0
        self._reached: dict[tuple[int | None, int], int] = {}
        self._secured: dict[tuple[int | None, int], int] = {}
        self._flushed_at = monotonic()
        self._unwritten_since: float | None = None
        self._problem = ""
        began_before = all(self._recovered.has(event) for event in opening)
        for event in opening:
            self._take_event(event)
        if began_before:  # a collector that died: what it knew of this submission or resume counts still
            self._leave = self._recovered.leave
            self._troubles = [event for event in self._recovered.events if isinstance(event, Trouble)][-MOST_TROUBLES:]
            self._tracker.add([], self._recovered.of_newest_attempt)
        self._flush()

    def begin_attempt(self, *, is_new_group: bool = True) -> Beginning:
        """Count the worker group's lives on.

        Args:
            is_new_group: False when the same workers go back to a checkpoint: then what they were asked to leave for
                counts still.
        """
        if is_new_group and self._leave != "stop":
            self._leave = None
        self._attempts += 1
        self._forget()
        return Beginning(attempt=self._attempts - 1, micro_batch_limit=self._micro_batch_limit)

    def hand_over(self, parcel: Upload) -> UploadReply:
        """Take one worker's records and events; what is here already is passed over."""
        sender = self._senders.setdefault(parcel.sender, _Sender())
        sender.heard_at = monotonic()
        sender.taken, sender.written = max(sender.taken, parcel.written), max(sender.written, parcel.written)
        attempt, samples_seen = parcel.written_to
        self._secured[attempt, parcel.rank] = max(self._secured.get((attempt, parcel.rank), 0), samples_seen)
        for batch in parcel.batches:
            if batch.number == sender.taken + 1:  # one beyond a gap is asked for again
                self._take(batch, parcel.rank)
                sender.taken = batch.number
        self._flush_when_due()
        return UploadReply(taken=sender.taken, written=sender.written, leave=self._leave, rest_s=self._rest_s)

    def is_secured(self, attempt: int, *, world_size: int, samples_seen: int) -> bool:
        """Whether all records of an attempt's workers up to ``samples_seen`` are in the folder."""
        workers = [(attempt, rank) for rank in range(world_size)]
        are_here = all(max(self._reached.get(who, 0), self._secured.get(who, 0)) >= samples_seen for who in workers)
        if are_here and not all(self._secured.get(who, 0) >= samples_seen for who in workers):
            self._flush()
        return all(self._secured.get(who, 0) >= samples_seen for who in workers)

    def request_leave(self, why: Why, detail: str) -> None:
        """Ask the workers to save and leave, at a step that they agree on."""
        if self._leave != "stop":
            self._leave = why
        self.note(LeaveRequested(time=time(), attempt=None, why=why, detail=detail))

    def note(self, event: LeaveRequested | WorkerHung | GroupEnded, *, witnesses: Sequence[int] = ()) -> None:
        """Take an event of the driver or of Ray Train's controller, which do not count attempts.

        Args:
            event: its attempt is set here.
            witnesses: ranks that lost a peer, where it is not known who died: the ranks of the event are the others.
        """
        event = replace(event, attempt=self._attempts - 1 if self._attempts else None)
        if witnesses and isinstance(event, GroupEnded):
            everybody = range(self._tracker.look().world_size or 0)
            event = replace(event, ranks=[rank for rank in everybody if rank not in witnesses] or list(witnesses))
        self._take_event(event)
        self._flush_when_due()

    def survivors_stood_at(self, died: Sequence[int]) -> tuple[bool, int | None]:
        """Return where the newest attempt was when it lost workers, as far as the others have said.

        A worker that loses a peer hands over all that it has: it stands before the step in which the peer died.

        Args:
            died: the ranks that are gone.

        Returns:
            Whether more may still be said, and the samples seen; None: nobody has said so.
        """
        attempt, failed = self._attempts - 1, of_type(self._troubles, WorkerFailed)
        survivors = {event.rank for event in failed if event.attempt == attempt and event.by_peer}
        places = [place for rank in survivors if (place := self._reached.get((attempt, rank))) is not None]
        return len(survivors) + len(died) < (self._tracker.look().world_size or 0), max(places, default=None)

    def look(self) -> Look:
        """Return what is known of the run."""
        self._flush_when_due()
        failing = self._unwritten_since is not None and monotonic() - self._unwritten_since > STORAGE_PATIENCE_S
        return Look(progress=self._tracker.look(), troubles=self._troubles, storage=self._problem if failing else "")

    def close(self, state: RunState | None = None) -> None:
        """Write everything that was handed over, for the last time; ``state`` is how the run ended."""
        self._writer.close(state)

    def _take(self, batch: Batch, rank: int) -> None:
        for event in batch.events:  # first, for an attempt begins with one
            self._take_event(event)
        records = self._recovered.new_records(batch.records)
        self._tracker.add(records, [])
        self._writer.add(records)
        self._reached[batch.attempt, rank] = batch.samples_seen

    def _take_event(self, event: Event) -> None:
        if self._recovered.has(event) or self._is_known_wish(event):
            return
        if event.attempt is not None:
            self._attempts = max(self._attempts, event.attempt + 1)
        if isinstance(event, Trouble):
            self._troubles = [*self._troubles, event][-MOST_TROUBLES:]
        self._micro_batch_limit = limit_after(self._micro_batch_limit, event)
        self._tracker.add([], [event])
        self._writer.add_event(event)

    def _is_known_wish(self, event: Event) -> bool:
        """Whether a worker tells what another has told: all of a group notice that a node is about to go."""
        if not isinstance(event, LeaveRequested):
            return False
        wish = (event.attempt, event.why, event.detail)
        if wish in self._wishes:
            return True
        self._wishes.add(wish)
        return False

    def _forget(self) -> None:
        """Let go of workers and attempts that are long gone, when another attempt begins."""
        now = monotonic()
        self._senders = {name: who for name, who in self._senders.items() if now - who.heard_at < FORGET_S}
        for marks in (self._reached, self._secured):
            for attempt, rank in list(marks):
                if attempt is not None and attempt < self._attempts - 2:
                    del marks[attempt, rank]

    def _flush_when_due(self) -> None:
        if monotonic() - self._flushed_at >= FLUSH_S:
            self._flush()

    def _flush(self) -> None:
        """Write what is there. What cannot be written is kept, and tried again."""
        self._flushed_at = monotonic()
        heard = sum(self._flushed_at - sender.heard_at < HEARD_S for sender in self._senders.values())
        self._rest_s = heard / UPLOADS_PER_S
        taken = [(sender, sender.taken) for sender in self._senders.values()]
        reached = dict(self._reached)
        try:
            self._writer.flush()
            self._unwritten_since = None
            for sender, newest in taken:
                sender.written = newest
            self._secured |= reached
        except Exception as error:  # any filesystem's own; the driver ends the run when it lasts
            self._unwritten_since = self._unwritten_since or monotonic()
            if isinstance(error, ScalerError):
                self._problem = error.problem.rstrip(".")
            else:
                self._problem = f"{type(error).__name__}: {reason(error)}"
