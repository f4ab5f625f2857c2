"""What a worker is doing now. The training thread writes it, and the watchdog reads it in another thread."""

from time import monotonic

from scaler.metrics.events import STARTING


class Activity:
    """The current activity of a worker, and when it began.

    Attributes:
        current: such as ``scaler.metrics.events.COMPUTING``, or another short text.
        since: when the activity began, in seconds of ``time.monotonic``.
    """

    __slots__ = ("current", "since")

    def __init__(self) -> None:
        self.begin(STARTING)

    def begin(self, current: str) -> None:
        """Set the current activity; takes less than a microsecond."""
        self.current, self.since = current, monotonic()
