"""Shapes without an end: constant, step, multi_step, exponential and inverse_sqrt; and the range test's ramp."""

from dataclasses import dataclass
from math import sqrt
from typing import ClassVar, Literal

from scaler.core.shape import Shape, above, check_choice, check_decay, check_length, check_share, progress, spread
from scaler.errors import PlanError


@dataclass(frozen=True, kw_only=True, slots=True)
class Constant(Shape):
    """The peak learning rate throughout.

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
        decay: factor of the learning rate at each drop, in (0, 1].

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
    """A drop at each of the given points, counted from the start of training, warmup included.

        factor = decay ** (number of points <= samples)

    Args:
        at: points in samples, ascending, each >= 1.
        decay: factor of the learning rate at each drop, in (0, 1].

    Raises:
        PlanError: no point, points that do not ascend, or a setting outside its range.

    Sources:
        Goyal et al. 2017, https://arxiv.org/abs/1706.02677, section 5.1 (a tenth at epochs 30, 60 and 80, of which the
        first 5 are warmup); torch.optim.lr_scheduler.MultiStepLR with ``gamma`` = ``decay``, which counts a point that
        is given twice as two drops; here it is refused.

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
            raise PlanError("schedule.at = [] has no point.", "Give one, or use name: constant.")
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
        every: samples in which the learning rate falls by the factor ``decay``, >= 1.
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
        """Return ``decay`` to the power of ``samples / every``."""
        return float(self.decay ** (samples / self.every))


@dataclass(frozen=True, kw_only=True, slots=True)
class InverseSqrt(Shape):
    """A fall with one over the square root of the samples, from the end of the warmup, for any length of training.

        factor = sqrt(timescale / (timescale + samples))

    Args:
        timescale: samples after which the factor is sqrt(1/2), >= 1. With the length of a linear warmup from 0, this is
            the schedule of Vaswani et al.

    Raises:
        PlanError: ``timescale`` below 1.

    Sources:
        Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, equation 3. Their first step has the number 1, so
        their learning rate in step n is the factor here after n steps.

    Example:
        >>> [InverseSqrt(timescale=100).factor(s) for s in (0, 300, 1500)]
        [1.0, 0.5, 0.25]
    """

    name: ClassVar[str] = "inverse_sqrt"
    timescale: int

    def __post_init__(self) -> None:
        check_length("timescale", self.timescale)

    def factor(self, samples: float) -> float:
        """Return ``sqrt(timescale / (timescale + samples))``."""
        return sqrt(self.timescale / (self.timescale + samples))


@dataclass(frozen=True, kw_only=True, slots=True)
class Ramp(Shape):
    """A climb from ``low`` to the peak over ``length`` samples: the learning-rate range test.

        factor = low ** (1 - p)            exponential: even steps in the logarithm
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
        """Return the share of the peak on the climb."""
        done = progress(samples, self.length)
        return above(self.low, done) if self.spacing == "linear" else float(self.low ** (1.0 - done))
