"""What a worker is doing now. The training thread writes it, and the watchdog reads it in another thread."""

from time import monotonic

STARTING = "starting"
LOADING = "waiting for its samples"
COMPUTING = "computing"
WAITING = "waiting for the other workers"
EVALUATING = "evaluating"
SAVING = "saving a checkpoint"


class Activity:
    """The current activity of a worker, and when it began.

    Attributes:
        current: one of this module's constants, or another short text.
        since: when the activity began, in seconds of ``time.monotonic``.
    """

    __slots__ = ("current", "since")

    def __init__(self) -> None:
        self.begin(STARTING)

    def begin(self, current: str) -> None:
        """Set the current activity; takes less than a microsecond."""
        self.current, self.since = current, monotonic()
