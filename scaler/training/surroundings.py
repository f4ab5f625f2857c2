"""What training sees of the world around it: this small protocol, and nothing else.

``cluster/`` implements it on Ray Train; ``InProcess`` below implements it for one worker in this process, so that a job
runs under a debugger and the loop is tested in milliseconds.
"""

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from time import time
from typing import Any, Protocol

import torch

from scaler.metrics.record import Record
from scaler.metrics.writer import MetricsWriter
from scaler.runs import RunFolder


class Surroundings(Protocol):
    """One worker's place in its group, and where its records, events and checkpoints go."""

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
    def attempt(self) -> int:
        """The life of the worker group inside the run; the first is 0."""

    @property
    def folder(self) -> RunFolder:
        """The run's folder; training writes ``checkpoints/`` there and nothing else."""

    def hand_over(self, records: Sequence[Record], events: Sequence[Mapping[str, Any]]) -> None:
        """Pass records and events on, without waiting for anyone."""

    def stop_requested(self) -> bool:
        """Whether somebody asked this run to stop, as far as this worker knows."""


class InProcess:
    """One worker in this process: no Ray, no process group.

    Args:
        folder: the run's folder.
        writer: of its records and events.
        device: where the model lives.
        on_hand_over: also told of what is handed over.
    """

    rank = 0
    world_size = 1
    attempt = 0

    def __init__(
        self,
        folder: RunFolder,
        writer: MetricsWriter,
        *,
        device: torch.device,
        on_hand_over: Callable[[Sequence[Record], Sequence[Mapping[str, Any]]], None] = lambda records, events: None,
    ) -> None:
        self.folder = folder
        self.device = device
        self._writer = writer
        self._on_hand_over = on_hand_over
        node, pid = socket.gethostname(), os.getpid()
        writer.add_event({"kind": "worker_started", "time": time(), "attempt": 0, "rank": 0, "node": node, "pid": pid})

    def hand_over(self, records: Sequence[Record], events: Sequence[Mapping[str, Any]]) -> None:
        """Write at once: there is nobody to hand over to."""
        self._writer.add(records)
        for event in events:
            self._writer.add_event(event)
        self._writer.flush()
        self._on_hand_over(records, events)

    def stop_requested(self) -> bool:
        """Never: Ctrl-C interrupts this process itself."""
        return False
