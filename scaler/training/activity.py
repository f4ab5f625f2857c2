"""What a worker is doing right now, for whoever watches it from another thread."""

from time import monotonic

STARTING = "starting"
LOADING = "waiting for its samples"
COMPUTING = "computing"
WAITING = "waiting for the other workers"
EVALUATING = "evaluating"
SAVING = "saving a checkpoint"


class Watch:
    """One thing at a time, and since when.

    Attributes:
        doing: one of this module's words.
        since: when it began, on the clock of ``time.monotonic``.
    """

    __slots__ = ("doing", "since")

    def __init__(self) -> None:
        self.now(STARTING)

    def now(self, doing: str) -> None:
        """Note that something else begins; costs less than a microsecond."""
        self.doing, self.since = doing, monotonic()
