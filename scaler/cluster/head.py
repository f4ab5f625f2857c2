"""Check that the head of the cluster answers.

When the head is gone, Ray ends the driver after a minute, at any point of its code: then neither the run's state nor a
report is written. So the driver checks the head itself, and ends the run before that.
"""

import socket
import threading
from time import monotonic
from types import TracebackType
from typing import Self

CHECK_S = 2.0
ANSWER_S = 5.0
EMBEDDED_PATIENCE_S = 10.0  # the head of an embedded cluster is never started again
PATIENCE_S = 40.0  # Ray ends every worker after 60 s: before that they are asked to save
RAYS_PATIENCE_S = 150  # after this Ray ends this process; longer than PATIENCE_S, with time for the report


class HeadWatch:
    """Connects to the head every ``CHECK_S`` from a separate thread, for the length of a ``with`` block.

    Args:
        gcs_address: ``host:port`` where the head listens.
        patience_s: how many seconds the head may be silent.
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
        """Seconds since the head answered, if they are more than ``patience_s``; otherwise None."""
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
                if monotonic() - began > ANSWER_S + CHECK_S:  # this process was stopped, or its machine slept
                    self._answered_at = monotonic()
            self._ended.wait(CHECK_S)
