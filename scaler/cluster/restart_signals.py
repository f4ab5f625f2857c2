"""Exceptions with which a worker asks for a restart of its group, and other exceptions that pass through Ray Train.

Ray Train's controller unpickles them, so this module imports nothing of scaler.
"""

from collections.abc import Mapping


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its type where the text is empty.

    Example:
        >>> [first_line(ValueError(text)) for text in ("one\\ntwo", "")]
        ['one', 'ValueError']
    """
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class Restart(Exception):  # noqa: N818, because it is not an error
    """Asks for a restart of the group that ``failures.max_restarts`` does not count."""


class Yielded(Restart):
    """Every worker has saved and left, so that the group can be resized or moved."""


class OutOfMemory(Restart):
    """A micro-batch did not fit into memory; the next attempt halves it."""


class LostDataProcess(Exception):  # noqa: N818
    """A process that loads a worker's data was killed, or crashed; counted as if the worker had died."""


class WorkersLost(Exception):  # noqa: N818
    """Workers of a shared group were lost more often than the job allows.

    Args:
        failures: by rank.
    """

    def __init__(self, failures: Mapping[int, Exception]) -> None:
        super().__init__("; ".join(dict.fromkeys(map(str, failures.values()))))
        self.failures = failures


class NoCapacityError(Exception):
    """The cluster has been too small for the job for too long."""
