"""Run one worker of Ray Train: its place in Ray Train's group, and its way to the collector."""

from collections.abc import Sequence
from typing import Any, TypeVar

import ray
import ray.train
import ray.train.collective

from scaler.cluster import attempt
from scaler.cluster.attempt import Assignment
from scaler.cluster.mailbox import deliver_to
from scaler.cluster.messages import AttemptStart
from scaler.cluster.ray_internals import get_train_context
from scaler.cluster.restart_signals import Yielded
from scaler.cluster.review import Decision
from scaler.cluster.termination import has_been_terminated
from scaler.cluster.worker_device import assigned_device

T = TypeVar("T")


class RayTrainGroup:
    """A worker's place in a group of Ray Train.

    Args:
        assignment: has the collector's actor handle.
    """

    def __init__(self, assignment: Assignment) -> None:
        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.local_rank, self.local_world_size = context.get_local_rank(), context.get_local_world_size()
        self.node_rank = context.get_node_rank()
        self._collector = assignment.collector
        self.deliver = deliver_to(assignment.collector)

    def begin_attempt(self, *, is_new_group: bool = True) -> AttemptStart:
        """Begin the run's next attempt."""
        begun: AttemptStart = ray.get(self._collector.begin_attempt.remote(is_new_group=is_new_group))
        return begun

    def is_secured(self, attempt: int, *, samples_seen: int) -> bool:
        """Ask the collector."""
        asked = self._collector.is_secured.remote(attempt, world_size=self.world_size, samples_seen=samples_seen)
        return bool(ray.get(asked))

    def decision(self, samples_seen: int) -> Decision | None:
        """Ask the collector."""
        found: Decision | None = ray.get(self._collector.decision.remote(samples_seen))
        return found

    def broadcast(self, value: T) -> T:
        """Return rank 0's value."""
        found: T = ray.train.collective.broadcast_from_rank_zero(value)
        return found

    def host(self) -> str:
        """Return the loopback when all workers are on this node, otherwise the node's address."""
        if self.local_world_size == self.world_size:
            return "127.0.0.1"
        return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]

    def device(self, gpus: float) -> Any:
        """Return the torch device of the GPU that Ray assigned, or of the CPU."""
        return assigned_device(gpus)

    def has_been_terminated(self) -> bool:
        """Return whether SIGTERM came."""
        return has_been_terminated()

    def preempted_ranks(self) -> Sequence[int]:
        """Return the ranks that Ray's notice of preemption names; Ray Train gives it to every worker."""
        notice = get_train_context().preemption_context.preemption_info
        return [] if notice is None else list(notice.preempted_ranks)


def work(assignment: Assignment) -> bool:
    """Train; the function that Ray Train runs in every worker.

    Returns:
        Whether training is complete; False when it was stopped.

    Raises:
        Restart: Ray Train is to start the group again, from the newest checkpoint.
    """
    group = RayTrainGroup(assignment)
    reason = attempt.work(assignment, group)
    if reason == "yielded":
        ray.train.collective.barrier()  # Ray Train ends all workers as soon as one raises
        raise Yielded(f"all {group.world_size} workers saved and left")
    return reason == "finished"
