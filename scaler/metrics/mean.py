"""The weighted mean of losses, over ranks, micro-steps, steps and epochs.

    mean = sum of weight * loss / sum of weight

The weight of a mean over samples is the number of samples; a loss that returns ``(sum, weight)`` has that weight. With
weight 0 there is no loss: the share is empty, or the loss counts none of its samples. ``scaler.metrics.means`` computes
the means of arrays; numpy takes as long to import as everything else that ``scaler status`` does.
"""

from dataclasses import dataclass


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
