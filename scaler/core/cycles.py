"""Shapes that climb: cosine with restarts, cyclical and one cycle."""

from abc import abstractmethod
from dataclasses import dataclass
from math import ceil, cos, expm1, floor, log1p, pi
from typing import ClassVar, Literal, get_args

from scaler.core.shape import (
    MOST_CORNERS,
    Shape,
    above,
    check_choice,
    check_decay,
    check_fits,
    check_length,
    check_share,
    progress,
    spread,
)
from scaler.errors import PlanError

Mode = Literal["triangular", "triangular2", "exp_range"]
Anneal = Literal["cosine", "linear"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CosineRestarts(Shape):
    """Repeated half cosines from the peak, each ``growth`` times as long as the one before.

        factor = f + (1 - f) * (1 + cos(pi * p)) / 2
        cycle n starts at first * (growth ** n - 1) / (growth - 1) and is first * growth ** n long; p in [0, 1] is the
        progress in it

    At a restart the factor is exactly 1. There is no last cycle. The starts of cycles are not rounded to whole samples.
    A start counts as reached at a relative distance of 1e-12 before it.

    Args:
        first: samples of the first cycle, from the end of the warmup, >= 1.
        growth: length of a cycle divided by the length of the cycle before it, in [1, 1000], not necessarily whole.
        final_fraction: f, share of the peak just before a restart, in [0, 1].

    Raises:
        PlanError: a setting outside its range.

    Sources:
        Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983, equation 5 (SGDR; ``growth`` is their T_mult);
        torch.optim.lr_scheduler.CosineAnnealingWarmRestarts, which allows only whole ``T_mult``.

    Example:
        >>> restarts = CosineRestarts(first=100, growth=2.0)
        >>> [round(restarts.factor(s), 12) for s in (0, 50, 100, 200, 300)]
        [1.0, 0.5, 1.0, 0.5, 1.0]
    """

    name: ClassVar[str] = "cosine_restarts"
    first: int
    growth: float = 1.0
    final_fraction: float = 0.0

    def __post_init__(self) -> None:
        check_length("first", self.first)
        if not 1.0 <= self.growth <= 1000.0:
            raise PlanError(
                f"schedule.growth = {self.growth:g} is not in [1, 1000].", "Use 1 for cycles of the same length."
            )
        check_share("final_fraction", self.final_fraction)

    def factor(self, samples: float) -> float:
        """Return the height of the half cosine of the cycle that ``samples`` is in."""
        return above(self.final_fraction, (1.0 + cos(pi * self._done(samples))) / 2.0)

    def corners(self, total: int) -> tuple[int, ...]:
        """Return the restarts, each the first whole sample of its cycle."""
        starts = (ceil(self._start(cycle) * (1.0 - 1e-12)) for cycle in spread(self._cycle(total)))
        return tuple(dict.fromkeys(starts))

    def _done(self, samples: float) -> float:
        if self.growth == 1.0:
            return (samples % self.first) / self.first
        cycle = self._cycle(samples)
        return progress(samples - self._start(cycle), self.first * self.growth**cycle)

    def _cycle(self, samples: float) -> int:
        """Return the number of the cycle that ``samples`` is in, from 0."""
        if self.growth == 1.0:
            return int(samples // self.first)
        more = self.growth - 1.0
        return floor(log1p(samples / self.first * more) / log1p(more) * (1.0 + 1e-12))

    def _start(self, cycle: int) -> float:
        if self.growth == 1.0:
            return cycle * self.first
        more = self.growth - 1.0
        return self.first * expm1(cycle * log1p(more)) / more


@dataclass(frozen=True, kw_only=True, slots=True)
class MomentumCycle(Shape):
    """A shape that can cycle the momentum in the opposite direction to the learning rate.

        momentum = high_momentum * (1 - rise) + low_momentum * rise

    Args:
        low_momentum: momentum (Adam: beta1) at the highest learning rate, in [0, 1); None: momentum is not cycled.
        high_momentum: momentum at the lowest learning rate, in [low_momentum, 1); None: momentum is not cycled.

    Raises:
        PlanError: only one of the two is given, or a setting is outside its range.
    """

    low_momentum: float | None = None
    high_momentum: float | None = None

    def __post_init__(self) -> None:
        given = {"low_momentum": self.low_momentum, "high_momentum": self.high_momentum}
        for field, other in (("low_momentum", "high_momentum"), ("high_momentum", "low_momentum")):
            value = given[field]
            if value is None:
                continue
            if not 0.0 <= value < 1.0:
                raise PlanError(f"schedule.{field} = {value:g} is not in [0, 1).", "A usual cycle is 0.85 to 0.95.")
            if given[other] is None:
                raise PlanError(f"schedule.{field} = {value:g} comes without {other}.", "Give both, or neither.")
        if self.low_momentum is not None and self.high_momentum is not None and self.low_momentum > self.high_momentum:
            raise PlanError(
                f"schedule.low_momentum = {self.low_momentum:g} is above high_momentum = {self.high_momentum:g}.",
                f"Did you mean low_momentum: {self.high_momentum:g}, high_momentum: {self.low_momentum:g}?",
            )

    @abstractmethod
    def rise(self, samples: float) -> float:
        """Return where the learning rate is between its lowest value (0) and its highest (1)."""

    def momentum(self, samples: float) -> float | None:
        """Return the momentum ``samples`` after the origin; None: momentum is not cycled."""
        if self.low_momentum is None or self.high_momentum is None:
            return None
        risen = self.rise(samples)
        return self.high_momentum * (1.0 - risen) + self.low_momentum * risen


@dataclass(frozen=True, kw_only=True, slots=True)
class Cyclical(MomentumCycle):
    """Triangles between ``low`` and the peak, repeated without end.

    After n whole cycles of ``climb + descent`` samples, with h in [0, 1] the height in the triangle:

        factor = low + (1 - low) * h * a
        a = 1 (triangular), 0.5 ** n (triangular2) or decay ** (samples / (climb + descent)) (exp_range)

    Momentum, if given, is cycled in the opposite direction, with the same a.

    Args:
        climb: samples from the lowest point to the highest, >= 1.
        descent: samples from the highest point to the lowest, >= 1.
        low: share of the peak at the lowest point, in [0, 1].
        mode: ``triangular``: the amplitude stays; ``triangular2``: it halves after each cycle; ``exp_range``: it decays
            smoothly.
        decay: factor of the amplitude over one cycle, in (0, 1]; for exp_range only.
        low_momentum: as in ``MomentumCycle``.
        high_momentum: as in ``MomentumCycle``.

    Raises:
        PlanError: a setting outside its range, or ``decay`` without exp_range.

    Sources:
        Smith 2015, https://arxiv.org/abs/1506.01186; torch.optim.lr_scheduler.CyclicLR, whose ``gamma`` is per step:
        ``decay`` = gamma ** (steps per cycle).

    Example:
        >>> [Cyclical(climb=100, descent=300, low=0.25).factor(s) for s in (0, 50, 100, 250, 400)]
        [0.25, 0.625, 1.0, 0.625, 0.25]
    """

    name: ClassVar[str] = "cyclical"
    climb: int
    descent: int
    low: float
    mode: Mode = "triangular"
    decay: float = 1.0

    def __post_init__(self) -> None:
        MomentumCycle.__post_init__(self)  # super() does not work in a dataclass with slots
        check_length("climb", self.climb)
        check_length("descent", self.descent)
        check_share("low", self.low)
        check_choice("mode", self.mode, get_args(Mode))
        check_decay(self.decay)
        if self.decay != 1.0 and self.mode != "exp_range":
            raise PlanError(
                f"schedule.decay = {self.decay:g} has no effect in mode {self.mode}.", "Use mode: exp_range."
            )

    def rise(self, samples: float) -> float:
        """Return the triangle's height times its amplitude."""
        cycle = self.climb + self.descent
        inside = samples % cycle
        height = inside / self.climb if inside <= self.climb else (cycle - inside) / self.descent
        match self.mode:
            case "triangular":
                amplitude = 1.0
            case "triangular2":
                amplitude = 0.5 ** (samples // cycle)
            case "exp_range":
                amplitude = self.decay ** (samples / cycle)
        return float(height * amplitude)

    def factor(self, samples: float) -> float:
        """Return the rise above ``low``."""
        return above(self.low, self.rise(samples))

    def corners(self, total: int) -> tuple[int, ...]:
        """Return the highest and lowest points; of many cycles, those of an even selection of cycles."""
        cycle = self.climb + self.descent
        cycles = spread(total // cycle + 1, most=MOST_CORNERS // 2)
        places = (place for n in cycles for place in ((n - 1) * cycle + self.climb, n * cycle))
        return tuple(place for place in places if place <= total)


@dataclass(frozen=True, kw_only=True, slots=True)
class OneCycle(MomentumCycle):
    """One climb to the peak, then one descent to far below the start.

    With b = ``start_fraction`` before ``climb`` and ``final_fraction`` after it, and a rise r from 0 at the origin to 1
    at ``climb`` and back to 0 at ``length``; climb and descent are each half a cosine or a straight line:

        factor = b + (1 - b) * r   up to the end, then final_fraction

    Momentum, if given, changes from high to low and back, with the same r.

    Args:
        climb: samples from the origin to the peak, >= 0 and < ``length``; 0 starts at the peak.
        length: samples from the origin to the end of the descent.
        start_fraction: share of the peak at the origin, in [0, 1].
        final_fraction: share of the peak at the end and after it, in [0, 1].
        anneal: form of the climb and of the descent, ``cosine`` or ``linear``.
        low_momentum: as in ``MomentumCycle``.
        high_momentum: as in ``MomentumCycle``.

    Raises:
        PlanError: a setting outside its range, or a descent of no samples.

    Sources:
        Smith and Topin 2017, https://arxiv.org/abs/1708.07120; torch.optim.lr_scheduler.OneCycleLR with two phases. In
        torch, ``final_div_factor`` is relative to the start, and the phases end at the steps
        ``pct_start * total_steps - 1`` and ``total_steps - 1``: ``climb`` and ``length`` are one step shorter than
        these phases. torch refuses steps after the end; here the learning rate stays constant.

    Example:
        >>> once = OneCycle(climb=100, length=400, start_fraction=0.25, final_fraction=0.0, anneal="linear")
        >>> [once.factor(s) for s in (0, 50, 100, 250, 400, 500)]
        [0.25, 0.625, 1.0, 0.5, 0.0, 0.0]
    """

    name: ClassVar[str] = "one_cycle"
    climb: int
    length: int
    start_fraction: float = 1 / 25
    final_fraction: float = 1 / 25e4
    anneal: Anneal = "cosine"

    def __post_init__(self) -> None:
        MomentumCycle.__post_init__(self)  # super() does not work in a dataclass with slots
        check_length("climb", self.climb, least=0)
        check_length("length", self.length)
        check_fits("climb", self.climb, self.length)
        check_share("start_fraction", self.start_fraction)
        check_share("final_fraction", self.final_fraction)
        check_choice("anneal", self.anneal, get_args(Anneal))

    def rise(self, samples: float) -> float:
        """Return how far the learning rate has risen: 0 at the origin, 1 at the peak, 0 at the end."""
        if samples < self.climb:
            left = 1.0 - progress(samples, self.climb)
        else:
            left = progress(samples - self.climb, self.length - self.climb)
        return (1.0 + cos(pi * left)) / 2.0 if self.anneal == "cosine" else 1.0 - left

    def factor(self, samples: float) -> float:
        """Return the rise above ``start_fraction``, or after ``climb`` above ``final_fraction``."""
        return above(self.start_fraction if samples < self.climb else self.final_fraction, self.rise(samples))

    def corners(self, total: int) -> tuple[int, ...]:
        """Return the peak and the end."""
        return tuple(place for place in (self.climb, self.length) if place <= total)
