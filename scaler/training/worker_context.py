"""The protocol between training and the process around it. Training uses nothing else of Ray or of the process.

``cluster/group.py`` implements it on a cluster. ``in_process.py`` implements it for one worker in this process, so
that a job runs under a debugger and tests of the loop take milliseconds.
"""

from collections.abc import Callable, Sequence
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Protocol

from scaler.metrics.events import Event
from scaler.metrics.record import Record
from scaler.runs import RunFolder

if TYPE_CHECKING:
    import torch  # the cluster imports this module without loading torch


class Leave(IntEnum):
    """What a worker was asked to do. If workers were asked different things, the highest value counts for all."""

    NOT = 0
    YIELD = 1
    """Save and exit: the group is started again from the checkpoint, with the same or another number of workers."""
    STOP = 2
    """Save and stop: the run ends here."""


class AttemptEnd(StrEnum):
    """How a call of ``Training.run`` ended."""

    FINISHED = "finished"
    YIELDED = "yielded"
    STOPPED = "stopped"


class WorkerContext(Protocol):
    """One worker's place in its group, and where its records, events and checkpoints go."""

    attempt: int
    """The attempt of the worker group in the run; the first is 0. Going back to a checkpoint begins another one."""

    @property
    def rank(self) -> int:
        """This worker's number in the group, in [0, world_size)."""

    @property
    def world_size(self) -> int:
        """Workers in the group; if there are more than one, torch's default process group exists."""

    @property
    def device(self) -> "torch.device":
        """The device of this worker's model."""

    @property
    def folder(self) -> RunFolder:
        """The run's folder; training writes to its ``checkpoints/`` only."""

    def next_attempt(self) -> int:
        """Begin another attempt and return its number. Rank 0 calls this when training goes back to a checkpoint."""

    def hand_over(self, records: Sequence[Record], events: Sequence[Event], *, samples_seen: int) -> None:
        """Pass on records and events without waiting: all that are not passed on yet, up to ``samples_seen``."""

    def wanted_steps(self, steps: int) -> int:
        """Return how many steps one record should cover; it covers ``steps`` now.

        The result is more than ``steps`` if the collector does not take records fast enough. Training never waits for
        the collector: all workers agree on the largest value, and merge that many steps into a record from then on.
        """

    def secure(self, samples_seen: int, *, give_up: Callable[[], bool]) -> None:
        """Wait until every worker's records up to ``samples_seen`` are in the run's folder.

        Rank 0 calls this in a separate thread before it completes a checkpoint. So the records of a checkpoint's steps
        exist, whichever process dies later.

        Args:
            samples_seen: of the checkpoint.
            give_up: True: training waits to write a newer checkpoint, so do not wait long for storage that is away.

        Raises:
            ClusterError: the records do not arrive.
            RunError: they cannot be written.
        """

    def leave_requested(self) -> Leave:
        """Return what this worker was asked to do, as far as it knows."""
