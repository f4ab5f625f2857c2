"""The gradient noise scale: how noisy one sample's gradient is, and how much a larger batch is therefore worth.

    noise_scale = tr(Sigma) / |G|^2

with G the gradient of the loss over all data, Sigma the covariance of one sample's gradient about it: the number of
samples at which the noise of a batch's gradient is as long as the gradient itself. Two unbiased numbers a step are
enough to measure it (``estimate_squares``), averaged apart and divided late (``NoiseScaleAverage``, AdaScale's, and
``noise_history.NoiseHistory`` for that of the newest step); ``gain`` says what it means for a batch.

The noise scale is often read as a critical batch size, beyond which a larger batch is wasted. That is an estimate, and
advice: it takes the loss to be curved alike in all directions, plain SGD, and samples drawn alike on every worker.
Merrill et al. 2025 (https://arxiv.org/abs/2505.23971) find it too low by orders of magnitude on language models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import inf, isfinite
from typing import Any, Self

from scaler.errors import PlanError


def gain(batch_ratio: float, *, noise_scale: float, reference_batch_size: float) -> float:
    """Return how many steps of the reference batch one step of a batch ``batch_ratio`` times as large is worth.

        gain = k * (phi + m0) / (phi + k * m0),   k = batch_ratio, phi = noise_scale, m0 = reference_batch_size

    The same number under four names: AdaScale's ``r_t``; ``batch_ratio`` times Pollux's statistical efficiency; the
    ratio of McCandlish's best learning rates at the two batches; and the lr_ratio of a rule between the linear one
    (gain = k, nothing but noise) and none (gain = 1, no noise).

    Args:
        batch_ratio: global batch size over the reference's, > 0; below 1 scales down by the same formula.
        noise_scale: in samples, >= 0; ``inf`` is all noise, 0 is none.
        reference_batch_size: in samples, > 0.

    Returns:
        Between 1 and ``batch_ratio``, both included, exactly 1.0 at ``batch_ratio`` 1; grows with ``batch_ratio``, to
        at most ``1 + noise_scale / reference_batch_size``. Changes of batch multiply: there and back is 1.

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
        raise PlanError(
            f"noise_scale = {noise_scale:g} is not a number of samples.", "It is 0 or more; inf: all noise."
        )
    if not 0.0 < reference_batch_size < inf:
        raise PlanError(
            f"reference_batch_size = {reference_batch_size:g} is not a number of samples above 0.",
            "It is the global batch of the reference.",
        )
    noise = noise_scale / reference_batch_size
    if noise == inf:
        return float(batch_ratio)
    worth = batch_ratio * (noise + 1.0) / (noise + batch_ratio)
    return min(max(worth, min(1.0, batch_ratio)), max(1.0, batch_ratio))  # rounding must not carry it out


@dataclass(frozen=True, kw_only=True, slots=True)
class GradientSquares:
    """One step's unbiased estimates, each right on average and often far off, or negative, by itself.

    Args:
        signal: of ``|G|^2``, the squared length of the gradient without noise.
        variance: of ``tr(Sigma)``, the variance of one sample's gradient, summed over the parameters.
    """

    signal: float
    variance: float


