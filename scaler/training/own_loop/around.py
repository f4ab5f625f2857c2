"""What is around a function of the job in which ``scaler.start`` may be called: a worker, or the making of a plan.

Without anything around it, ``scaler.start`` begins a run of its own.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, Protocol

from scaler.errors import JobFileError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from scaler.training.own_loop.loop import OwnLoop


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """What a script gives to ``scaler.start`` besides its job."""

    num_samples: int | None
    mesh: "DeviceMesh | None"
    data_dims: Sequence[str | int] | None


class Around(Protocol):
    """Answers a call of ``scaler.start``."""

    def start(self, given: Started) -> "OwnLoop":
        """Return the loop."""


class LoopFound(BaseException):  # no ``Exception``: the script must not catch it
    """``scaler.start`` was called while a plan is made.

    Args:
        num_samples: samples in the script's training set; None: the script does not say.
    """

    def __init__(self, num_samples: int | None) -> None:
        super().__init__(num_samples)
        self.num_samples = num_samples


class Planning:
    """Ends the script at ``scaler.start``: a plan needs nothing of what comes after it."""

    def start(self, given: Started) -> NoReturn:
        """Raise ``LoopFound``."""
        raise LoopFound(given.num_samples)


class RecipeOnly:
    """Refuses a loop of one's own where only a recipe can be used.

    Args:
        path: of the function.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def start(self, given: Started) -> NoReturn:
        """Raise an error.

        Raises:
            JobFileError: says what is needed.
        """
        raise JobFileError(
            f"{self._path} calls scaler.start: it has a loop of its own, and this needs a recipe.",
            "Return a scaler.Recipe.",
        )


_around: Around | None = None


def what_is_around() -> Around | None:
    """Return what answers ``scaler.start`` here; None: nothing does."""
    return _around


@contextmanager
def inside(around: Around) -> Iterator[None]:
    """Let ``around`` answer ``scaler.start`` in a ``with`` block."""
    global _around
    before, _around = _around, around
    try:
        yield
    finally:
        _around = before
