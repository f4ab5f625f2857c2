"""The process that trains one run in a shared group. It has no Ray, and reaches everything through its host."""

from collections.abc import Sequence
from multiprocessing.connection import Connection
from time import sleep
from typing import Any, TypeVar

from scaler.cluster.attempt import Assignment, work
from scaler.cluster.kept.channel import Caller
from scaler.cluster.kept.place import Outcome, Place
from scaler.cluster.messages import AttemptStart, Upload, UploadReply
from scaler.cluster.restart_signals import LostDataProcess, Restart, first_line
from scaler.cluster.review import Decision
from scaler.training.device import cpu, gpu
from scaler.training.process_group import is_lost_peer

T = TypeVar("T")
POLL_S = 0.01


class HostedGroup:
    """A worker's place in a shared group.

    Args:
        call: calls functions of the host.
        place: of this worker.
    """

    def __init__(self, call: Caller, place: Place) -> None:
        self._call, self._place = call, place
        self.rank, self.world_size = place.rank, place.world_size
        self.local_rank, self.local_world_size = place.local_rank, place.local_world_size
        self.node_rank = place.node_rank

    def begin_attempt(self, *, is_new_group: bool = True) -> AttemptStart:
        """Begin the run's next attempt."""
        begun: AttemptStart = self._call("begin_attempt", is_new_group=is_new_group)
        return begun

    def deliver(self, upload: Upload) -> UploadReply | None:
        """Send an upload to the collector."""
        reply: UploadReply | None = self._call("deliver", upload)
        return reply

    def is_secured(self, attempt: int, *, samples_seen: int) -> bool:
        """Ask the collector."""
        return bool(self._call("is_secured", attempt, world_size=self.world_size, samples_seen=samples_seen))

    def decision(self, samples_seen: int) -> Decision | None:
        """Ask the collector."""
        found: Decision | None = self._call("decision", samples_seen)
        return found

    def broadcast(self, value: T) -> T:
        """Return rank 0's value, which its host keeps. If rank 0 is gone, the host ends this process."""
        if self.rank == 0:
            self._call("agree", value)
            return value
        while (found := self._call("agreed")) is None:
            sleep(POLL_S)
        agreed: T = found[0]
        return agreed

    def host(self) -> str:
        """Return the address of rank 0's node."""
        return self._place.address

    def device(self, gpus: float) -> Any:
        """Return the torch device of this worker's GPU, or of the CPU."""
        return cpu() if self._place.gpu is None else gpu(self._place.gpu)

    def has_been_terminated(self) -> bool:
        """Return False: SIGTERM goes to the host."""
        return False

    def preempted_ranks(self) -> Sequence[int]:
        """Return nothing: a node that is taken away is noticed when its worker is gone."""
        return []


def train(connection: "Connection[Any, Any]") -> None:
    """Train what the host at the other end assigns, and tell it how that ended."""
    call = Caller(connection)
    assignment, place = call("begin")
    call("end", _outcome(assignment, HostedGroup(call, place)))


def _outcome(assignment: Assignment, group: HostedGroup) -> Outcome:
    try:
        return Outcome(ended=work(assignment, group))
    except Restart as error:
        return Outcome(ended="restart", message=first_line(error))
    except LostDataProcess as error:
        return Outcome(ended="died", message=first_line(error))
    except Exception as error:
        return Outcome(ended="lost_peer" if is_lost_peer(error) else "failed", message=first_line(error))
