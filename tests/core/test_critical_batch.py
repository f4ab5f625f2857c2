import math
import random

import pytest

from scaler.core.critical_batch import fit_critical_batch, predict_samples
from scaler.errors import PlanError


def samples(critical: float, batches: tuple[int, ...], *, noise: float = 0.0, n: int = 3) -> dict[int, list[float]]:
    generator = random.Random(7)
    return {
        batch: [1e5 * (1 + batch / critical) * math.exp(generator.gauss(0, noise)) for _ in range(n)]
        for batch in batches
    }


@pytest.mark.parametrize("critical", [20.0, 200.0, 5000.0])
def test_the_curve_that_made_the_points_is_found(critical: float) -> None:
    found = fit_critical_batch(samples(critical, (16, 64, 256, 1024)), level=0.9)
    assert found.critical_batch.value == pytest.approx(critical, rel=1e-4)
    assert found.fewest_samples is not None
    assert found.fewest_samples.value == pytest.approx(1e5, rel=1e-4)
    assert found.largest_residual == pytest.approx(0, abs=1e-4)
    assert found.samples(2 * critical) == pytest.approx(3e5, rel=1e-4)
    assert (found.refusal, found.add, found.left_out) == (None, (), ())


def test_noise_widens_the_interval_around_the_truth() -> None:
    widths = []
    for noise in (0.01, 0.05):
        found = fit_critical_batch(samples(200, (16, 32, 64, 128, 256, 512, 1024), noise=noise), level=0.9)
        low, high = found.critical_batch.low, found.critical_batch.high
        assert low is not None
        assert high is not None
        assert low < 200 < high
        widths.append(math.log(high / low))
    assert widths[0] < widths[1] / 3


@pytest.mark.parametrize(
    ("measured", "refusal", "add", "reason"),
    [
        ({}, "0 batch sizes with all runs at the target; the curve needs 3.", (), "nothing is known"),
        (
            samples(200, (64,)),
            "1 batch size with all runs at the target; the curve needs 3.",
            (256, 1024),
            "two more, larger",
        ),
        (
            {**samples(200, (16, 64)), 256: [3e5, None, 4e5]},
            "2 batch sizes with all runs at the target; the curve needs 3.",
            (4,),
            "one more, smaller: 256 is too large for one of its runs",
        ),
        (
            samples(1e7, (16, 64, 256)),
            "Batches up to 256 need too few more samples to tell the critical batch size.",
            (1024, 4096),
            "all batches need the same: B_crit is far above",
        ),
        (
            samples(0.01, (16, 64, 256)),
            "The critical batch size is below the measured batches, from 16.",
            (1, 4),
            "samples grow as the batch: B_crit is far below",
        ),
        (
            {16: [1e5, 1e5], 64: [8e5, 6e5], 256: [2e5, 3e5]},
            "The runs vary too much to tell the critical batch size.",
            (1, 4, 64, 1024),
            "64 needs more than 16 and 256",
        ),
    ],
)
def test_what_the_points_cannot_tell_is_refused_with_what_to_run(
    measured: dict[int, list[float | None]], refusal: str, add: tuple[int, ...], reason: str
) -> None:
    found = fit_critical_batch(measured, level=0.9)
    assert (found.refusal, found.add) == (refusal, add), reason
    assert found.critical_batch.value is None
    assert found.samples(64) is None


def test_a_refused_critical_batch_still_has_the_bound_that_holds() -> None:
    found = fit_critical_batch(samples(1e5, (16, 32, 64, 128), noise=0.01), level=0.9).critical_batch
    assert found.value is None
    assert found.low is not None
    assert 128 < found.low < 1e5
    assert found.high is None


def test_a_batch_size_with_a_run_that_did_not_arrive_is_left_out() -> None:
    measured: dict[int, list[float | None]] = {**samples(200, (16, 64, 256)), 1024: [7e5, None, 5e5]}
    found = fit_critical_batch(measured, level=0.9)
    assert (found.batches, found.left_out) == ((16, 64, 256), (1024,))
    assert found.critical_batch.value == pytest.approx(200, rel=1e-4)


def test_batch_sizes_off_the_curve_widen_the_interval_however_many_runs_there_are() -> None:
    off = {16: 0.05, 64: -0.05, 256: 0.05, 1024: -0.05}
    found = {
        n: fit_critical_batch(
            {batch: [1e5 * (1 + batch / 200) * math.exp(shift + 0.01 * (i % 2 - 0.5)) for i in range(n)]
             for batch, shift in off.items()}, level=0.9)
        for n in (2, 20)
    }  # fmt: skip
    widths = {n: math.log((one.critical_batch.high or 0) / (one.critical_batch.low or 1)) for n, one in found.items()}
    assert widths[20] == pytest.approx(widths[2], rel=0.01)
    assert found[20].p_misfit is not None
    assert found[20].p_misfit < 1e-6, "more runs do not help"


def test_one_run_a_batch_size_is_enough_for_an_interval() -> None:
    found = fit_critical_batch(samples(200, (16, 32, 64, 128, 256, 512), noise=0.03, n=1), level=0.9)
    assert found.critical_batch.has_interval
    assert found.p_misfit is None


def test_a_larger_batch_is_predicted_with_an_interval() -> None:
    measured = samples(200, (16, 32, 64, 128, 256, 512), noise=0.03)
    found = predict_samples(measured, 1024, level=0.9)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 1e5 * (1 + 1024 / 200) < found.high
    nearer = predict_samples(measured, 128, level=0.9)
    assert nearer.low is not None
    assert nearer.high is not None
    assert nearer.high / nearer.low < found.high / found.low, "a prediction farther out is less sure"


def test_samples_that_cannot_be_are_refused() -> None:
    with pytest.raises(PlanError, match=r"value = 0 is not a finite number above 0"):
        fit_critical_batch({16: [0.0], 32: [1.0], 64: [2.0]}, level=0.9)
    with pytest.raises(PlanError, match=r"2 batch sizes are too few for the curve"):
        predict_samples({16: [1.0], 32: [1.0]}, 64, level=0.9)
