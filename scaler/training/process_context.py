"""The context of a worker without Ray: alone in this process, or one of several that torchrun has started."""

import os
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import time
from typing import Protocol

import torch
import torch.distributed as dist

from scaler.job.tracking import Tracking
from scaler.metrics.background import BackgroundWriter
from scaler.metrics.events import Event, LeaveRequested, WorkerStarted
from scaler.metrics.next_attempt import next_attempt
from scaler.metrics.record import Record
from scaler.runs import RunFolder, RunState
from scaler.runs.control import StopRequest
from scaler.training.device import describe_device
from scaler.training.own_loop.group import LoopGroup
from scaler.training.own_loop.mailbox import LONGEST_WAIT_S, LOST_WAIT_S, Mailbox
from scaler.training.worker_context import Leave

OnHandOver = Callable[[Sequence[Record], Sequence[Event]], None]


class Place(Protocol):
    """A process's place among the processes of a training."""

    @property
    def rank(self) -> int:
        """This process's number, in [0, world_size)."""

    @property
    def world_size(self) -> int:
        """Processes."""


def worker_started(place: Place, *, attempt: int, start_samples: int, device: torch.device) -> WorkerStarted:
    """Return the event of this process's start.

    Args:
        place: of this process.
        attempt: that begins.
        start_samples: samples in the weights, over all processes.
        device: of the model.
    """
    return WorkerStarted(
        time=time(),
        attempt=attempt,
        rank=place.rank,
        node=socket.gethostname(),
        pid=os.getpid(),
        world_size=place.world_size,
        start_samples=start_samples,
        **describe_device(device),
    )


class InProcess:
    """The context of a worker that writes records directly into the run's folder, or sends them to rank 0, which does.

    Args:
        folder: the run's folder; no other process but rank 0 writes its records and events.
        group: the processes; each makes this object at the same time.
        device: of the model.
        tracking: the job's trackers.
        on_hand_over: called at rank 0 with the records and events of each hand-over.
        stop_requested: returns the request to stop the run, if there is one; asked at rank 0.

    Attributes:
        ended: how the training ended, for the trackers; set before ``close``.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        group: LoopGroup,
        device: torch.device,
        tracking: Tracking | None = None,
        on_hand_over: OnHandOver = lambda records, events: None,
        stop_requested: Callable[[], StopRequest | None] = lambda: None,
    ) -> None:
        self.folder, self.device = folder, device
        self.rank, self.world_size = group.rank, group.world_size
        self.attempt = group.from_rank_0(next_attempt(folder) if group.rank == 0 else 0)
        self._mailbox = Mailbox(group) if group.world_size > 1 else None
        self._writer = BackgroundWriter(folder, tracking) if group.rank == 0 else None
        self._taking = threading.Lock()  # training and the thread that writes checkpoints take what others have sent
        self.ended = RunState.FAILED
        self._on_hand_over = on_hand_over
        self._stop_requested = stop_requested
        self._leave = Leave.NOT
        self._stopped_by = ""

    def started(self, start_samples: int) -> None:
        """Report that the worker starts at ``start_samples``: those of its checkpoint, or 0."""
        started = worker_started(self, attempt=self.attempt, start_samples=start_samples, device=self.device)
        self.hand_over([], [started], samples_seen=start_samples)

    def note(self, event: Event) -> None:
        """Write an event that does not come from the training; only rank 0 does."""
        if self._writer is not None:
            self._writer.put([], [event])

    def next_attempt(self) -> int:
        """Return the number of the next attempt."""
        return self.attempt + 1

    def hand_over(self, records: Sequence[Record], events: Sequence[Event], *, samples_seen: int) -> None:
        """Send records and events to rank 0, which writes them: at once into a local folder, else in a thread."""
        if self._writer is None:
            assert self._mailbox is not None
            self._mailbox.send(records, events)
            return
        self._writer.put(records, events)
        self._on_hand_over(records, events)
        self._take_others()

    def wanted_steps(self, steps: int) -> int:
        """Return ``steps``: records are not thinned."""
        return steps

    def secure(self, samples_seen: int, *, give_up: Callable[[], bool]) -> None:
        """Wait until everything that was handed over is written; called at rank 0 when all workers have handed over."""
        assert self._writer is not None
        self._take_others()
        self._writer.wait_written(give_up=give_up)

    def ask_to_stop(self) -> bool:
        """Ask the training to save and stop; return whether this is the first time."""
        is_first, self._leave = self._leave is not Leave.STOP, Leave.STOP
        return is_first

    def leave_requested(self) -> Leave:
        """Return ``Leave.STOP`` after ``ask_to_stop``, or if the run is to be stopped.

        Raises:
            KeyboardInterrupt: the run is to be stopped at once.
        """
        request = self._stop_requested()
        if request is not None:
            if request.now:
                raise KeyboardInterrupt
            self._stopped_by = f"scaler stop of {request.by}"
            self._leave = Leave.STOP
        return self._leave

    def leave_event(self) -> LeaveRequested:
        """Return the event of a training that was asked to stop."""
        return LeaveRequested(time=time(), attempt=self.attempt, why="stop", detail=self._stopped_by)

    def close(self) -> None:
        """Write what is left, and close the files; called at rank 0, after ``others_end``."""
        assert self._writer is not None
        self._writer.close(self.ended)

    def end(self, failure: str | None) -> None:
        """Tell rank 0 that this worker sends nothing more, and what ended it; None: it came to its end."""
        if self._mailbox is not None and self._writer is None:
            with suppress(dist.DistError):  # rank 0 is gone
                self._mailbox.end(failure)

    def others_end(self, *, is_one_lost: bool = False) -> str | None:
        """Wait at rank 0 until the other workers have ended; return what ended those that failed, or None.

        Args:
            is_one_lost: whether one of them is gone: if it was killed, it sends no end.
        """
        if self._mailbox is None:
            return None
        failures, missing = self._mailbox.wait_for_ends(at_most_s=LOST_WAIT_S if is_one_lost else LONGEST_WAIT_S)
        self._take_others()
        if failures:
            return "\n".join(text for _, text in sorted(failures.items()))
        return f"rank {missing[0]} is gone, and has sent no error." if missing else None

    def _take_others(self) -> None:
        """Write what the other workers have sent."""
        if self._mailbox is None:
            return
        assert self._writer is not None
        with self._taking:
            for records, events in self._mailbox.take():
                self._writer.put(records, events)
                self._on_hand_over(records, events)
