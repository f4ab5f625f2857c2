"""What training sees of the world around it: this small protocol, and nothing else.

``cluster/worker.py`` implements it on Ray Train; ``here.py`` for one worker in this process, so that a job runs under a
debugger and the loop is tested in milliseconds.
"""

from collections.abc import Sequence
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Protocol

from scaler.metrics.events import Event
from scaler.metrics.record import Record
from scaler.runs import RunFolder

if TYPE_CHECKING:
    import torch  # who only asks a group to leave, as the cluster does, need not load it


class Leave(IntEnum):
    """What a worker was asked; where workers were asked different things, the highest counts for all."""

    NOT = 0
    YIELD = 1
    """Save, and make room: the group will be started again from there, of the same or of another size."""
    STOP = 2
    """Save, and stop: somebody wants the run to end here."""


class AttemptEnd(StrEnum):
    """How a call of ``Training.run`` ended."""

    FINISHED = "finished"
    YIELDED = "yielded"
    STOPPED = "stopped"


class WorkerContext(Protocol):
    """One worker's place in its group, and where its records, events and checkpoints go."""

    attempt: int
    """The life of the worker group inside the run; the first is 0. Going back to a checkpoint begins another."""

    @property
    def rank(self) -> int:
        """This worker's number in the group, in [0, world_size)."""

    @property
    def world_size(self) -> int:
        """Workers in the group; with more than one, torch's default process group is there."""

    @property
    def device(self) -> "torch.device":
        """Where this worker's model lives."""

    @property
    def folder(self) -> RunFolder:
        """The run's folder; training writes ``checkpoints/`` there and nothing else."""

    def next_attempt(self) -> int:
        """Begin another attempt and return its number; called on rank 0, when the group goes back to a checkpoint."""

    def hand_over(self, records: Sequence[Record], events: Sequence[Event], *, samples_seen: int) -> None:
        """Pass records and events on, without waiting for anyone; they are all there are up to ``samples_seen``."""

    def wanted_steps(self, steps: int) -> int:
        """How many steps a record should stand for, where it stands for ``steps`` now.

        More than ``steps`` when what was handed over does not arrive fast enough. Training never waits for it: all
        workers agree on the greatest wish, and merge as many steps into a record from then on.
        """

    def secure(self, samples_seen: int) -> None:
        """Wait until every worker's records up to ``samples_seen`` are in the run's folder.

        Called on rank 0, in a thread of its own, before a checkpoint counts: its work has its records, whoever dies.

        Raises:
            ClusterError: they do not arrive.
        """

    def leave_requested(self) -> Leave:
        """Whether somebody asked this worker to leave, as far as it knows."""
