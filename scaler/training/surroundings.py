"""What training sees of the world around it: this small protocol, and nothing else.

``cluster/worker.py`` implements it on Ray Train; ``here.py`` for one worker in this process, so that a job runs under a
debugger and the loop is tested in milliseconds.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch

from scaler.metrics.record import Record
from scaler.runs import RunFolder


class Surroundings(Protocol):
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
    def device(self) -> torch.device:
        """Where this worker's model lives."""

    @property
    def folder(self) -> RunFolder:
        """The run's folder; training writes ``checkpoints/`` there and nothing else."""

    def next_attempt(self) -> int:
        """Begin another attempt and return its number; called on rank 0, when the group goes back to a checkpoint."""

    def hand_over(self, records: Sequence[Record], events: Sequence[Mapping[str, Any]]) -> None:
        """Pass records and events on, without waiting for anyone."""

    def settle(self) -> None:
        """Wait until what was handed over has arrived; called before a checkpoint, so that its work has its records."""

    def stop_requested(self) -> bool:
        """Whether somebody asked this run to stop, as far as this worker knows."""
