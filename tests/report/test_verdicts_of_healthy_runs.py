"""Simulated healthy runs, with realistic noise, have no verdicts; true jumps in the same noise are found."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from made_losses import codes, found, with_jump
from made_runs import SAMPLES, healthy_loss, step_arrays_of, steps_of, warmup_cosine, with_noise
from numpy.typing import NDArray
from synthetic import evidence_of

from scaler.report.run.model import Report
from scaler.report.run.verdicts import find_verdicts

HEALTHY_RUNS = 200
RUNS_OF_A_KIND = 60

Floats = NDArray[np.float64]
Noise = Callable[[Floats, np.random.Generator], Floats]


def test_no_false_alarm_in_healthy_runs(sound: Report) -> None:
    """Losses fall as a power of the steps, with gamma noise of 2 to 100 % a rank, 1 to 16 ranks, 30 to 3,000 steps."""
    verdict_counts: Counter[str] = Counter()
    for seed in range(HEALTHY_RUNS):
        random = np.random.default_rng(seed)
        steps, ranks = int(np.exp(random.uniform(np.log(30), np.log(3000)))), int(random.choice([1, 2, 3, 4, 8, 16]))
        level = healthy_loss(steps, power=random.uniform(0.3, 1.0), floor=random.uniform(0.02, 1.5))
        lr = warmup_cosine(steps, warmup=random.uniform(0.02, 0.2)) if random.random() < 0.7 else np.full(steps, 0.1)
        losses = with_noise(level, ranks, float(random.choice([0.02, 0.1, 0.3, 1.0])), random)
        times = {
            name: usual * random.lognormal(0.0, spread, size=(steps, ranks))
            for name, usual, spread in (("data_s", 0.005, 1.0), ("compute_s", 0.1, 0.1), ("update_s", 0.005, 0.3))
        }
        plan = replace(
            evidence_of(sound).plan,
            total_samples=steps * ranks * SAMPLES,
            warmup_samples=steps * ranks * SAMPLES // 10,
            lr_ratio=4.0,
        )
        attempts = [replace(sound.attempts[0], world_size=ranks)]
        arrays = step_arrays_of(steps_of(steps, ranks, loss=losses, lr=lr, **times))
        verdict_counts.update(codes(find_verdicts(evidence_of(sound, arrays=arrays, plan=plan, attempts=attempts))))
    print(f"\n{sum(verdict_counts.values())} verdicts in {HEALTHY_RUNS} healthy runs: {dict(verdict_counts)}")
    assert sum(verdict_counts.values()) <= 1  # measured: 1


def with_outliers(share: float) -> Noise:
    """Return gamma noise of a tenth on 2 ranks, where a share of the batches has 4 times the loss."""

    def make(level: Floats, random: np.random.Generator) -> Floats:
        losses = with_noise(level, 2, 0.1, random)
        return losses * np.where(random.random(losses.shape) < share, 4.0, 1.0)

    return make


def autocorrelated(rho: float) -> Noise:
    """Return noise of a tenth of the level with autocorrelation ``rho``."""

    def make(level: Floats, random: np.random.Generator) -> Floats:
        noise = random.normal(size=len(level))
        for at in range(1, len(noise)):
            noise[at] = rho * noise[at - 1] + (1.0 - rho**2) ** 0.5 * noise[at]
        return level * (1.0 + 0.1 * noise)

    return make


def in_waves(level: Floats, random: np.random.Generator) -> Floats:
    """Return losses with waves of 100 steps, as from data in a fixed order, and gamma noise of a twentieth."""
    phase = random.uniform(0.0, 2.0 * np.pi)
    wave = 1.0 + 0.15 * np.sin(2.0 * np.pi * np.arange(len(level)) / 100.0 + phase)
    return with_noise(level * wave, 1, 0.05, random)[:, 0]


KINDS: dict[str, tuple[int, Noise]] = {
    "1 % outliers": (1000, with_outliers(0.01)),
    "0.5 % outliers": (1000, with_outliers(0.005)),
    "rho 0.5": (2000, autocorrelated(0.5)),
    "rho 0.9": (2000, autocorrelated(0.9)),
    "short, rho 0.9": (200, autocorrelated(0.9)),
    "waves": (2000, in_waves),
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_false_jump_in_noise_that_is_not_independent_or_has_outliers(sound: Report, kind: str) -> None:
    steps, make = KINDS[kind]
    verdict_counts: Counter[str] = Counter()
    for seed in range(RUNS_OF_A_KIND):
        losses = make(healthy_loss(steps), np.random.default_rng(seed))
        verdict_counts.update(
            codes(found(sound, losses, lr=warmup_cosine(steps) if seed % 2 else 0.1, warmup=steps // 10))
        )
    print(f"\n{kind}: {dict(verdict_counts)} in {RUNS_OF_A_KIND} healthy runs")
    assert not set(verdict_counts) & {"loss_spiked", "lr_too_high", "warmup_too_short"}


@pytest.mark.parametrize("kind", KINDS)
def test_true_jumps_are_found_in_such_noise(sound: Report, kind: str) -> None:
    steps, make = KINDS[kind]
    missed = 0
    for seed in range(RUNS_OF_A_KIND):
        level = with_jump(healthy_loss(steps), int(0.7 * steps), height=3.0, steps=30)
        verdicts = found(sound, make(level, np.random.default_rng(seed)), lr=warmup_cosine(steps))
        missed += not {"loss_spiked", "lr_too_high"} & set(codes(verdicts))
    print(f"\n{kind}: {missed} of {RUNS_OF_A_KIND} jumps missed")
    assert missed <= 1


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_one_outlier_is_no_jump(sound: Report, share: float) -> None:
    for seed in range(20):
        level = with_jump(healthy_loss(400), 250, height=2.5, steps=1)
        assert found(sound, with_noise(level, 1, share, np.random.default_rng(seed))[:, 0]) == ()
