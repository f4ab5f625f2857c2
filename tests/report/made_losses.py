"""Make losses for tests, and find the verdicts on them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from made_runs import SAMPLES, step_arrays_of, steps_of, with_noise
from numpy.typing import NDArray
from synthetic import evidence_of

from scaler.report.run.model import Report, Verdict
from scaler.report.run.verdicts import find_verdicts

STEPS = 400


def found(
    sound: Report, loss: NDArray[np.float64], *, lr: Any = 0.1, warmup: int = 0, lr_ratio: float = 4.0, **changes: Any
) -> tuple[Verdict, ...]:
    """Return the verdicts on losses of steps x ranks, or of steps, the same on two ranks; ``warmup`` is in steps."""
    losses = loss[:, None] if loss.ndim == 1 else loss
    steps, ranks = len(losses), losses.shape[1] if loss.ndim > 1 else 2
    plan = replace(
        evidence_of(sound).plan,
        total_samples=steps * ranks * SAMPLES,
        warmup_samples=warmup * ranks * SAMPLES,
        lr_ratio=lr_ratio,
    )
    attempts = [replace(sound.attempts[0], world_size=ranks, end_samples=steps * ranks * SAMPLES)]
    arrays = step_arrays_of(steps_of(steps, ranks, loss=losses, lr=lr))
    return find_verdicts(evidence_of(sound, arrays=arrays, plan=plan, attempts=attempts, **changes))


def codes(verdicts: Sequence[Verdict]) -> list[str]:
    return [verdict.code for verdict in verdicts]


def noisy(level: NDArray[np.float64], *, share: float = 0.05, seed: int = 0) -> NDArray[np.float64]:
    return with_noise(level, 1, share, np.random.default_rng(seed))[:, 0]


def with_jump(level: NDArray[np.float64], at: int, *, height: float, steps: int = 20) -> NDArray[np.float64]:
    jumped = level.copy()
    jumped[at : at + steps] += height
    return jumped
