"""What a worker is current right now, for whoever watches it from another thread."""

from time import monotonic

from scaler.metrics.events import STARTING


class Activity:
    """One thing at a time, and since when.

    Attributes:
        current: such as ``scaler.metrics.events.COMPUTING``.
        since: when it began, on the clock of ``time.monotonic``.
    """

    __slots__ = ("current", "since")

    def __init__(self) -> None:
        self.begin(STARTING)

    def begin(self, current: str) -> None:
        """Note that something else begins; costs less than a microsecond."""
        self.current, self.since = current, monotonic()
