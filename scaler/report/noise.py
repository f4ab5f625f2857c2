"""What the gradients said: the noise scale at the end of training, and with ``rule: adascale`` the gain."""

import numpy as np

from scaler.core.noise_scale import GradientSquares
from scaler.plan import Plan
from scaler.report.grid import Columns
from scaler.report.model import Gain, Noise, Totals

MEMORIES = 20.0  # further back than that many times the average's memory, a step weighs below 1e-8

MEANING = (
    "An estimate of the batch at which the noise of a step's gradient is as long as the gradient itself. Read as a "
    "critical batch size (McCandlish et al. 2018), it can be far too small (Merrill et al. 2025)."
)
OF_PRECONDITIONED = (
    "An estimate for the gradient as the optimizer divides it, by which adascale finds the gain: the batch at which "
    "the noise of a step's preconditioned gradient is as long as that gradient itself. It is no critical batch size."
)


def find_noise(steps: Columns, plan: Plan) -> Noise | None:
    """Return the noise scale after the last measured step; None when no step was measured."""
    average = plan.noise_average()
    signal, variance = steps["grad_signal"], steps["grad_variance"]
    measured = np.flatnonzero(np.isfinite(signal) & np.isfinite(variance))
    if not len(measured):
        return None
    memory = MEMORIES / (1.0 - average.theta) if average.theta < 1.0 else np.inf
    recent = measured[-int(memory) :] if memory < len(measured) else measured
    for step in recent:
        average = average.update(GradientSquares(signal=float(signal[step]), variance=float(variance[step])))
    lower, upper = average.interval() or (None, None)
    return Noise(
        noise_scale=average.noise_scale,
        lower=lower,
        upper=upper,
        measured_steps=len(measured),
        meaning=OF_PRECONDITIONED if plan.is_preconditioned else MEANING,
        is_preconditioned=plan.is_preconditioned,
    )


def find_gain(totals: Totals, plan: Plan) -> Gain | None:
    """Return what adaptive steps were worth; None for other rules, and without steps."""
    if not plan.is_measured or not totals.steps:
        return None
    steps_of_reference = totals.progress / plan.reference_batch_size
    return Gain(mean=steps_of_reference / totals.steps, steps_saved=steps_of_reference - totals.steps)
