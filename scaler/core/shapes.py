"""Shapes of a schedule: the share of the peak rate against samples. Here the general case, and shapes without an end.

``decays`` has those that reach an end with the training, ``cycles`` those that climb again, ``schedules`` puts a warmup
before any of them. A shape is a value and a pure function of samples: it counts nothing and has no state.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from typing import ClassVar, Literal

from scaler.errors import PlanError

MOST_CORNERS = 400


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape(ABC):
    """The share of the peak rate as a function of the samples since the shape's origin.

    Attributes:
        name: its word in the job file.
        counts_warmup: whether the origin is the start of training; else it is the end of the warmup.
    """

    name: ClassVar[str]
    counts_warmup: ClassVar[bool] = False

    @abstractmethod
    def factor(self, samples: float) -> float:
        """Return the share of the peak rate, in [0, 1], ``samples`` >= 0 after the shape's origin."""

    def momentum(self, samples: float) -> float | None:
        """Return the momentum to use ``samples`` after the origin; None: the shape leaves momentum alone."""
        return None

    def corners(self, total: int) -> tuple[int, ...]:
        """Return where it has a corner or a jump within ``total`` samples after its origin, for who draws it.

        Ascending, in whole samples: of a jump, the first that has the new rate. Of more than ``MOST_CORNERS`` places
        some, evenly.
        """
        return ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Constant(Shape):
    """The peak rate throughout.

    Example:
        >>> Constant().factor(10**9)
        1.0
    """

    name: ClassVar[str] = "constant"

    def factor(self, samples: float) -> float:
        """Return 1."""
        return 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Step(Shape):
    """A drop at every multiple of ``every`` samples, counted from the start of training, warmup included.

        factor = decay ** floor(samples / every)

    A drop takes effect in the step that starts at the multiple or after it.

    Args:
        every: samples from one drop to the next, >= 1.
        decay: what each drop multiplies the rate by, in (0, 1].

    Raises:
        PlanError: a setting outside its range.

    Sources:
        torch.optim.lr_scheduler.StepLR, with ``gamma`` = ``decay``,
        https://docs.pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.StepLR.html.

    Example:
        >>> [Step(every=100, decay=0.5).factor(s) for s in (0, 99, 100, 250)]
        [1.0, 1.0, 0.5, 0.25]
    """

    name: ClassVar[str] = "step"
    counts_warmup: ClassVar[bool] = True
    every: int
    decay: float

    def __post_init__(self) -> None:
        check_length("every", self.every)
        check_decay(self.decay)

    def factor(self, samples: float) -> float:
        """Return ``decay`` to the power of the drops so far."""
        return float(self.decay ** (samples // self.every))

    def corners(self, total: int) -> tuple[int, ...]:
        """Return the drops."""
        return tuple(n * self.every for n in spread(total // self.every))


@dataclass(frozen=True, kw_only=True, slots=True)
class MultiStep(Shape):
    """A drop at each of the given places, counted from the start of training, warmup included.

        factor = decay ** (number of places <= samples)

    Args:
        at: places in samples, ascending, each >= 1.
        decay: what each drop multiplies the rate by, in (0, 1].

    Raises:
        PlanError: no place, places that do not ascend, or a setting outside its range.

    Sources:
        Goyal et al. 2017, https://arxiv.org/abs/1706.02677, section 5.1 (a tenth at epochs 30, 60 and 80, of which the
        first 5 are warmup); torch.optim.lr_scheduler.MultiStepLR with ``gamma`` = ``decay``, which takes a place
        given twice as two drops; here that is refused.

    Example:
        >>> [MultiStep(at=(300, 600), decay=0.5).factor(s) for s in (0, 299, 300, 600, 900)]
        [1.0, 1.0, 0.5, 0.25, 0.25]
    """

    name: ClassVar[str] = "multi_step"
    counts_warmup: ClassVar[bool] = True
    at: tuple[int, ...]
    decay: float

    def __post_init__(self) -> None:
        if not self.at:
            raise PlanError("schedule.at = [] names no drop.", "Name one, or use name: constant.")
        for place in self.at:
            check_length("at", place)
        ascending = sorted(set(self.at))
        if list(self.at) != ascending:
            raise PlanError(f"schedule.at = {list(self.at)} samples does not ascend.", f"Did you mean {ascending}?")
        check_decay(self.decay)

    def factor(self, samples: float) -> float:
        """Return ``decay`` to the power of the drops so far."""
        return float(self.decay ** sum(place <= samples for place in self.at))

    def corners(self, total: int) -> tuple[int, ...]:
        """Return the drops."""
        places = [place for place in self.at if place <= total]
        return tuple(places[n - 1] for n in spread(len(places)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Exponential(Shape):
    """A smooth exponential decay from the end of the warmup.

        factor = decay ** (samples / every)

    Args:
        every: samples in which the rate is multiplied by ``decay`` once, >= 1.
        decay: in (0, 1].

    Raises:
        PlanError: a setting outside its range.

    Sources:
        torch.optim.lr_scheduler.ExponentialLR when ``every`` is one step and ``decay`` its ``gamma``,
        https://docs.pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.ExponentialLR.html.

    Example:
        >>> [Exponential(every=100, decay=0.25).factor(s) for s in (0, 50, 100, 200)]
        [1.0, 0.5, 0.25, 0.0625]
    """

    name: ClassVar[str] = "exponential"
    every: int
    decay: float

    def __post_init__(self) -> None:
        check_length("every", self.every)
        check_decay(self.decay)

    def factor(self, samples: float) -> float:
        """Return ``decay`` to the power of the lengths ``every`` so far, whole or not."""
        return float(self.decay ** (samples / self.every))


@dataclass(frozen=True, kw_only=True, slots=True)
class InverseSqrt(Shape):
    """A fall with one over the square root, from the end of the warmup, for trainings of unknown length.

        factor = sqrt(timescale / (timescale + samples))

    Args:
        timescale: samples after which the factor is sqrt(1/2), >= 1. With the length of a linear warmup from 0, this is
            the schedule of Vaswani et al.

    Raises:
        PlanError: ``timescale`` below 1.

    Sources:
        Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, equation 3. Theirs gives its first step the number 1,
        so their rate in step n is ours after n steps.

    Example:
        >>> [InverseSqrt(timescale=100).factor(s) for s in (0, 300, 1500)]
        [1.0, 0.5, 0.25]
    """

    name: ClassVar[str] = "inverse_sqrt"
    timescale: int

    def __post_init__(self) -> None:
        check_length("timescale", self.timescale)

    def factor(self, samples: float) -> float:
        """Return the root of the timescale's share of all samples, the timescale's own included."""
        return sqrt(self.timescale / (self.timescale + samples))


@dataclass(frozen=True, kw_only=True, slots=True)
class Ramp(Shape):
    """A climb from ``low`` to the peak over ``length`` samples: the learning-rate range test.

        factor = low ** (1 - p)            exponential: even in the logarithm
        factor = low + (1 - low) * p       linear                              with p = samples / length, at most 1

    Args:
        length: samples of the climb, >= 1.
        low: share of the peak at the origin, in (0, 1].
        spacing: ``exponential`` or ``linear``.

    Raises:
        PlanError: a setting outside its range.

    Sources:
        Smith 2017, https://arxiv.org/abs/1506.01186, section 3.3.

    Example:
        >>> [Ramp(length=200, low=0.0625).factor(s) for s in (0, 100, 200, 300)]
        [0.0625, 0.25, 1.0, 1.0]
    """

    name: ClassVar[str] = "ramp"
    length: int
    low: float
    spacing: Literal["exponential", "linear"] = "exponential"

    def __post_init__(self) -> None:
        check_length("length", self.length)
        check_share("low", self.low)
        if self.low == 0.0:
            raise PlanError("schedule.low = 0 has no logarithm.", "Give a share of the peak above 0.")
        check_choice("spacing", self.spacing, ("exponential", "linear"))

    def factor(self, samples: float) -> float:
        """Return the climb's share of the peak."""
        done = progress(samples, self.length)
        return above(self.low, done) if self.spacing == "linear" else float(self.low ** (1.0 - done))


def above(floor: float, height: float) -> float:
    """Return ``floor + (1 - floor) * height``: exactly ``floor`` at height 0, exactly 1 at height 1, never more.

    Example:
        >>> [above(0.5, height) for height in (0.0, 0.5, 1.0)]
        [0.5, 0.75, 1.0]
    """
    return floor + (1.0 - floor) * height


def spread(number: int, *, most: int = MOST_CORNERS) -> range:
    """Return the numbers 1 to ``number``, or at most ``most`` of them, evenly.

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
        raise PlanError(f"schedule.decay = {value:g} is not in (0, 1].", "Rates are multiplied by it: 0.1 is a tenth.")


def check_choice(field: str, value: str, choices: Sequence[str]) -> None:
    """Raise PlanError unless ``schedule.<field>`` is one of ``choices``."""
    if value not in choices:
        raise PlanError(f"schedule.{field} = {value} is not known.", f"Known: {', '.join(choices)}.")


def check_room(field: str, samples: int, length: int) -> None:
    """Raise PlanError unless ``schedule.<field>`` leaves at least one sample of ``schedule.length``."""
    if not samples < length:
        raise PlanError(
            f"schedule.{field} = {samples} samples leaves nothing of length = {length}.",
            f"The most is {length - 1}.",
        )
