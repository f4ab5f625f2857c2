"""All shapes of a schedule, for a script of one's own: ``scaler.Schedule(shape=scaler.shapes.Cosine(...))``.

Example:
    >>> import scaler
    >>> shape = scaler.shapes.Cosine(length=90_000)
    >>> schedule = scaler.Schedule(shape=shape, warmup=scaler.Warmup(samples=10_000, start=0.25))
    >>> [schedule(samples_seen) for samples_seen in (0, 5_000, 10_000, 100_000)]
    [0.25, 0.625, 1.0, 0.0]
"""

from scaler.core.cycles import CosineRestarts, Cyclical, OneCycle
from scaler.core.decays import Cosine, Linear, Polynomial, Wsd
from scaler.core.shape import Shape
from scaler.core.shapes import Constant, Exponential, InverseSqrt, MultiStep, Ramp, Step

__all__ = [
    "Constant",
    "Cosine",
    "CosineRestarts",
    "Cyclical",
    "Exponential",
    "InverseSqrt",
    "Linear",
    "MultiStep",
    "OneCycle",
    "Polynomial",
    "Ramp",
    "Shape",
    "Step",
    "Wsd",
]
