"""``Shape``: a share of the peak learning rate as a function of samples; and the arithmetic and checks of all shapes.

``shapes`` has the shapes without an end, ``decays`` those that end with the training, ``cycles`` those that climb
again; ``schedules`` puts a warmup before any of them. A shape is a value and a pure function of samples: it has no
state.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import ClassVar

from scaler.errors import PlanError

MOST_CORNERS = 400


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape(ABC):
    """The share of the peak learning rate as a function of the samples since the shape's origin.

    Attributes:
        name: the shape's name in the job file.
        counts_warmup: True: the origin is the start of training; False: the end of the warmup.
    """

    name: ClassVar[str]
    counts_warmup: ClassVar[bool] = False

    @abstractmethod
    def factor(self, samples: float) -> float:
        """Return the share of the peak learning rate, in [0, 1], ``samples`` >= 0 after the shape's origin."""

    def momentum(self, samples: float) -> float | None:
        """Return the momentum ``samples`` after the origin; None: the shape does not cycle it."""
        return None

    def corners(self, total: int) -> tuple[int, ...]:
        """Return the corners and jumps up to ``total`` samples after the origin, for a drawing.

        They are whole samples in ascending order; for a jump, the first sample with the new learning rate. If there are
        more than ``MOST_CORNERS``, an even selection of them is returned.
        """
        return ()


def above(floor: float, height: float) -> float:
    """Return ``floor + (1 - floor) * height``: exactly ``floor`` at height 0, exactly 1 at height 1, never more.

    Example:
        >>> [above(0.5, height) for height in (0.0, 0.5, 1.0)]
        [0.5, 0.75, 1.0]
    """
    return floor + (1.0 - floor) * height


def spread(number: int, *, most: int = MOST_CORNERS) -> range:
    """Return the numbers 1 to ``number``, or an even selection of at most ``most``.

    Example:
        >>> list(spread(3)), list(spread(9, most=4))
        ([1, 2, 3], [1, 4, 7])
    """
    return range(1, number + 1, max(1, ceil(number / most)))


def progress(samples: float, length: float) -> float:
    """Return ``samples / length``, clipped to [0, 1].

    Example:
        >>> [progress(s, 200) for s in (-1, 0, 50, 200, 300)]
        [0.0, 0.0, 0.25, 1.0, 1.0]
    """
    return min(max(samples / length, 0.0), 1.0)


def check_length(field: str, samples: int, *, least: int = 1) -> None:
    """Raise PlanError unless ``schedule.<field>`` is ``least`` samples or more."""
    if not samples >= least:
        raise PlanError(f"schedule.{field} = {samples} samples is below {least}.", f"The least is {least}.")


def check_share(field: str, value: float) -> None:
    """Raise PlanError unless ``schedule.<field>`` is in [0, 1]."""
    if not 0.0 <= value <= 1.0:
        raise PlanError(f"schedule.{field} = {value:g} is not in [0, 1].", "It is a share of peak_lr.")


def check_decay(value: float) -> None:
    """Raise PlanError unless ``schedule.decay`` is in (0, 1]."""
    if not 0.0 < value <= 1.0:
        raise PlanError(
            f"schedule.decay = {value:g} is not in (0, 1].", "It multiplies the learning rate: 0.1 is a tenth."
        )


def check_choice(field: str, value: str, choices: Sequence[str]) -> None:
    """Raise PlanError unless ``schedule.<field>`` is one of ``choices``."""
    if value not in choices:
        raise PlanError(f"schedule.{field} = {value} is not known.", f"Known: {', '.join(choices)}.")


def check_fits(field: str, samples: int, length: int) -> None:
    """Raise PlanError unless ``schedule.<field>`` leaves at least one sample of ``schedule.length``."""
    if not samples < length:
        raise PlanError(
            f"schedule.{field} = {samples} samples leaves nothing of length = {length}.",
            f"The most is {length - 1}.",
        )
