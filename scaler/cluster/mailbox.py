"""Upload what a worker hands over, and keep each batch until it is in the run's folder.

A separate thread sends and waits, so that training never waits. When the collector dies, Ray starts another, and the
thread sends again what the new one does not have. When the collector falls behind, the mailbox asks for records that
stand for more steps each (``wanted_steps``), so that only the records of some seconds wait here.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from secrets import token_hex
from time import monotonic
from typing import Any

from scaler.cluster.messages import LeaveReason, Upload, UploadBatch, UploadReply
from scaler.metrics.events import Event
from scaler.metrics.record import Record

ASK_S = 2.0  # between two uploads while there is nothing new to send; an upload costs 1 ms
AWAITED_S = 0.05  # between two uploads while the worker waits for a reply
RETRY_S = 0.5
LATE_S = 10.0  # a batch is late if the collector takes it more than this many seconds after it was handed over
LATE_TIMES = 2  # late batches in a row before records are thinned: a collector that was started again is late only once
THIN_EVERY_S = 10.0  # time for the collector to catch up before records are thinned again
MOST_WAITING = 50_000  # records that the collector has not taken, about 40 MB; above, records are thinned at once

Deliver = Callable[[Upload], UploadReply | None]
"""Sends an upload to the collector and returns its reply; None: the collector cannot be reached now."""


def deliver_to(collector: Any) -> Deliver:
    """Return the function that sends uploads to a collector that is a Ray actor."""
    import ray

    def deliver(upload: Upload) -> UploadReply | None:
        try:
            reply: UploadReply = ray.get(collector.hand_over.remote(upload))
        except ray.exceptions.RayError:  # it is being started again, or the cluster shuts down
            return None
        return reply

    return deliver


class Mailbox:
    """Takes what one worker hands over, and uploads it.

    Args:
        deliver: sends an upload to the collector.
        rank: rank of the worker.
    """

    def __init__(self, deliver: Deliver, *, rank: int) -> None:
        self._deliver, self._rank, self._sender = deliver, rank, token_hex(8)
        self._changed = threading.Condition()
        self._kept: list[tuple[float, UploadBatch]] = []  # with the ``monotonic`` time of the hand-over
        self._newest = 0  # number of the newest batch
        self._taken = 0
        self._written = 0
        self._written_to: tuple[int | None, int] = (None, 0)
        self._leave: LeaveReason | None = None
        self._rest_s = 0.0
        self._awaited = 0  # callers that wait for a reply
        self._times_late = 0  # late batches in a row
        self._waiting_records = 0
        self._steps, self._thinned_at = 1, float("-inf")
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="scaler-mailbox", daemon=True)
        self._thread.start()

    @property
    def leave(self) -> LeaveReason | None:
        """Why the collector's newest reply asks this worker's group to leave; None: it does not."""
        return self._leave

    def put(
        self, records: Sequence[Record], events: Sequence[Event], *, attempt: int | None = None, samples_seen: int = 0
    ) -> None:
        """Take records and events, without waiting."""
        with self._changed:
            self._newest += 1
            batch = UploadBatch(
                number=self._newest, attempt=attempt, samples_seen=samples_seen, records=records, events=events
            )
            self._kept.append((monotonic(), batch))
            self._waiting_records += len(records)
            self._changed.notify_all()

    def wanted_steps(self, steps: int) -> int:
        """Return how many steps a record should stand for.

        Twice as many as now where the collector is late repeatedly, or too many records wait for it. After a change,
        also one that another worker of the group asked for, the number stays for ``THIN_EVERY_S``.

        Args:
            steps: how many steps a record stands for now.
        """
        with self._changed:
            if steps != self._steps:
                self._steps, self._thinned_at = steps, monotonic()
            is_behind = self._times_late >= LATE_TIMES or self._waiting_records > MOST_WAITING
            return 2 * steps if is_behind and monotonic() - self._thinned_at >= THIN_EVERY_S else steps

    def wait_written(self, *, within_s: float) -> bool:
        """Wait until everything is in the run's folder; return whether it is."""
        with self._changed, self._awaiting():
            number = self._newest
            return self._changed.wait_for(lambda: self._written >= number, within_s)

    def wait_taken(self, *, within_s: float) -> bool:
        """Wait until the collector has everything; return whether it has."""
        with self._changed, self._awaiting():
            number = self._newest
            return self._changed.wait_for(lambda: self._taken >= number, within_s)

    def close(self) -> None:
        """Send nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @contextmanager
    def _awaiting(self) -> Iterator[None]:
        """Make the thread ask for replies more often, for the length of a ``with`` block."""
        self._awaited += 1
        self._changed.notify_all()
        try:
            yield
        finally:
            self._awaited -= 1

    def _run(self) -> None:
        while True:
            with self._changed:
                self._rest()
                if self._closed:
                    return
                untaken = [(since, batch) for since, batch in self._kept if batch.number > self._taken]
                upload = Upload(
                    sender=self._sender,
                    rank=self._rank,
                    written=self._written,
                    written_to=self._written_to,
                    batches=[batch for _, batch in untaken],
                    is_awaited=self._awaited > 0,
                )
            reply = self._deliver(upload)
            with self._changed:
                if reply is None:
                    self._changed.wait_for(lambda: self._closed, RETRY_S)
                    continue
                if untaken and reply.taken >= untaken[0][1].number:
                    is_late = monotonic() - untaken[0][0] > LATE_S + self._rest_s
                    self._times_late = self._times_late + 1 if is_late else 0
                self._take_reply(reply)

    def _rest(self) -> None:
        """Wait until the next upload is due."""
        since = monotonic()
        while not self._closed:
            left_s = since + self._pause_s() - monotonic()
            if left_s <= 0:
                return
            self._changed.wait(left_s)

    def _pause_s(self) -> float:
        if self._awaited:
            return max(AWAITED_S, self._rest_s / 10)
        return self._rest_s if self._newest > self._taken else max(ASK_S, self._rest_s)

    def _take_reply(self, reply: UploadReply) -> None:
        """Drop the batches that are in the folder; batches that a new collector does not have will be sent again."""
        for _, batch in self._kept:
            if batch.number <= reply.written:
                self._written_to = (batch.attempt, batch.samples_seen)
        self._kept = [(since, batch) for since, batch in self._kept if batch.number > reply.written]
        self._taken, self._written = reply.taken, max(self._written, reply.written)
        self._waiting_records = sum(len(batch.records) for _, batch in self._kept if batch.number > self._taken)
        self._leave, self._rest_s = reply.leave, reply.rest_s
        self._changed.notify_all()
