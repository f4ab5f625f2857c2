"""Shapes that fall from the end of the warmup to a given length, and are constant after it."""

from dataclasses import dataclass
from math import cos, pi, sqrt
from typing import ClassVar, Literal, get_args

from scaler.core.shape import Shape, above, check_choice, check_fits, check_length, check_share, progress
from scaler.errors import PlanError

Tail = Literal["linear", "sqrt", "1-sqrt"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Linear(Shape):
    """A straight line from the peak to ``final_fraction``.

        factor = f + (1 - f) * (1 - p), with p = samples / length   up to the end, then f

    Args:
        length: samples from the end of the warmup to the end of the line, >= 1.
        final_fraction: f, share of the peak at the end and after it, in [0, 1].

    Raises:
        PlanError: a setting outside its range.

    Sources:
        Defazio et al. 2023, https://arxiv.org/abs/2310.07831 (linear to zero); torch.optim.lr_scheduler.LinearLR with
        ``start_factor`` 1 and ``end_factor`` f.

    Example:
        >>> [Linear(length=400, final_fraction=0.25).factor(s) for s in (0, 200, 400, 500)]
        [1.0, 0.625, 0.25, 0.25]
    """

    name: ClassVar[str] = "linear"
    length: int
    final_fraction: float = 0.0

    def __post_init__(self) -> None:
        check_length("length", self.length)
        check_share("final_fraction", self.final_fraction)

    def factor(self, samples: float) -> float:
        """Return the height of the line."""
        return above(self.final_fraction, 1.0 - progress(samples, self.length))


@dataclass(frozen=True, kw_only=True, slots=True)
class Polynomial(Shape):
    """A fall with a power of (1 - progress).

        factor = f + (1 - f) * (1 - p) ** power, with p = samples / length   up to the end, then f

    Args:
        length: samples from the end of the warmup to the end of the fall, >= 1.
        power: > 0; 1 is a straight line, above 1 falls early, below 1 falls late.
        final_fraction: f, share of the peak at the end and after it, in [0, 1].

    Raises:
        PlanError: a setting outside its range.

    Sources:
        Chen et al. 2016, https://arxiv.org/abs/1606.00915 ("poly", power 0.9);
        torch.optim.lr_scheduler.PolynomialLR, which always ends at 0.

    Example:
        >>> [Polynomial(length=400, power=2.0).factor(s) for s in (0, 200, 300, 400, 500)]
        [1.0, 0.25, 0.0625, 0.0, 0.0]
    """

    name: ClassVar[str] = "polynomial"
    length: int
    power: float = 1.0
    final_fraction: float = 0.0

    def __post_init__(self) -> None:
        check_length("length", self.length)
        if not 0.0 < self.power < float("inf"):
            raise PlanError(f"schedule.power = {self.power:g} is not in (0, inf).", "1 is a straight line.")
        check_share("final_fraction", self.final_fraction)

    def factor(self, samples: float) -> float:
        """Return the power of (1 - progress), above the final fraction."""
        return above(self.final_fraction, (1.0 - progress(samples, self.length)) ** self.power)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cosine(Shape):
    """Half a cosine from the peak to ``final_fraction``.

        factor = f + (1 - f) * (1 + cos(pi * p)) / 2, with p = samples / length   up to the end, then f

    Args:
        length: samples from the end of the warmup to the end of the half cosine, >= 1.
        final_fraction: f, share of the peak at the end and after it, in [0, 1].

    Raises:
        PlanError: a setting outside its range.

    Sources:
        Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983, equation 5, one period;
        torch.optim.lr_scheduler.CosineAnnealingLR with ``eta_min`` = f * peak, which climbs again after ``T_max``; here
        the learning rate stays constant.

    Example:
        >>> [round(Cosine(length=400, final_fraction=0.1).factor(s), 12) for s in (0, 200, 400, 800)]
        [1.0, 0.55, 0.1, 0.1]
    """

    name: ClassVar[str] = "cosine"
    length: int
    final_fraction: float = 0.0

    def __post_init__(self) -> None:
        check_length("length", self.length)
        check_share("final_fraction", self.final_fraction)

    def factor(self, samples: float) -> float:
        """Return the height of the half cosine."""
        return above(self.final_fraction, (1.0 + cos(pi * progress(samples, self.length))) / 2.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Wsd(Shape):
    """Warmup-stable-decay: the peak until ``decay_start``, then a short fall (the tail).

    With p = (samples - decay_start) / (length - decay_start), clipped to [0, 1], and f = ``final_fraction``:

        factor = f + (1 - f) * (1 - p)         tail linear
        factor = f + (1 - f) * sqrt(1 - p)     tail sqrt
        factor = f + (1 - f) * (1 - sqrt(p))   tail 1-sqrt

    Args:
        decay_start: samples from the end of the warmup to the start of the tail, >= 0.
        length: samples from the end of the warmup to the end of the tail, > ``decay_start``.
        tail: ``linear``; ``sqrt``, which falls late; ``1-sqrt``, which falls early.
        final_fraction: share of the peak at the end and after it, in [0, 1].

    Raises:
        PlanError: a setting outside its range, or a tail of no samples.

    Sources:
        Hu et al. 2024, https://arxiv.org/abs/2404.06395 (the name; their tail is exponential). Hägele et al. 2024,
        https://arxiv.org/abs/2405.18392 (linear and 1-sqrt). torchtitan calls 1-sqrt ``sqrt``.

    Example:
        >>> stable = Wsd(decay_start=800, length=1200, tail="1-sqrt")
        >>> [stable.factor(s) for s in (0, 800, 900, 1200, 1300)]
        [1.0, 1.0, 0.5, 0.0, 0.0]
    """

    name: ClassVar[str] = "wsd"
    decay_start: int
    length: int
    tail: Tail = "linear"
    final_fraction: float = 0.0

    def __post_init__(self) -> None:
        check_length("decay_start", self.decay_start, least=0)
        check_length("length", self.length)
        check_fits("decay_start", self.decay_start, self.length)
        check_choice("tail", self.tail, get_args(Tail))
        check_share("final_fraction", self.final_fraction)

    def factor(self, samples: float) -> float:
        """Return 1 before the tail, then the height of the tail."""
        done = progress(samples - self.decay_start, self.length - self.decay_start)
        match self.tail:
            case "linear":
                height = 1.0 - done
            case "sqrt":
                height = sqrt(1.0 - done)
            case "1-sqrt":
                height = 1.0 - sqrt(done)
        return above(self.final_fraction, height)

    def corners(self, total: int) -> tuple[int, ...]:
        """Return the start and the end of the tail."""
        return tuple(place for place in (self.decay_start, self.length) if place <= total)
