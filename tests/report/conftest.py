"""A run to which everything happened that a controller can do."""

from collections.abc import Callable

import pytest
from synthetic import SYNTHETIC_JOB, SyntheticRun

from scaler.job import Job
from scaler.plan import make_plan


@pytest.fixture
def eventful(digits: Callable[..., Job]) -> SyntheticRun:
    """It diverged and went back, its batch grew, a plateau lowered its rate; it has groups, and noise was measured."""
    job = digits(
        *SYNTHETIC_JOB,
        "schedule.plateau={metric: loss}",
        "failures.divergence={then: go_back}",
        "scale.batch_schedule={name: noise_scale, max_global_batch_size: 64}",
        "groups=[{match: head.*, lr_ratio: 10}]",
    )
    run = SyntheticRun(job=job, plan=make_plan(job, parameters={"body.weight": 640, "head.weight": 64}))
    noise = {
        "grad_signal": lambda rank, seen: 1.0 + 0.5 * (-1) ** (seen // 16),
        "grad_variance": 100.0,
        "noise_scale": lambda rank, seen: 100.0 if seen % 64 == 0 else None,
    }
    run = run.attempt(0, stop=96, **noise).event("diverged", 96, reason="loss is nan", goes_back=True)
    run = run.attempt(1, start=64, grown={100: 32}, **noise)
    return run.event("rate_lowered", 164, by="plateau", factor=0.5, reason="loss 2 is no better than 1")
