"""The weighted mean of losses, over ranks, micro-steps, steps and epochs. It is computed only here.

    mean = sum of weight * loss / sum of weight

The weight of a mean over samples is the number of samples; a loss that returns ``(sum, weight)`` has that weight. With
weight 0 there is no loss: the share is empty, or the loss counts none of its samples.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(slots=True)
class Mean:
    """A weighted mean to which losses are added one by one."""

    total: float = 0.0  # of weight * loss
    weight: float = 0.0

    def add(self, loss: float | None, weight: float) -> None:
        """Add a loss that is a mean over ``weight``; None adds nothing.

        Example:
            >>> mean = Mean()
            >>> for loss, weight in ((8.0, 1.0), (0.0, 3.0), (None, 5.0)):
            ...     mean.add(loss, weight)
            >>> mean.value
            2.0
        """
        if loss is not None and weight != 0:  # a NaN weight is added, too, and makes the mean NaN
            self.add_sum(loss * weight, weight)

    def add_sum(self, total: float, weight: float) -> None:
        """Add a sum of ``weight * loss``, and the sum of its weights."""
        self.total += total
        self.weight += weight

    @property
    def value(self) -> float | None:
        """The mean; None while the weight is 0."""
        return self.total / self.weight if self.weight != 0 else None


def loss_sums(losses: NDArray[Any], weights: NDArray[Any]) -> Floats:
    """Return each ``weight * loss``; 0 where the weight is 0, even if the loss is NaN.

    Example:
        >>> loss_sums(np.array([8.0, 0.5, np.nan]), np.array([1, 4, 0])).tolist()
        [8.0, 2.0, 0.0]
    """
    found: Floats = np.multiply(losses, weights, out=np.zeros(np.shape(losses)), where=np.asarray(weights) != 0)
    return found


def means_of(sums: NDArray[Any], weights: NDArray[Any]) -> Floats:
    """Return the means of sums of ``weight * loss``, given the sums of the weights; NaN where those are 0.

    Example:
        >>> means_of(np.array([8.0, 0.0]), np.array([4, 0])).tolist()
        [2.0, nan]
    """
    found: Floats = np.divide(sums, weights, out=np.full(np.shape(sums), np.nan), where=np.asarray(weights) != 0)
    return found
