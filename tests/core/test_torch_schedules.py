"""Compared with torch.optim.lr_scheduler in every step, over a whole run and beyond the end of the shape.

Most of torch's schedulers multiply the learning rate of the step before, so they drift. Measured over these 600 steps,
as shares of the peak: at most 8e-15 (CosineAnnealingLR), and 4e-16 from torch's closed forms, if they exist. Relative
to the learning rate itself: at most 9e-15 (LinearLR); 6e-14 in the last steps of a cosine to zero, where 1 + cos
cancels (closed form too); and 2e-11 in the last steps of OneCycleLR's straight descent, where
``(end - start) * pct + start`` leaves rounding of the peak in a learning rate that is 250,000 times smaller.
"""

from collections.abc import Callable

import pytest
import torch
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    SequentialLR,
    StepLR,
)

from scaler.core.cycles import CosineRestarts, Cyclical, Mode, OneCycle
from scaler.core.decays import Cosine, Linear, Polynomial
from scaler.core.schedules import Schedule, Warmup
from scaler.core.shapes import Constant, Exponential, InverseSqrt, MultiStep, Step

PEAK = 0.3
BATCH = 7  # samples in a step; torch counts steps, scaler samples
STEPS = 600

Build = Callable[[torch.optim.Optimizer], LRScheduler]


def _torch_run(build: Build) -> list[tuple[float, float]]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK, momentum=0.9)
    scheduler = build(optimizer)
    used = []
    for _ in range(STEPS):
        used.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
        optimizer.step()
        scheduler.step()
    return used


def _vaswani(step: int) -> float:
    """Return equation 3 of Vaswani et al. 2017 with 100 steps of warmup, as a share of its peak."""
    return min(step**-0.5, step * 100**-1.5) / 100**-0.5 if step else 0.0


