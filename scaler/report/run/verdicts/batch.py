"""The verdict on a batch that is larger than the gradient noise scale."""

from collections.abc import Sequence

from scaler.core.unit import Unit
from scaler.report.run.format import noise_text
from scaler.report.run.model import AttemptRow, Noise, Verdict
from scaler.report.run.tokens import noise_in


def batch_beyond_noise_scale(attempts: Sequence[AttemptRow], noise: Noise | None, units: Unit) -> Verdict | None:
    """Return a verdict if the batch at the end is above the whole interval of the noise scale.

    None if the noise scale is not known, has no upper bound, or is that of a preconditioned gradient, which the theory
    does not cover. ``units``: of the plan.
    """
    if not attempts or noise is None or noise.upper is None or noise.is_preconditioned:
        return None
    batch, end = attempts[-1].end_global_batch_size, max(0, attempts[-1].end_samples - 1)
    if batch <= noise.upper:
        return None
    scale = noise_text(noise_in(noise, units, end), units.many)
    return Verdict(
        code="batch_beyond_noise_scale",
        rank=None,
        message="An estimate: the global batch is larger than the gradient noise scale.",
        evidence=f"{units.plural(batch, at=end)} a step at the end; noise scale {scale}",
        next="Fewer workers or a smaller batch should reach the same loss at a lower cost (McCandlish et al. 2018, "
        "https://arxiv.org/abs/1812.06162). Try a smaller batch first: the estimate can be far too small "
        "(Merrill et al. 2025, https://arxiv.org/abs/2505.23971).",
    )
