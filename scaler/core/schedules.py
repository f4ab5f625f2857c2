"""The learning-rate schedule as a share of ``peak_lr`` and a function of the samples seen: a warmup, then a shape."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from math import cos, pi
from types import MappingProxyType
from typing import Any, Literal, Self, get_args

from scaler.core.cycles import CosineRestarts, Cyclical, OneCycle
from scaler.core.decays import Cosine, Linear, Polynomial, Wsd
from scaler.core.shape import Shape, above, check_choice, check_length, check_share
from scaler.core.shapes import Constant, Exponential, InverseSqrt, MultiStep, Ramp, Step
from scaler.errors import PlanError

SHAPES: Mapping[str, type[Shape]] = MappingProxyType(
    {
        shape.name: shape
        for shape in (
            Constant,
            Step,
            MultiStep,
            Exponential,
            Linear,
            Polynomial,
            Cosine,
            CosineRestarts,
            Cyclical,
            OneCycle,
            Wsd,
            InverseSqrt,
            Ramp,
        )
    }
)

WarmupShape = Literal["linear", "constant", "cosine"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Warmup:
    """The climb to the peak at the start of training. With t = samples_seen / samples:

        factor = start * (1 - t) + t                           shape linear
        factor = start                                         shape constant, then a jump
        factor = start + (1 - start) * (1 - cos(pi * t)) / 2   shape cosine

    and 1 after the end, for each shape.

    Args:
        samples: length of the warmup; 0: no warmup.
        start: share of ``peak_lr`` at the first step, in [0, 1].
        shape: ``linear``, ``constant`` or ``cosine``.

    Raises:
        PlanError: a setting outside its range.

    Sources:
        Goyal et al. 2017, https://arxiv.org/abs/1706.02677, section 2.2: linear ("gradual") and constant; there
        ``start`` is 1 / lr_ratio. Cosine is the climb of torch.optim.lr_scheduler.OneCycleLR.

    Example:
        >>> [Warmup(samples=400, start=0.2).factor(s) for s in (0, 200, 400, 600)]
        [0.2, 0.6, 1.0, 1.0]
    """

    samples: int = 0
    start: float = 0.0
    shape: WarmupShape = "linear"

    def __post_init__(self) -> None:
        check_length("warmup.samples", self.samples, least=0)
        check_share("warmup.start", self.start)
        check_choice("warmup.shape", self.shape, get_args(WarmupShape))

    def factor(self, samples_seen: float) -> float:
        """Return the share of ``peak_lr`` after ``samples_seen`` samples, in [``start``, 1]."""
        if samples_seen >= self.samples:
            return 1.0
        done = samples_seen / self.samples
        match self.shape:
            case "linear":
                return self.start * (1.0 - done) + done
            case "constant":
                return self.start
            case "cosine":
                return above(self.start, (1.0 - cos(pi * done)) / 2.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Warmups, then a shape: the share of ``peak_lr`` at any sample, without a counter of its own.

        factor = warmup.factor(samples_seen) * reference_warmup.factor(samples_seen) * shape.factor(0)   in the warmup
        factor = shape.factor(samples_seen - origin)                                                     after it

    The warmup is as long as the longer of the two. The origin is its end, or 0 for the shapes that count the warmup
    (``step``, ``multi_step``), whose drops during the warmup take effect at its end. A warmup ends where the shape
    begins: at the peak, or at the start of ``cyclical`` and ``one_cycle``, which climb themselves.

    Args:
        shape: the shape after the warmup.
        warmup: the climb from the reference's learning rate to the peak. Default: none.
        reference_warmup: the warmup that the reference was tuned with. Default: none. At the reference's batch,
            ``warmup`` has no effect, and the schedule is the reference's.

    Example:
        >>> schedule = Schedule(shape=Cosine(length=200), warmup=Warmup(samples=100, start=0.5))
        >>> [schedule(s) for s in (0, 50, 100, 200, 300)]
        [0.5, 0.75, 1.0, 0.5, 0.0]
        >>> schedule = Schedule(shape=Constant(), warmup=Warmup(samples=100, start=0.5),
        ...                     reference_warmup=Warmup(samples=200, start=0.0))
        >>> [schedule(s) for s in (0, 50, 100, 200)]
        [0.0, 0.1875, 0.5, 1.0]
    """

    shape: Shape
    warmup: Warmup = Warmup()
    reference_warmup: Warmup = Warmup()

    @property
    def warmup_samples(self) -> int:
        """The length of the warmup in samples: the longer of the two."""
        return max(self.warmup.samples, self.reference_warmup.samples)

    def factor(self, samples_seen: float) -> float:
        """Return the share of ``peak_lr`` for the step that starts after ``samples_seen`` >= 0 samples, in [0, 1]."""
        if samples_seen < self.warmup_samples:
            climb = self.warmup.factor(samples_seen) * self.reference_warmup.factor(samples_seen)
            return climb * (1.0 if self.shape.counts_warmup else self.shape.factor(0.0))
        return self.shape.factor(samples_seen - self._origin())

    __call__ = factor

    def momentum(self, samples_seen: float) -> float | None:
        """Return the momentum of the step that starts after ``samples_seen``; None: the shape does not cycle it.

        During the warmup it is the momentum at the shape's origin.

        Example:
            >>> shape = OneCycle(climb=100, length=400, low_momentum=0.75, high_momentum=1 - 1 / 16)
            >>> schedule = Schedule(shape=shape, warmup=Warmup(samples=50))
            >>> [schedule.momentum(s) for s in (0, 50, 150, 450)]
            [0.9375, 0.9375, 0.75, 0.9375]
        """
        return self.shape.momentum(max(samples_seen - self._origin(), 0))

    def corners(self, total_samples: int) -> tuple[int, ...]:
        """Return the corners and jumps of the learning rate up to ``total_samples``, and the end of the warmup.

        Example:
            >>> Schedule(shape=Step(every=100, decay=0.5), warmup=Warmup(samples=150)).corners(400)
            (150, 200, 300, 400)
        """
        origin = self._origin()
        places = (origin + place for place in self.shape.corners(max(total_samples - origin, 0)))
        ends = {self.warmup.samples, self.reference_warmup.samples} - {0} or {0}
        later = {place for place in places if place > self.warmup_samples}
        return tuple(sorted(later | {end for end in ends if end <= total_samples}))

    @property
    def end(self) -> int | None:
        """The end of the shape, in samples; None for a shape without an end, such as ``constant`` or ``step``.

        Example:
            >>> Schedule(shape=Cosine(length=200), warmup=Warmup(samples=100)).end
            300
        """
        length = getattr(self.shape, "length", None)
        return None if length is None else self._origin() + int(length)

    def _origin(self) -> int:
        return 0 if self.shape.counts_warmup else self.warmup_samples

    def to_dict(self) -> dict[str, Any]:
        """Return the schedule as plain values for JSON; ``from_dict`` is the inverse.

        Example:
            >>> Schedule(shape=Step(every=100, decay=0.5)).to_dict()
            {'name': 'step', 'every': 100, 'decay': 0.5, 'warmup': {'samples': 0, 'start': 0.0, 'shape': 'linear'}}
        """
        made = {"name": self.shape.name, **_settings(self.shape), "warmup": _settings(self.warmup)}
        if self.reference_warmup.samples:
            made["reference_warmup"] = _settings(self.reference_warmup)
        return made

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the schedule that ``to_dict`` wrote; settings with a default may be missing.

        Raises:
            PlanError: an unknown name, or a setting that is unknown, missing or out of range.
        """
        settings = dict(values)
        name = settings.pop("name", None)
        if name not in SHAPES:
            raise PlanError(f"schedule.name = {name} is not a schedule.", f"Schedules: {', '.join(SHAPES)}.")
        warmups = {
            key: Warmup(**_read(f"schedule.{key}", Warmup, settings.pop(key, {})))
            for key in ("warmup", "reference_warmup")
        }
        return cls(shape=SHAPES[name](**_read(f"schedule {name}", SHAPES[name], settings)), **warmups)


def _settings(value: Shape | Warmup) -> dict[str, Any]:
    settings = {field.name: getattr(value, field.name) for field in fields(value)}
    return {name: list(setting) if isinstance(setting, tuple) else setting for name, setting in settings.items()}


def _read(where: str, kind: type[Shape | Warmup], settings: Mapping[str, Any]) -> dict[str, Any]:
    required = {field.name: field.default is MISSING for field in fields(kind)}
    for name in settings:
        if name not in required:
            raise PlanError(f"{where} has no setting {name}.", f"Settings: {', '.join(required) or 'none'}.")
    for name in required:
        if required[name] and name not in settings:
            raise PlanError(f"{where} needs {name}.", f"Settings: {', '.join(required)}.")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
