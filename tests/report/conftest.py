"""Runs with many events: all that controllers decide, and all that ends an attempt."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from synthetic import SYNTHETIC_JOB, SyntheticRun

from scaler.job import Job
from scaler.plan import make_plan
from scaler.report.run.model import Report


@pytest.fixture
def eventful(digits: Callable[..., Job]) -> SyntheticRun:
    """It diverged and went back, its batch grew, a plateau lowered its lr; it has groups and measured noise."""
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
    run = run.attempt(1, start=64, grown={100: 32}, factors={64: 0.5, 164: 0.25}, **noise)
    return run.event("lr_lowered", 164, by="plateau", factor=0.5, reason="loss 2 is no better than 1")


@pytest.fixture
def many_attempts(synthetic_run: SyntheticRun) -> SyntheticRun:
    """It hung, ran out of memory, was resized, preempted and killed, and a checkpoint of it was torn."""
    run = synthetic_run.attempt(0, stop=48).event("checkpoint_failed", 48, reason="No space left on device")
    run = run.hung(1, where="recipe.py:30 in loss").later(3.2)
    run = run.attempt(1, stop=64).worker_event("out_of_memory", 0, per_worker_batch_size=8).later(2.5)
    run = run.attempt(2, start=32, stop=80).left("resize", "2 -> 3 workers").later(2.0)
    run = run.attempt(3, start=80, stop=96, world_size=3).left("preemption", "node-0").died(0, 1, 2).later(4.0)
    run = run.event("checkpoint_passed_over", 96, reason="its sha256 is not the one in its manifest")
    run = run.attempt(4, start=80, stop=132).resumed(100, idle_s=7200.0, changes=[("train.seed", "0", "1")]).later(5.0)
    return replace(run.attempt(5, start=100), wall_s=7230.5)  # a driver ran for 30.5 s of them


@pytest.fixture
def sound(synthetic_run: SyntheticRun) -> Report:
    """The report of a run without faults: 200 samples in 14 steps of two workers."""
    return synthetic_run.attempt(0).report()
