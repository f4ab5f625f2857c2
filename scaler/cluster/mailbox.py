"""A worker's side of handing over: what was handed over is kept until it is in the run's folder.

A thread of its own sends and waits, so that training never does. When the collector dies, Ray starts another, and the
thread sends again what that one does not have.
"""

import threading
from collections.abc import Sequence
from secrets import token_hex
from typing import Any

import ray

from scaler.cluster.messages import Answer, Batch, Event, Parcel, Why
from scaler.metrics.record import Record

ASK_S = 0.5  # how often the collector is asked how things stand while nothing new is handed over
RETRY_S = 0.5


class Mailbox:
    """Takes what one worker hands over, and delivers it.

    Args:
        collector: the collector's actor handle.
        rank: the worker's.
    """

    def __init__(self, collector: Any, *, rank: int) -> None:
        self._collector, self._rank, self._sender = collector, rank, token_hex(8)
        self._changed = threading.Condition()
        self._kept: list[Batch] = []
        self._newest = 0  # number of the newest batch
        self._taken = 0
        self._written = 0
        self._written_to: tuple[int | None, int] = (None, 0)
        self._leave: Why | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="scaler-mailbox", daemon=True)
        self._thread.start()

    @property
    def leave(self) -> Why | None:
        """What the collector asked this worker's group to leave for, in its newest answer."""
        return self._leave

    def put(
        self, records: Sequence[Record], events: Sequence[Event], *, attempt: int | None = None, samples_seen: int = 0
    ) -> None:
        """Take records and events, without waiting."""
        with self._changed:
            self._newest += 1
            number = self._newest
            batch = Batch(number=number, attempt=attempt, samples_seen=samples_seen, records=records, events=events)
            self._kept.append(batch)
            self._changed.notify_all()

    def wait_written(self, *, within_s: float) -> bool:
        """Wait until everything is in the run's folder; return whether it is."""
        with self._changed:
            number = self._newest
            return self._changed.wait_for(lambda: self._written >= number, within_s)

    def wait_taken(self, *, within_s: float) -> bool:
        """Wait until the collector has everything; return whether it has."""
        with self._changed:
            number = self._newest
            return self._changed.wait_for(lambda: self._taken >= number, within_s)

    def close(self) -> None:
        """Send nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._newest > self._taken, ASK_S)
                if self._closed:
                    return
                parcel = Parcel(
                    sender=self._sender,
                    rank=self._rank,
                    written=self._written,
                    written_to=self._written_to,
                    batches=[batch for batch in self._kept if batch.number > self._taken],
                )
            try:
                answer: Answer = ray.get(self._collector.hand_over.remote(parcel))
            except ray.exceptions.RayError:  # it is being started again, or the cluster is going
                with self._changed:
                    self._changed.wait_for(lambda: self._closed, RETRY_S)
                continue
            with self._changed:
                self._hear(answer)

    def _hear(self, answer: Answer) -> None:
        """Forget what is in the folder; what a new collector does not have will be sent again."""
        for batch in self._kept:
            if batch.number <= answer.written:
                self._written_to = (batch.attempt, batch.samples_seen)
        self._kept = [batch for batch in self._kept if batch.number > answer.written]
        self._taken, self._written = answer.taken, max(self._written, answer.written)
        self._leave = answer.leave
        self._changed.notify_all()
