"""A worker's place in a group on a cluster, and the context that training gets there. This module imports no Ray."""

from collections.abc import Callable, Sequence
from time import monotonic, sleep, time
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from scaler.cluster.mailbox import Mailbox
from scaler.cluster.messages import AttemptStart, Upload, UploadReply
from scaler.cluster.review import Decision, is_due
from scaler.errors import ClusterError
from scaler.metrics.events import Evaluated, Event, LeaveRequested, of_type
from scaler.metrics.record import Record
from scaler.runs import RunFolder
from scaler.runs.filesystems import STORAGE_PATIENCE_S

if TYPE_CHECKING:
    from scaler.training.worker_context import Leave

SUPERSEDED_S = 15.0  # training waits this long for a checkpoint whose records are not written when the next is due
SECURE_POLL_S, MOST_SECURE_POLL_S = 0.05, 0.5  # the second is for many workers, which upload less often
DECISION_POLL_S = 0.02

T = TypeVar("T")


class Group(Protocol):
    """A worker's place in its group, and its way to the other workers and to the collector."""

    rank: int
    world_size: int
    local_rank: int  # among the workers of this node
    local_world_size: int
    node_rank: int

    def begin_attempt(self, *, is_new_group: bool = True) -> AttemptStart:
        """Begin the run's next attempt; called by rank 0."""

    def deliver(self, upload: Upload) -> UploadReply | None:
        """Send an upload to the collector and return its reply; None: the collector cannot be reached now."""

    def is_secured(self, attempt: int, *, samples_seen: int) -> bool:
        """Return whether all records of an attempt's workers up to ``samples_seen`` are in the run's folder."""

    def decision(self, samples_seen: int) -> Decision | None:
        """Return whether the run continues after an evaluation at ``samples_seen``; None: it is not decided yet."""

    def broadcast(self, value: T) -> T:
        """Return rank 0's value on every worker; each worker calls this."""

    def host(self) -> str:
        """Return the address of rank 0 for the other workers; called by rank 0."""

    def device(self, gpus: float) -> Any:
        """Return the torch device of this worker, which has ``gpus`` GPUs."""

    def has_been_terminated(self) -> bool:
        """Return whether this process was asked to end with SIGTERM."""

    def preempted_ranks(self) -> Sequence[int]:
        """Return the ranks whose nodes are about to be taken away."""


class GroupWorker:
    """The worker context in a group on a cluster: rank, world size, device, and the way to the collector."""

    def __init__(
        self,
        group: Group,
        folder: RunFolder,
        mailbox: Mailbox,
        *,
        attempt: int,
        device: Any,
        places: Sequence[int] = (),
    ) -> None:
        self.rank, self.world_size, self.attempt, self.device = group.rank, group.world_size, attempt, device
        self.folder = folder
        self._group, self._mailbox = group, mailbox
        self._noticed: set[str] = set()
        self._places, self._evaluated, self._reviewed = places, 0, 0  # in samples seen

    def next_attempt(self) -> int:
        """Begin another attempt with the same workers; return its number."""
        return self._group.begin_attempt(is_new_group=False).attempt

    def hand_over(self, records: Sequence[Record], events: Sequence[Event], *, samples_seen: int) -> None:
        """Give records and events to the mailbox."""
        self._mailbox.put(records, events, attempt=self.attempt, samples_seen=samples_seen)
        self._evaluated = max([self._evaluated, *(event.samples_seen for event in of_type(events, Evaluated))])

    def wanted_steps(self, steps: int) -> int:
        """Return how many steps a record should stand for; more than now if the collector is late."""
        return self._mailbox.wanted_steps(steps)

    def secure(self, samples_seen: int, *, give_up: Callable[[], bool]) -> None:
        """Wait until the collector has written the records of every worker up to ``samples_seen``."""
        began, pause_s = monotonic(), SECURE_POLL_S
        while not self._group.is_secured(self.attempt, samples_seen=samples_seen):
            waited_s = monotonic() - began
            if waited_s > (SUPERSEDED_S if give_up() else STORAGE_PATIENCE_S):
                raise ClusterError(
                    f"records up to {samples_seen} samples are not in the run's folder after {waited_s:.0f} s.",
                    "Check the driver's node and the storage.",
                )
            sleep(pause_s)
            pause_s = min(2 * pause_s, MOST_SECURE_POLL_S)

    def leave_requested(self) -> "Leave":
        """Return whether to leave: the collector asks, this process got SIGTERM, or the group will lose a node."""
        from scaler.training.worker_context import Leave

        if self._is_refused():
            return Leave.STOP
        asked = self._mailbox.leave
        if asked == "stop":
            return Leave.STOP
        if self._group.has_been_terminated():
            self._notice("sigterm", f"rank {self.rank}")
        preempted = self._group.preempted_ranks()
        if preempted:
            self._notice("preemption", f"the node of rank {', '.join(map(str, preempted))}")
        return Leave.YIELD if asked or self._noticed else Leave.NOT

    def _is_refused(self) -> bool:
        """Wait for the decision after an evaluation, where the run has one; return whether the run is to stop."""
        if self.rank or not is_due(self._places, before=self._reviewed, now=self._evaluated):
            return False
        self._reviewed = self._evaluated
        self._mailbox.wait_taken(within_s=STORAGE_PATIENCE_S)
        while (decision := self._group.decision(self._evaluated)) is None:
            sleep(DECISION_POLL_S)
        return decision == "stop"

    def _notice(self, why: str, detail: str) -> None:
        if why not in self._noticed:
            self._noticed.add(why)
            event = LeaveRequested(time=time(), attempt=self.attempt, why=why, detail=detail)
            self._mailbox.put([], [event], attempt=None)
