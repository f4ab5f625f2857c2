"""A worker of a run without a cluster: for benchmarks and tests that train in this process."""

from collections.abc import Callable, Sequence

import torch

from scaler.metrics.events import Event
from scaler.metrics.record import Record
from scaler.runs import RunFolder
from scaler.training.worker_context import Leave

NEVER_STOP = 10**9


class Kept:
    """A worker context (``scaler.training.worker_context``) that keeps everything in memory.

    Args:
        rank: of the worker.
        world_size: workers.
        folder: of the run, for checkpoints.
        stop_after: records after which the worker is asked to stop.
    """

    device = torch.device("cpu")

    def __init__(self, rank: int, world_size: int, folder: str, *, stop_after: int = NEVER_STOP) -> None:
        self.rank, self.world_size, self.folder, self.attempt = rank, world_size, RunFolder(folder), 0
        self.records: list[Record] = []
        self.events: list[Event] = []
        self._stop_after = stop_after

    def hand_over(self, records: Sequence[Record], events: Sequence[Event], *, samples_seen: int) -> None:
        self.records.extend(records)
        self.events.extend(events)

    def next_attempt(self) -> int:
        return self.attempt + 1

    def wanted_steps(self, steps: int) -> int:
        return steps

    def secure(self, samples_seen: int, *, give_up: Callable[[], bool]) -> None:
        """Everything that was handed over has arrived."""

    def leave_requested(self) -> Leave:
        return Leave.STOP if len(self.records) >= self._stop_after else Leave.NOT
