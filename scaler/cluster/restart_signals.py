"""Why a worker group's life ends without anything being wrong with it, as exceptions that Ray Train carries.

They are unpickled in Ray Train's controller, so this module imports nothing.
"""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its type where it has none.

    Example:
        >>> [first_line(ValueError(text)) for text in ("one\\ntwo", "")]
        ['one', 'ValueError']
    """
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class Restart(Exception):  # noqa: N818, for it is none
    """The group is to be started again, at no cost of ``failures.max_restarts``."""


class Yielded(Restart):
    """Every worker has saved and made room."""


class OutOfMemory(Restart):
    """A micro-batch did not fit; the next one is half of it."""


class LostDataProcess(Exception):  # noqa: N818
    """A process that loads a worker's data was killed, or crashed: as if the worker had been. Counts as a restart."""


class NoRoomError(Exception):
    """The cluster has been too small for the job for too long."""
