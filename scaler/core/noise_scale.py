"""The gradient noise scale: the noise of one sample's gradient, and the gain of a larger batch that follows from it.

    noise_scale = tr(Sigma) / |G|^2

with G the gradient of the loss over all data, and Sigma the covariance of one sample's gradient. It is the number of
samples at which the noise of a batch's gradient is as long as the gradient itself. It is measured with two unbiased
numbers per step (``estimate_squares``), which are averaged separately and then divided (``NoiseScaleAverage``, as in
AdaScale; ``noise_history.NoiseHistory`` for the newest step). ``gain`` is its effect on a batch.

The noise scale is often used as a critical batch size, above which a larger batch is wasted. That is only an estimate:
it assumes a loss with the same curvature in all directions, plain SGD, and samples of the same distribution on every
worker. Merrill et al. 2025 (https://arxiv.org/abs/2505.23971) find it too low by orders of magnitude for language
models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import inf, isfinite
from typing import Any, Self

from scaler.errors import PlanError


def gain(batch_ratio: float, *, noise_scale: float, reference_batch_size: float) -> float:
    """Return the number of steps of the reference batch that one step of a larger batch is worth.

        gain = k * (phi + m0) / (phi + k * m0),   k = batch_ratio, phi = noise_scale, m0 = reference_batch_size

    The number has four names: AdaScale's ``r_t``; ``batch_ratio`` times Pollux's statistical efficiency; the ratio of
    McCandlish's optimal learning rates at the two batches; and the lr_ratio of a rule between the linear one (gain = k:
    only noise) and none (gain = 1: no noise).

    Args:
        batch_ratio: global batch size over the reference's, > 0; below 1 scales down by the same formula.
        noise_scale: in samples, >= 0; ``inf``: only noise; 0: no noise.
        reference_batch_size: in samples, > 0.

    Returns:
        A number from 1 to ``batch_ratio``, exactly 1.0 at ``batch_ratio`` 1. It grows with ``batch_ratio``, to at most
        ``1 + noise_scale / reference_batch_size``. Changes of the batch multiply: a change and its reverse give 1.

    Raises:
        PlanError: an argument outside its range, or not a number.

    Sources:
        Johnson et al. 2020, https://arxiv.org/abs/2007.05105, ``r_t`` with sigma2 = tr(Sigma) / m0.
        Qiao et al. 2021, https://arxiv.org/abs/2008.12260, equation 6.
        McCandlish et al. 2018, https://arxiv.org/abs/1812.06162, eps_opt(B) = eps_max / (1 + phi / B).

    Example:
        >>> [gain(16.0, noise_scale=phi, reference_batch_size=32) for phi in (0.0, 480.0, float("inf"))]
        [1.0, 8.258064516129032, 16.0]
    """
    if not 0.0 < batch_ratio < inf:
        raise PlanError(f"batch_ratio = {batch_ratio:g} is not a number above 0.", "It is a ratio of two batch sizes.")
    if not noise_scale >= 0.0:
        raise PlanError(f"noise_scale = {noise_scale:g} is not a number of samples.", "Use 0 or more; inf: only noise.")
    if not 0.0 < reference_batch_size < inf:
        raise PlanError(
            f"reference_batch_size = {reference_batch_size:g} is not a number of samples above 0.",
            "It is the global batch of the reference.",
        )
    noise = noise_scale / reference_batch_size
    if noise == inf:
        return float(batch_ratio)
    worth = batch_ratio * (noise + 1.0) / (noise + batch_ratio)
    return min(max(worth, min(1.0, batch_ratio)), max(1.0, batch_ratio))  # rounding must not leave the range


@dataclass(frozen=True, kw_only=True, slots=True)
class GradientSquares:
    """One step's unbiased estimates: right on average, but a single one is often far off, or negative.

    Args:
        signal: estimate of ``|G|^2``, the squared norm of the gradient without noise.
        variance: estimate of ``tr(Sigma)``, the variance of one sample's gradient, summed over the parameters.
    """

    signal: float
    variance: float


def estimate_squares(
    squares: Sequence[float], sizes: Sequence[float], *, total_square: float, population: int | None = None
) -> GradientSquares | None:
    """Return one step's estimates of the gradient and its noise, from the gradients of its parts.

    Part i (a worker's share or a micro-batch) has the mean gradient g_i of b_i samples; gbar, the step's gradient, is
    the mean over all B = sum b_i. With tr = tr(Sigma), the squared distance of a mean of b samples from G is tr / b on
    average, so

        E |g_i|^2  = |G|^2 + tr / b_i     hence   E mean_i |g_i|^2 = |G|^2 + tr * h,   h = mean_i 1 / b_i
        E |gbar|^2 = |G|^2 + tr / B
        variance   = (mean_i |g_i|^2 - |gbar|^2) / (h - 1 / B)
        signal     = |gbar|^2 - variance / B

    This is McCandlish's pair with B_big = B and B_small = 1 / h, the harmonic mean of the sizes, which makes it right
    for parts of different sizes. If the parts are drawn without replacement from the ``population`` = N samples of an
    epoch, the squared distance from G (the gradient over these N samples) is tr * (1 / b - 1 / N). The variance stays,
    and

        signal     = |gbar|^2 - variance * (1 / B - 1 / N)

    Negative values are kept: AdaScale's code sets them to 0 before averaging, which biases ``signal`` upward.

    Args:
        squares: ``|g_i|^2`` of each part, before clipping and without a loss scale.
        sizes: b_i, samples in each part, >= 0. A part of 0 samples is ignored.
        total_square: ``|gbar|^2``, of the mean over all samples (parts weighted by their samples).
        population: size of the training set if an epoch uses each sample once, as in scaler; None: samples are
            independent draws, and G is the gradient of their distribution. Within an epoch the formula is exact if
            the weights do not change, and close while they change little.

    Returns:
        The estimates; None with fewer than two non-empty parts, or if a number is inf or nan (a step that AMP skips).

    Raises:
        PlanError: lists of different lengths, a negative size, or more samples than ``population``.

    Sources:
        McCandlish et al. 2018, https://arxiv.org/abs/1812.06162, appendix A.1.
        Johnson et al. 2020, https://arxiv.org/abs/2007.05105: the same for even parts.

    Example:
        >>> estimate_squares([10.0, 8.0, 5.0, 3.0], [1, 1, 2, 4], total_square=2.0)
        GradientSquares(signal=1.0, variance=8.0)
        >>> estimate_squares([10.0, 8.0, 5.0, 3.0], [1, 1, 2, 4], total_square=2.0, population=8).signal
        2.0
    """
    if len(squares) != len(sizes):
        raise PlanError(
            f"{len(squares)} squares and {len(sizes)} sizes are not the same number.", "Give one of each per part."
        )
    if any(size < 0 for size in sizes):
        raise PlanError(f"sizes has {min(sizes):g}, which is negative.", "A part without samples has size 0.")
    parts = [(square, size) for square, size in zip(squares, sizes, strict=True) if size != 0]
    if len(parts) < 2 or not all(isfinite(number) for part in parts for number in (*part, total_square)):
        return None
    total = sum(size for _, size in parts)
    if population is not None and total > population:
        raise PlanError(
            f"A step of {total:g} samples is more than population = {population}.", "Give the size of the training set."
        )
    mean_square = sum(square for square, _ in parts) / len(parts)
    variance = (mean_square - total_square) / (sum(1.0 / size for _, size in parts) / len(parts) - 1.0 / total)
    missed = 1.0 / total - (0.0 if population is None else 1.0 / population)
    signal = total_square - variance * missed
    return GradientSquares(signal=signal, variance=variance) if isfinite(signal) and isfinite(variance) else None


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseScaleAverage:
    """AdaScale's running averages of both estimates, and the gain that follows from them.

        average <- average + a * (estimate - average),   a = max(1 / t, 1 - theta) at the t-th estimate

    This is a plain mean while t < 1 / (1 - theta), then an exponential one. ``signal`` and ``variance`` are averaged
    separately, without clipping, and divided after averaging: a mean of ratios of single steps would be useless.
    (AdaScale clips each step's estimates to >= 0 before averaging, which makes ``signal`` too large and the gain too
    small; here the sign of the averages is checked instead.) The averages do not depend on the batch size, so they stay
    valid after a resize.

    The averages cover the steps that theta remembers, so they are late when the noise scale grows; ``NoiseHistory``
    estimates the noise scale of the newest step.

    Args:
        theta: weight of the past, in [0, 1]; 1: always a plain mean.
        steps: number of estimates averaged so far.
        signal: average of ``GradientSquares.signal``.
        variance: average of ``GradientSquares.variance``.

    Raises:
        PlanError: ``theta`` outside [0, 1].

    Example:
        >>> average = NoiseScaleAverage(theta=0.99)
        >>> for signal, variance in [(1.0, 90.0), (-0.5, 110.0), (2.5, 100.0)]:
        ...     average = average.update(GradientSquares(signal=signal, variance=variance))
        >>> average.noise_scale, average.gain(4.0, reference_batch_size=25)
        (100.0, 2.5)
    """

    theta: float
    steps: int = 0
    signal: float = 0.0
    variance: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.theta <= 1.0:
            raise PlanError(f"theta = {self.theta:g} is not in [0, 1].", "It is the weight of the past, such as 0.99.")

    @classmethod
    def of_adascale(cls, batch_ratio: float) -> Self:
        """Return AdaScale's average over 1000 reference batches: theta = max(0, 1 - batch_ratio / 1000).

        Source: Johnson et al. 2020, https://arxiv.org/abs/2007.05105, section 3.3.
        """
        return cls(theta=max(0.0, 1.0 - batch_ratio / 1000.0))

    def update(self, squares: GradientSquares | None) -> Self:
        """Return the averages with one more step's estimates; None (a step without estimates) changes nothing."""
        if squares is None:
            return self
        weight = max(1.0 / (self.steps + 1), 1.0 - self.theta)
        return replace(
            self,
            steps=self.steps + 1,
            signal=self.signal + weight * (squares.signal - self.signal),
            variance=self.variance + weight * (squares.variance - self.variance),
        )

    @property
    def noise_scale(self) -> float | None:
        """``variance / signal`` in samples; None if nothing is measured or an average is not above 0."""
        if not (self.signal > 0.0 and self.variance > 0.0):
            return None
        return self.variance / self.signal

    def gain(self, batch_ratio: float, reference_batch_size: float) -> float | None:
        """Return ``gain`` at the measured noise scale; None if it is not known."""
        phi = self.noise_scale
        if phi is None:
            return None
        return gain(batch_ratio, noise_scale=phi, reference_batch_size=reference_batch_size)

    def to_dict(self) -> dict[str, float]:
        """Return plain numbers for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, state: Mapping[str, Any], *, theta: float) -> Self:
        """Return the averages that ``to_dict`` wrote, with another ``theta``."""
        return cls(theta=theta, **{name: state[name] for name in ("steps", "signal", "variance")})
