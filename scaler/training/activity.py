"""What a worker is current right now, for whoever watches it from another thread."""

from time import monotonic

STARTING = "starting"
LOADING = "waiting for its samples"
COMPUTING = "computing"
WAITING = "waiting for the other workers"
EVALUATING = "evaluating"
SAVING = "saving a checkpoint"


class Activity:
    """One thing at a time, and since when.

    Attributes:
        current: one of this module's words.
        since: when it began, on the clock of ``time.monotonic``.
    """

    __slots__ = ("current", "since")

    def __init__(self) -> None:
        self.begin(STARTING)

    def begin(self, current: str) -> None:
        """Note that something else begins; costs less than a microsecond."""
        self.current, self.since = current, monotonic()