CASES: dict[str, tuple[Build, Schedule]] = {
    "StepLR": (
        lambda o: StepLR(o, 90, gamma=0.3),
        Schedule(shape=Step(every=90 * BATCH, decay=0.3)),
    ),
    "MultiStepLR": (
        lambda o: MultiStepLR(o, [100, 250, 400], gamma=0.2),
        Schedule(shape=MultiStep(at=(100 * BATCH, 250 * BATCH, 400 * BATCH), decay=0.2)),
    ),
    "ExponentialLR": (
        lambda o: ExponentialLR(o, gamma=0.99),
        Schedule(shape=Exponential(every=BATCH, decay=0.99)),
    ),
    "LinearLR to a tenth": (
        lambda o: LinearLR(o, start_factor=1.0, end_factor=0.1, total_iters=500),
        Schedule(shape=Linear(length=500 * BATCH, final_fraction=0.1)),
    ),
    "LinearLR to zero": (
        lambda o: LinearLR(o, start_factor=1.0, end_factor=0.0, total_iters=500),
        Schedule(shape=Linear(length=500 * BATCH)),
    ),
    "LinearLR as warmup": (
        lambda o: LinearLR(o, start_factor=0.04, end_factor=1.0, total_iters=500),
        Schedule(shape=Constant(), warmup=Warmup(samples=500 * BATCH, start=0.04)),
    ),
    "ConstantLR as warmup": (
        lambda o: ConstantLR(o, factor=1 / 3, total_iters=200),
        Schedule(shape=Constant(), warmup=Warmup(samples=200 * BATCH, start=1 / 3, shape="constant")),
    ),
    "PolynomialLR, falling late": (
        lambda o: PolynomialLR(o, total_iters=500, power=0.9),
        Schedule(shape=Polynomial(length=500 * BATCH, power=0.9)),
    ),
    "PolynomialLR, falling early": (
        lambda o: PolynomialLR(o, total_iters=500, power=2.0),
        Schedule(shape=Polynomial(length=500 * BATCH, power=2.0)),
    ),
    "CosineAnnealingLR to a tenth": (
        lambda o: CosineAnnealingLR(o, T_max=STEPS - 1, eta_min=0.1 * PEAK),
        Schedule(shape=Cosine(length=(STEPS - 1) * BATCH, final_fraction=0.1)),
    ),
    "CosineAnnealingLR to zero": (
        lambda o: CosineAnnealingLR(o, T_max=STEPS - 1),
        Schedule(shape=Cosine(length=(STEPS - 1) * BATCH)),
    ),
    "CosineAnnealingWarmRestarts, equal cycles": (
        lambda o: CosineAnnealingWarmRestarts(o, T_0=70, T_mult=1, eta_min=0.1 * PEAK),
        Schedule(shape=CosineRestarts(first=70 * BATCH, final_fraction=0.1)),
    ),
    "CosineAnnealingWarmRestarts, doubling": (
        lambda o: CosineAnnealingWarmRestarts(o, T_0=20, T_mult=2),
        Schedule(shape=CosineRestarts(first=20 * BATCH, growth=2.0)),
    ),
    "CosineAnnealingWarmRestarts, tripling": (
        lambda o: CosineAnnealingWarmRestarts(o, T_0=10, T_mult=3, eta_min=0.1 * PEAK),
        Schedule(shape=CosineRestarts(first=10 * BATCH, growth=3.0, final_fraction=0.1)),
    ),
    "SequentialLR: LinearLR, then CosineAnnealingLR": (
        lambda o: SequentialLR(
            o,
            [LinearLR(o, start_factor=0.1, total_iters=100), CosineAnnealingLR(o, STEPS - 100, eta_min=0.1 * PEAK)],
            milestones=[100],
        ),
        Schedule(
            shape=Cosine(length=(STEPS - 100) * BATCH, final_fraction=0.1),
            warmup=Warmup(samples=100 * BATCH, start=0.1),
        ),
    ),
    "LambdaLR: Vaswani et al.": (
        lambda o: LambdaLR(o, _vaswani),
        Schedule(shape=InverseSqrt(timescale=100 * BATCH), warmup=Warmup(samples=100 * BATCH)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_learning_rate_is_torchs_in_every_step(name: str) -> None:
    build, schedule = CASES[name]
    ours = [PEAK * schedule.factor(step * BATCH) for step in range(STEPS)]
    assert ours == pytest.approx([lr for lr, _ in _torch_run(build)], rel=1e-12, abs=0)
    assert schedule.momentum(0) is None


@pytest.mark.parametrize("mode", ["triangular", "triangular2", "exp_range"])
def test_cycles_are_torchs_and_so_is_their_momentum(mode: Mode) -> None:
    # torch's gamma is per step, scaler's decay per cycle of 37 + 53 steps.
    decay = 0.5 if mode == "exp_range" else 1.0
    shape = Cyclical(
        climb=37 * BATCH, descent=53 * BATCH, low=0.05, mode=mode, decay=decay, low_momentum=0.8, high_momentum=0.9
    )

    def build(optimizer: torch.optim.Optimizer) -> LRScheduler:
        return CyclicLR(optimizer, 0.05 * PEAK, PEAK, 37, 53, mode, gamma=decay ** (1 / 90))

    used = _torch_run(build)
    assert [PEAK * shape.factor(n * BATCH) for n in range(STEPS)] == pytest.approx(
        [u[0] for u in used], rel=1e-12, abs=0
    )
    assert [shape.momentum(n * BATCH) for n in range(STEPS)] == pytest.approx([u[1] for u in used], rel=1e-12, abs=0)


@pytest.mark.parametrize(
    ("anneal", "torchs_word", "rel"),
    [
        ("cosine", "cos", 1e-12),
        ("linear", "linear", 1e-10),  # torch's rounding at the very end, see above
    ],
)
def test_one_cycle_is_torchs_and_so_is_its_momentum(anneal: str, torchs_word: str, rel: float) -> None:
    # torch reaches its phases' ends in steps 0.3 * STEPS - 1 and STEPS - 1.
    shape = OneCycle(
        climb=180 * BATCH - BATCH,
        length=STEPS * BATCH - BATCH,
        anneal="cosine" if anneal == "cosine" else "linear",
        low_momentum=0.85,
        high_momentum=0.95,
    )

    def build(optimizer: torch.optim.Optimizer) -> LRScheduler:
        return OneCycleLR(optimizer, PEAK, STEPS, anneal_strategy="cos" if torchs_word == "cos" else "linear")

    used = _torch_run(build)
    ours = [PEAK * shape.factor(n * BATCH) for n in range(STEPS)]
    assert ours == pytest.approx([u[0] for u in used], rel=rel, abs=0)
    assert ours == pytest.approx([u[0] for u in used], rel=0, abs=1e-12 * PEAK)
    assert [shape.momentum(n * BATCH) for n in range(STEPS)] == pytest.approx([u[1] for u in used], rel=1e-12, abs=0)


def test_torchs_cosine_climbs_again_and_ours_stays() -> None:
    used = [lr for lr, _ in _torch_run(lambda o: CosineAnnealingLR(o, T_max=300))]
    shape = Cosine(length=300 * BATCH)
    assert used[450] == pytest.approx(PEAK / 2)
    assert shape.factor(450 * BATCH) == 0.0