def estimate_squares(
    squares: Sequence[float], sizes: Sequence[float], *, total_square: float, population: int | None = None
) -> GradientSquares | None:
    """Return what one step says of the gradient and its noise, from the gradients of its parts.

    Part i (a worker's share or a micro-batch) is the mean gradient g_i of b_i samples; gbar, the step's gradient, is
    that of all B = sum b_i. With tr = tr(Sigma), a mean of b samples misses G by tr / b on average, so

        E |g_i|^2  = |G|^2 + tr / b_i     hence   E mean_i |g_i|^2 = |G|^2 + tr * h,   h = mean_i 1 / b_i
        E |gbar|^2 = |G|^2 + tr / B
        variance   = (mean_i |g_i|^2 - |gbar|^2) / (h - 1 / B)
        signal     = |gbar|^2 - variance / B

    This is McCandlish's pair with B_big = B and B_small = 1 / h, the harmonic mean of the sizes, which is what makes
    it right for uneven parts. Parts drawn without replacement from the ``population`` = N samples of an epoch miss G
    (now the gradient over these N) by tr * (1 / b - 1 / N): that drops out of the variance and leaves

        signal     = |gbar|^2 - variance * (1 / B - 1 / N)

    Nothing is clamped: AdaScale's code sets negative values to 0 before averaging, which biases ``signal`` upward.

    Args:
        squares: ``|g_i|^2`` of each part, before clipping and without a loss scale.
        sizes: b_i, samples in each part, >= 0. A part of 0 samples is left out, whatever its square.
        total_square: ``|gbar|^2``, of the mean over all samples (parts weighted by their samples).
        population: size of the training set when an epoch uses each sample once, as scaler's does; None: samples
            are independent draws, and G is the gradient of the distribution they come from. Within an epoch it is
            exact for weights that do not move, and a good guess while they move little.

    Returns:
        The estimates; None with fewer than two non-empty parts, or when a number is inf or nan (a step that AMP skips).

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
        raise PlanError(f"{len(squares)} squares and {len(sizes)} sizes do not pair up.", "Give one of each per part.")
    if any(size < 0 for size in sizes):
        raise PlanError(f"sizes has {min(sizes):g}, less than no samples.", "A part without samples has size 0.")
    parts = [(square, size) for square, size in zip(squares, sizes, strict=True) if size != 0]
    if len(parts) < 2 or not all(isfinite(number) for part in parts for number in (*part, total_square)):
        return None
    total = sum(size for _, size in parts)
    if population is not None and total > population:
        raise PlanError(f"A step of {total:g} samples is more than population = {population}.", "Give the data's size.")
    mean_square = sum(square for square, _ in parts) / len(parts)
    variance = (mean_square - total_square) / (sum(1.0 / size for _, size in parts) / len(parts) - 1.0 / total)
    missed = 1.0 / total - (0.0 if population is None else 1.0 / population)
    signal = total_square - variance * missed
    return GradientSquares(signal=signal, variance=variance) if isfinite(signal) and isfinite(variance) else None


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseScaleAverage:
    """AdaScale's running averages of both estimates, and the gain that they give.

        average <- average + a * (estimate - average),   a = max(1 / t, 1 - theta) at the t-th estimate

    a plain mean while t < 1 / (1 - theta), exponential from then on. ``signal`` and ``variance`` are averaged apart
    and raw, and divided only when asked: the mean of ratios of single steps is worthless. (AdaScale clips each step's
    estimates to >= 0 before averaging, which makes ``signal`` too large and the gain too small; we look at the sign
    of the averages instead.) Neither depends on the batch size, so both outlive a resize.

    It is an average over the steps that theta remembers, and lags behind a noise scale that grows; ``NoiseHistory``
    estimates that of the newest step.

    Args:
        theta: weight of the past, in [0, 1]; 1 is a plain mean for ever.
        steps: estimates averaged so far.
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
        """Return AdaScale's average, which forgets in 1000 reference batches: theta = max(0, 1 - batch_ratio / 1000).

        Source: Johnson et al. 2020, https://arxiv.org/abs/2007.05105, section 3.3.
        """
        return cls(theta=max(0.0, 1.0 - batch_ratio / 1000.0))

    def update(self, squares: GradientSquares | None) -> Self:
        """Return the averages with one more step's estimates; None (a step without any) changes nothing."""
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
        """``variance / signal`` in samples; None (not known) while nothing is measured or an average is not above 0."""
        if not (self.signal > 0.0 and self.variance > 0.0):
            return None
        return self.variance / self.signal

    def gain(self, batch_ratio: float, reference_batch_size: float) -> float | None:
        """Return ``gain`` at the measured noise scale; None when that is not known."""
        phi = self.noise_scale
        if phi is None:
            return None
        return gain(batch_ratio, noise_scale=phi, reference_batch_size=reference_batch_size)

    def to_dict(self) -> dict[str, float]:
        """Return plain numbers for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, state: Mapping[str, Any], *, theta: float) -> Self:
        """Return the averages that ``to_dict`` wrote, in this or an earlier version, to be continued with ``theta``."""
        return cls(theta=theta, **{name: state[name] for name in ("steps", "signal", "variance")})
