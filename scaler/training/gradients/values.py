"""Values that one worker records in training besides the loss."""

from collections.abc import Iterable, Mapping
from math import isfinite
from typing import NamedTuple

import torch
from torch import Tensor

from scaler.metrics.mean import Mean
from scaler.training.gradients.losses import Value


class Means(NamedTuple):
    """Means over a worker's steps, as the event ``Recorded`` has them."""

    values: Mapping[str, float | None]  # None: not finite
    weights: Mapping[str, float]


class RecordedValues:
    """Keeps what the steps of one worker record, without waiting for the device."""

    def __init__(self) -> None:
        self._kept: list[tuple[str, Tensor | float, Tensor | float]] = []  # name, sum of weight * value, weight

    def add(self, values: Iterable[Value], *, samples: int) -> None:
        """Keep the values of a batch.

        Args:
            values: of the batch.
            samples: in it that count; a mean has this weight. With 0, the values do not count.
        """
        for name, value, weight in values if samples else ():
            self._kept.append((name, value * samples, samples) if weight is None else (name, value, weight))

    def take(self) -> Means | None:
        """Return the means since the last call, and begin anew; None if there are none."""
        kept, self._kept = self._kept, []
        numbers = [number for _, *pair in kept for number in pair]
        on_device = [number.double().reshape(()) for number in numbers if isinstance(number, Tensor)]
        copied = iter(torch.stack(on_device).tolist() if on_device else ())  # one copy, because each one waits
        plain = [next(copied) if isinstance(number, Tensor) else float(number) for number in numbers]
        means: dict[str, Mean] = {}
        for (name, *_), total, weight in zip(kept, plain[::2], plain[1::2], strict=True):
            means.setdefault(name, Mean()).add_sum(total, weight)
        found = {name: mean.value for name, mean in means.items() if mean.weight != 0.0}
        if not found:
            return None
        return Means(
            {name: value if value is not None and isfinite(value) else None for name, value in found.items()},
            {name: means[name].weight for name in found},
        )
