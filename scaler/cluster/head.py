"""Whether the head of the cluster answers.

A driver whose head is gone is ended by Ray after a minute, in the middle of whatever it does: no state is written, and
no report. So it looks itself, and ends the run before that.
"""

import socket
import threading
from time import monotonic
from types import TracebackType
from typing import Self

LOOK_S = 2.0
ANSWER_S = 5.0
EMBEDDED_PATIENCE_S = 10.0  # nobody starts the head of an embedded cluster again
PATIENCE_S = 40.0  # Ray's own is 60 s in every worker: before that they are asked to save
RAYS_PATIENCE_S = 150  # Ray's, for this process: later than ours, with time for the report


class HeadWatch:
    """Looks at the head from a thread of its own, for the length of a ``with`` block.

    Args:
        gcs_address: ``host:port`` where the head listens.
        patience_s: how long it may be silent.
    """

    def __init__(self, gcs_address: str, *, patience_s: float) -> None:
        self.gcs_address = gcs_address
        self._patience_s = patience_s
        self._answered_at = monotonic()
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._run, name="scaler-head", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()

    @property
    def silent_s(self) -> float | None:
        """How long the head has been silent, where that is longer than it may be; else None."""
        silent_s = monotonic() - self._answered_at
        return silent_s if silent_s > self._patience_s else None

    def _run(self) -> None:
        host, _, port = self.gcs_address.rpartition(":")
        while not self._ended.is_set():
            began = monotonic()
            try:
                socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()
                self._answered_at = monotonic()
            except OSError:
                if monotonic() - began > ANSWER_S + LOOK_S:  # this process was stopped, or its machine slept
                    self._answered_at = monotonic()
            self._ended.wait(LOOK_S)
