"""Values that a recipe records in training, as means over all workers."""

from collections.abc import Iterable, Mapping
from math import isfinite
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from scaler.metrics.mean import Mean
from scaler.training.gradients.losses import Value


class Means(NamedTuple):
    """Means over all workers and over the steps since the last ones, as the event ``Recorded`` has them."""

    values: Mapping[str, float | None]  # None: not finite
    weights: Mapping[str, float]


class RecordedValues:
    """Keeps what the steps of one worker record, without waiting for the device.

    Attributes:
        is_used: whether any worker has recorded a value; the same on every worker.
    """

    def __init__(self) -> None:
        self.is_used = False
        self._kept: list[tuple[str, Tensor | float, Tensor | float]] = []  # name, sum of weight * value, weight

    def add(self, values: Iterable[Value], *, samples: int) -> None:
        """Keep the values of a batch.

        Args:
            values: of the batch.
            samples: in it that count; a mean has this weight. With 0, the values do not count.
        """
        self.is_used = True
        for name, value, weight in values if samples else ():
            self._kept.append((name, value * samples, samples) if weight is None else (name, value, weight))

    def take(self, *, world_size: int) -> Means | None:
        """Return the means since the last call, and begin anew; None if there are none.

        A collective on several workers, if any value was ever recorded.
        """
        if not self.is_used:
            return None
        sums = self._sums()
        everyone: list[dict[str, tuple[float, float]]] = [sums]
        if world_size > 1:
            everyone = [{}] * world_size
            dist.all_gather_object(everyone, sums)
        means: dict[str, Mean] = {}
        for theirs in everyone:
            for name, (total, weight) in theirs.items():
                means.setdefault(name, Mean()).add_sum(total, weight)
        found = {name: mean.value for name, mean in means.items() if mean.weight != 0.0}
        if not found:
            return None
        return Means(
            {name: value if value is not None and isfinite(value) else None for name, value in found.items()},
            {name: means[name].weight for name in found},
        )

    def _sums(self) -> dict[str, tuple[float, float]]:
        kept, self._kept = self._kept, []
        numbers = [number for _, *pair in kept for number in pair]
        on_device = [number.double().reshape(()) for number in numbers if isinstance(number, Tensor)]
        copied = iter(torch.stack(on_device).tolist() if on_device else ())  # one copy, because each one waits
        plain = [next(copied) if isinstance(number, Tensor) else float(number) for number in numbers]
        sums: dict[str, tuple[float, float]] = {}
        for (name, *_), total, weight in zip(kept, plain[::2], plain[1::2], strict=True):
            before = sums.get(name, (0.0, 0.0))
            sums[name] = (before[0] + total, before[1] + weight)
        return sums
