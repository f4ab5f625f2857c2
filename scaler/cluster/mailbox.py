"""A worker's side of handing over: what was handed over is kept until it is in the run's folder.

A thread of its own sends and waits, so that training never does. When the collector dies, Ray starts another, and the
thread sends again what that one does not have. When the collector is there and falls behind, the mailbox asks for
records that stand for more steps (``wanted_steps``): what waits here is then a few seconds' worth, at whatever rate.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from secrets import token_hex
from time import monotonic
from typing import Any

from scaler.cluster.messages import Batch, Upload, UploadReply, Why
from scaler.metrics.events import Event
from scaler.metrics.record import Record

ASK_S = 2.0  # how often the collector is asked how things stand while nothing new is handed over; a call costs 1 ms
AWAITED_S = 0.05  # the same, while somebody waits for an answer
RETRY_S = 0.5
LATE_S = 10.0  # what is taken later than this after it was handed over is late
LATE_TIMES = 2  # in a row, before records are thinned: a collector that was started again is late once, and catches up
THIN_EVERY_S = 10.0  # time for the collector to catch up before records are thinned again
MOST_WAITING = 50_000  # records that are not taken, about 40 MB: above, records are thinned whatever the reason

Deliver = Callable[[Upload], UploadReply | None]
"""Takes a parcel to the collector and waits for its answer; None: it is not there now."""


def deliver_to(collector: Any) -> Deliver:
    """Return the way to a collector that is a Ray actor."""
    import ray

    def deliver(parcel: Upload) -> UploadReply | None:
        try:
            answer: UploadReply = ray.get(collector.hand_over.remote(parcel))
        except ray.exceptions.RayError:  # it is being started again, or the cluster is going
            return None
        return answer

    return deliver


class Mailbox:
    """Takes what one worker hands over, and delivers it.

    Args:
        deliver: the way to the collector.
        rank: the worker's.
    """

    def __init__(self, deliver: Deliver, *, rank: int) -> None:
        self._deliver, self._rank, self._sender = deliver, rank, token_hex(8)
        self._changed = threading.Condition()
        self._kept: list[tuple[float, Batch]] = []  # since when, by ``monotonic``
        self._newest = 0  # number of the newest batch
        self._taken = 0
        self._written = 0
        self._written_to: tuple[int | None, int] = (None, 0)
        self._leave: Why | None = None
        self._rest_s = 0.0
        self._awaited = 0  # how many wait for what was handed over to arrive
        self._times_late = 0  # in a row, at the end of the answers so far
        self._waiting_records = 0
        self._steps, self._thinned_at = 1, float("-inf")
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
            self._kept.append((monotonic(), batch))
            self._waiting_records += len(records)
            self._changed.notify_all()

    def wanted_steps(self, steps: int) -> int:
        """Return how many steps a record should stand for, where it stands for ``steps`` now.

        Twice as many where the collector is late again and again, or too much waits for it; then, and when the group
        has changed them for another's sake, no more for ``THIN_EVERY_S``.
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
        """Let the thread not rest for the length of a ``with`` block."""
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
                parcel = Upload(
                    sender=self._sender,
                    rank=self._rank,
                    written=self._written,
                    written_to=self._written_to,
                    batches=[batch for _, batch in untaken],
                )
            answer = self._deliver(parcel)
            with self._changed:
                if answer is None:
                    self._changed.wait_for(lambda: self._closed, RETRY_S)
                    continue
                if untaken and answer.taken >= untaken[0][1].number:
                    is_late = monotonic() - untaken[0][0] > LATE_S + self._rest_s
                    self._times_late = self._times_late + 1 if is_late else 0
                self._hear(answer)

    def _rest(self) -> None:
        """Wait for something to send, or until it is time to ask; at least as long as the collector said."""
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

    def _hear(self, answer: UploadReply) -> None:
        """Forget what is in the folder; what a new collector does not have will be sent again."""
        for _, batch in self._kept:
            if batch.number <= answer.written:
                self._written_to = (batch.attempt, batch.samples_seen)
        self._kept = [(since, batch) for since, batch in self._kept if batch.number > answer.written]
        self._taken, self._written = answer.taken, max(self._written, answer.written)
        self._waiting_records = sum(len(batch.records) for _, batch in self._kept if batch.number > self._taken)
        self._leave, self._rest_s = answer.leave, answer.rest_s
        self._changed.notify_all()
