"""Why a worker group's life ends without anything being wrong with it, as exceptions that Ray Train carries.

They are unpickled in Ray Train's controller, so this module imports nothing.
"""


class Restart(Exception):  # noqa: N818, for it is none
    """The group is to be started again, at no cost of ``failures.max_restarts``."""


class Yielded(Restart):
    """Every worker has saved and made room."""


class OutOfMemory(Restart):
    """A micro-batch did not fit; the next one is half of it."""


class NoRoomError(Exception):
    """The cluster has been too small for the job for too long."""
