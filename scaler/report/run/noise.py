"""The gradient noise scale at the end of training, and with ``rule: adascale`` the gain."""

import numpy as np

from scaler.core.noise_history import MOST_KEPT, NoiseHistory
from scaler.plan import Plan
from scaler.report.run.model import Gain, Noise, Totals
from scaler.report.run.step_arrays import Columns

MEANING = (
    "An estimate of the batch at which the noise of a step's gradient has the same norm as the gradient itself. As a "
    "critical batch size (McCandlish et al. 2018), the estimate can be far too small (Merrill et al. 2025)."
)
OF_PRECONDITIONED = (
    "An estimate for the preconditioned gradient, as the optimizer divides the gradient. adascale computes the gain "
    "from it. It is the batch at which the noise of a step's preconditioned gradient has the same norm as that "
    "gradient, and not a critical batch size."
)


def find_noise(steps: Columns, plan: Plan) -> Noise | None:
    """Return the noise scale at the last measured step; None without a measured step."""
    signal, variance = steps["grad_signal"], steps["grad_variance"]
    measured = np.flatnonzero(np.isfinite(signal) & np.isfinite(variance))
    if not len(measured):
        return None
    recent = measured[-MOST_KEPT:]
    history = NoiseHistory(signals=tuple(signal[recent].tolist()), variances=tuple(variance[recent].tolist()))
    present = history.present()
    fitted = measured[-present.fitted_steps :] if present is not None else None
    return Noise(
        noise_scale=present.noise_scale if present is not None else None,
        lower=present.lower if present is not None else None,
        upper=present.upper if present is not None else None,
        measured_steps=len(measured),
        meaning=OF_PRECONDITIONED if plan.is_preconditioned else MEANING,
        is_preconditioned=plan.is_preconditioned,
        last_step=int(steps["step"][fitted[-1]]) if fitted is not None else None,
        first_step=int(steps["step"][fitted[0]]) if fitted is not None else None,
        fitted_steps=len(fitted) if fitted is not None else None,
    )


def find_gain(totals: Totals, plan: Plan) -> Gain | None:
    """Return the gain that adascale measured; None for other rules, and without steps."""
    if not plan.is_measured or not totals.steps:
        return None
    steps_of_reference = totals.progress / plan.reference_batch_size
    return Gain(mean=steps_of_reference / totals.steps, steps_saved=steps_of_reference - totals.steps)
