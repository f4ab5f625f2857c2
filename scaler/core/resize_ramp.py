"""The short climb after a resize that raises the learning rate: from the old learning rate to the new one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from scaler.errors import PlanError


@dataclass(frozen=True, kw_only=True, slots=True)
class ResizeRamp:
    """A factor of the planned learning rate after a resize that raised it: it climbs from ``factor`` to 1.

        factor + (1 - factor) * (samples_seen - start) / (stop - start)    from start to stop; 1 outside

    The idea is that of Lin et al. 2019, "Dynamic Mini-batch SGD for Elastic Distributed Training",
    https://arxiv.org/abs/1904.12043, where the learning rate grows linearly when the batch does.

    Args:
        start: samples seen at the resize.
        stop: samples seen where the planned learning rate is reached; above ``start``.
        factor: the old learning rate over the new one, in (0, 1).

    Raises:
        PlanError: numbers out of range.

    Example:
        >>> ramp = ResizeRamp(start=1000, stop=1200, factor=0.5)
        >>> [ramp.at(samples) for samples in (999, 1000, 1100, 1200)]
        [1.0, 0.5, 0.75, 1.0]
    """

    start: int
    stop: int
    factor: float

    def __post_init__(self) -> None:
        if not (0 <= self.start < self.stop and 0.0 < self.factor < 1.0):
            raise PlanError(
                f"a ramp from {self.start} to {self.stop} samples with factor {self.factor:g} does not climb.",
                "It needs 0 <= start < stop and a factor between 0 and 1.",
            )

    def at(self, samples_seen: int) -> float:
        """Return the factor of the step that starts after ``samples_seen`` samples."""
        if not self.start <= samples_seen < self.stop:
            return 1.0
        return self.factor + (1.0 - self.factor) * ((samples_seen - self.start) / (self.stop - self.start))

    def to_dict(self) -> dict[str, Any]:
        """Return the ramp as plain values for JSON."""
        return {"start": self.start, "stop": self.stop, "factor": self.factor}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any] | None) -> Self | None:
        """Return the ramp that ``to_dict`` wrote; None for None."""
        if values is None:
            return None
        return cls(start=int(values["start"]), stop=int(values["stop"]), factor=float(values["factor"]))


def ramp_after(before: float, now: float, *, above: float, start: int, length: int) -> ResizeRamp | None:
    """Return the ramp after a resize; None if the learning rate does not jump.

    Args:
        before: the learning rate that the next step would have had, >= 0.
        now: the learning rate that is planned for that step at the new batch, without a ramp.
        above: there is a ramp only if ``now`` is more than this many times ``before``.
        start: samples seen at the resize.
        length: samples of the climb, >= 1.

    Example:
        >>> ramp_after(0.1, 0.3, above=1.5, start=1000, length=200)
        ResizeRamp(start=1000, stop=1200, factor=0.33333333333333337)
        >>> [ramp_after(before, 0.3, above=1.5, start=1000, length=200) for before in (0.0, 0.2, 0.4)]
        [None, None, None]
    """
    if not 0.0 < before * above < now:
        return None
    return ResizeRamp(start=start, stop=start + length, factor=before / now)
