"""The weighted means of arrays of losses, as ``scaler.metrics.mean`` defines the mean."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


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
