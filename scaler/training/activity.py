"""What a worker is doing right now, for whoever watches it from another thread."""

from time import monotonic

from scaler.metrics.events import STARTING


class Watch:
    """One thing at a time, and since when.

    Attributes:
        doing: such as ``scaler.metrics.events.COMPUTING``.
        since: when it began, on the clock of ``time.monotonic``.
    """

    __slots__ = ("doing", "since")

    def __init__(self) -> None:
        self.now(STARTING)

    def now(self, doing: str) -> None:
        """Note that something else begins; costs less than a microsecond."""
        self.doing, self.since = doing, monotonic()
