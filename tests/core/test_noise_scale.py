import json
from collections.abc import Callable
from math import inf, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.core.noise_scale import GradientSquares, NoiseScaleAverage, estimate_squares, gain
from scaler.errors import PlanError

ratios = st.floats(1e-3, 1e3)
phis = st.floats(0.0, 1e9)
batches = st.floats(1.0, 1e6)
lengths = st.integers(0, 8000).map(lambda eighths: eighths / 8)  # nothing so small that a unit would round it


# -- gain ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch_ratio", "noise_scale", "expected"),
    [
        (16.0, 0.0, 1.0),  # no noise: a larger batch is worth nothing
        (16.0, inf, 16.0),  # nothing but noise: worth its size, the linear rule
        (16.0, 1e300, 16.0),  # so too in the limit
        (1.0, 0.0, 1.0),  # the reference itself is worth itself, whatever the noise
        (1.0, 123.4, 1.0),
        (1.0, inf, 1.0),
        (4.0, 32.0, 1.6),  # noise scale = reference: 4 * 64 / 160
        (0.25, 32.0, 0.4),  # scaling down, the same formula: 0.25 * 64 / 40
        (0.25, inf, 0.25),
        (0.25, 0.0, 1.0),  # no noise: a smaller batch loses nothing
        (1e9, 96.0, 4.0),  # the most it can be worth: 1 + 96 / 32
    ],
)
def test_gain_by_example(batch_ratio: float, noise_scale: float, expected: float) -> None:
    worth = gain(batch_ratio, noise_scale=noise_scale, reference_batch_size=32)
    assert worth == pytest.approx(expected, rel=1e-7)
    assert worth == expected or batch_ratio == 1e9


@given(k=ratios, signal=st.floats(1e-6, 1e6), variance=st.floats(1e-6, 1e9), m0=batches)
def test_four_papers_have_one_formula(k: float, signal: float, variance: float, m0: float) -> None:
    phi = variance / signal
    sigma2 = variance / m0
    adascale = (sigma2 + signal) / (sigma2 / k + signal)
    pollux = k * (phi + m0) / (phi + k * m0)  # batch_ratio * EFFICIENCY(k * m0)
    mccandlish = (1.0 / (1.0 + phi / (k * m0))) / (1.0 / (1.0 + phi / m0))
    worth = gain(k, noise_scale=phi, reference_batch_size=m0)
    assert [adascale, pollux, mccandlish] == pytest.approx([worth] * 3, rel=1e-12)


@given(a=ratios, b=ratios, phi=phis, m0=batches)
def test_gain_grows_with_the_batch(a: float, b: float, phi: float, m0: float) -> None:
    low, high = (gain(k, noise_scale=phi, reference_batch_size=m0) for k in sorted((a, b)))
    assert low <= high * (1 + 1e-12)


@given(k=st.floats(1.0, 1e6), phi=phis | st.just(inf), m0=batches)
def test_gain_is_between_1_and_the_batch_ratio_and_below_its_limit(k: float, phi: float, m0: float) -> None:
    worth = gain(k, noise_scale=phi, reference_batch_size=m0)
    assert 1.0 <= worth <= k
    assert worth <= (1.0 + phi / m0) * (1 + 1e-12)


@given(k=ratios, phi=phis, m0=batches)
def test_scaling_up_and_down_again_is_doing_nothing(k: float, phi: float, m0: float) -> None:
    there = gain(k, noise_scale=phi, reference_batch_size=m0)
    back = gain(1.0 / k, noise_scale=phi, reference_batch_size=k * m0)
    assert there * back == pytest.approx(1.0, rel=1e-12)
    assert gain(1.0, noise_scale=phi, reference_batch_size=m0) == 1.0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((0.0, 1.0, 1.0), "batch_ratio = 0 is not a number above 0.\n  It is a ratio of two batch sizes."),
        ((inf, 1.0, 1.0), "batch_ratio = inf is not a number above 0.\n  It is a ratio of two batch sizes."),
        ((nan, 1.0, 1.0), "batch_ratio = nan is not a number above 0.\n  It is a ratio of two batch sizes."),
        ((2.0, -1.0, 1.0), ("noise_scale = -1 is not a number of samples.\n  Use 0 or more; inf: only noise.")),
        ((2.0, nan, 1.0), ("noise_scale = nan is not a number of samples.\n  Use 0 or more; inf: only noise.")),
        (
            (2.0, 1.0, 0.0),
            "reference_batch_size = 0 is not a number of samples above 0.\n  It is the global batch of the reference.",
        ),
    ],
)
def test_gain_refuses_what_is_not_a_batch_or_a_noise_scale(arguments: tuple[float, float, float], text: str) -> None:
    with pytest.raises(PlanError) as caught:
        gain(arguments[0], noise_scale=arguments[1], reference_batch_size=arguments[2])
    assert str(caught.value) == text


# -- the estimator: per-sample gradients of a linear regression with frozen weights, so G and Sigma are known ------

EVEN = [8] * 8
UNEVEN = [16] * 3 + [4, 2, 0, 1]  # a short last micro-batch, a rank without samples
NUM_SAMPLES = 200


def sample_gradients() -> np.ndarray:
    rng = np.random.default_rng(7)
    inputs = rng.normal(size=(NUM_SAMPLES, 10)) * np.linspace(0.3, 2.0, 10)
    errors = inputs @ rng.normal(size=10) * 0.06 + rng.normal(size=NUM_SAMPLES)
    return errors[:, None] * inputs


GRADIENTS = sample_gradients()
SIGNAL = float((GRADIENTS.mean(axis=0) ** 2).sum())
VARIANCE = float(GRADIENTS.var(axis=0).sum())  # of draws with replacement
VARIANCE_IN_EPOCH = float(GRADIENTS.var(axis=0, ddof=1).sum())  # of draws without: the factor is then 1 - b / N
PHI = VARIANCE / SIGNAL

Draw = Callable[[np.random.Generator, int, int], np.ndarray]


def with_replacement(rng: np.random.Generator, repeats: int, samples: int) -> np.ndarray:
    return rng.integers(0, NUM_SAMPLES, size=(repeats, samples))


def without_replacement(rng: np.random.Generator, repeats: int, samples: int) -> np.ndarray:
    return rng.random((repeats, NUM_SAMPLES)).argsort(axis=1)[:, :samples]


def squares_of_steps(
    sizes: list[int], repeats: int, *, draw: Draw = with_replacement, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return |g_i|^2 of every part, (repeats, parts), and |gbar|^2, (repeats,)."""
    drawn = GRADIENTS[draw(np.random.default_rng(seed), repeats, sum(sizes))]
    stops = np.cumsum(sizes)
    bounds = zip(stops - sizes, stops, strict=True)
    sums = [drawn[:, start:stop].sum(axis=1) for start, stop in bounds]
    means = np.stack(sums, axis=1) / np.maximum(sizes, 1)[:, None]
    return (means**2).sum(axis=2), (drawn.mean(axis=1) ** 2).sum(axis=1)


def estimates(sizes: list[int], repeats: int, *, population: int | None = None, **how: object) -> np.ndarray:
    """Return signal and variance of every step, (repeats, 2)."""
    squares, totals = squares_of_steps(sizes, repeats, **how)  # type: ignore[arg-type]
    steps = (
        estimate_squares(row, sizes, total_square=total, population=population)
        for row, total in zip(squares.tolist(), totals.tolist(), strict=True)
    )
    return np.array([(step.signal, step.variance) for step in steps if step is not None])


def standard_errors_off(values: np.ndarray, exact: tuple[float, float]) -> np.ndarray:
    return (values.mean(axis=0) - exact) / (values.std(axis=0, ddof=1) / np.sqrt(len(values)))


@pytest.mark.parametrize("sizes", [EVEN, UNEVEN, [8, 8], [1, 1]])
def test_both_estimates_are_right_on_average(sizes: list[int]) -> None:
    values = estimates(sizes, 20_000)
    assert len(values) == 20_000
    assert np.all(np.abs(standard_errors_off(values, (SIGNAL, VARIANCE))) < 3.0)


@pytest.mark.parametrize("sizes", [EVEN, UNEVEN, [60, 50, 49, 1]])
def test_within_an_epoch_the_population_makes_them_right(sizes: list[int]) -> None:
    values = estimates(sizes, 20_000, population=NUM_SAMPLES, draw=without_replacement)
    assert np.all(np.abs(standard_errors_off(values, (SIGNAL, VARIANCE_IN_EPOCH))) < 3.0)


def test_a_step_of_the_whole_epoch_knows_the_signal_exactly() -> None:
    values = estimates([100, 50, 49, 1], 2_000, population=NUM_SAMPLES, draw=without_replacement)
    assert values[:, 0] == pytest.approx(np.full(2_000, SIGNAL), rel=1e-9)
    assert abs(standard_errors_off(values, (SIGNAL, VARIANCE_IN_EPOCH))[1]) < 3.0


def test_within_an_epoch_leaving_the_population_out_fails_the_same_test() -> None:
    values = estimates(EVEN, 20_000, draw=without_replacement)
    off = standard_errors_off(values, (SIGNAL, VARIANCE_IN_EPOCH))
    assert off[0] < -10.0, "the signal comes out tr / N too small"
    assert values[:, 0].mean() == pytest.approx(SIGNAL - VARIANCE_IN_EPOCH / NUM_SAMPLES, rel=0.05)


def test_the_arithmetic_mean_of_uneven_sizes_fails_the_same_test() -> None:
    squares, totals = squares_of_steps(UNEVEN, 20_000)
    parts = [index for index, size in enumerate(UNEVEN) if size]
    total = sum(UNEVEN)
    small = total / len(parts)  # instead of the harmonic mean
    variance = (squares[:, parts].mean(axis=1) - totals) / (1 / small - 1 / total)
    naive = np.stack([totals - variance / total, variance], axis=1)
    off = standard_errors_off(naive, (SIGNAL, VARIANCE))
    assert off[0] < -10.0
    assert off[1] > 10.0


def test_clamping_each_step_before_averaging_fails_the_same_test() -> None:
    values = estimates([8, 8], 20_000)
    assert 0.2 < (values[:, 0] < 0).mean() < 0.5, "negative estimates of a square are common"
    clamped = np.maximum(values, 0.0)
    assert standard_errors_off(clamped, (SIGNAL, VARIANCE))[0] > 10.0
    assert clamped[:, 0].mean() > 1.2 * SIGNAL


def test_the_ratio_of_the_means_is_right_and_the_mean_of_the_ratios_is_not() -> None:
    values = estimates(EVEN, 20_000)
    average = NoiseScaleAverage(theta=1.0)
    for signal, variance in values.tolist():
        average = average.update(GradientSquares(signal=signal, variance=variance))
    assert average.noise_scale == pytest.approx(PHI, rel=0.1)
    assert abs((values[:, 1] / values[:, 0]).mean() / PHI - 1.0) > 0.3


@given(
    parts=st.lists(st.tuples(lengths, st.integers(1, 50)), min_size=2, max_size=6),
    total_square=lengths,
    at=st.integers(0, 6),
    unit=st.sampled_from([2.0**-10, 4.0, 2.0**10]),
)
def test_empty_parts_and_the_unit_of_the_gradient_do_not_matter(
    parts: list[tuple[float, int]], total_square: float, at: int, unit: float
) -> None:
    squares, sizes = (list(column) for column in zip(*parts, strict=True))
    plain = estimate_squares(squares, sizes, total_square=total_square)
    squares.insert(at, nan)  # what an empty part makes of 0 / 0
    sizes.insert(at, 0)
    assert estimate_squares(squares, sizes, total_square=total_square) == plain
    assert plain is not None
    scaled = estimate_squares([square * unit for square in squares], sizes, total_square=total_square * unit)
    assert scaled is not None
    assert (scaled.signal, scaled.variance) == (plain.signal * unit, plain.variance * unit)


@pytest.mark.parametrize(
    ("squares", "sizes", "total_square"),
    [
        ([], [], 1.0),  # nothing
        ([2.0], [8], 2.0),  # one worker without accumulation: nothing to compare with
        ([2.0, 9.0], [8, 0], 2.0),  # the other one had no samples
        ([2.0, inf], [8, 8], 2.0),  # an overflow under AMP
        ([2.0, nan], [8, 8], 2.0),
        ([2.0, 2.0], [8, 8], nan),
        ([1e308, 1e308], [8, 8], 0.0),  # overflows on the way
    ],
)
def test_a_step_without_an_estimate_says_so(squares: list[float], sizes: list[int], total_square: float) -> None:
    assert estimate_squares(squares, sizes, total_square=total_square) is None


@pytest.mark.parametrize(
    ("squares", "sizes", "population", "text"),
    [
        ([1.0], [1, 2], None, ("1 squares and 2 sizes are not the same number.\n  Give one of each per part.")),
        ([1.0, 1.0], [1, -2], None, ("sizes has -2, which is negative.\n  A part without samples has size 0.")),
        (
            [1.0, 1.0],
            [6, 5],
            10,
            ("A step of 11 samples is more than population = 10.\n  Give the size of the training set."),
        ),
    ],
)
def test_parts_that_cannot_be_are_refused(
    squares: list[float], sizes: list[int], population: int | None, text: str
) -> None:
    with pytest.raises(PlanError) as caught:
        estimate_squares(squares, sizes, total_square=1.0, population=population)
    assert str(caught.value) == text


# -- the average ---------------------------------------------------------------------------------------------------


def averaged(values: list[list[float]], theta: float = 0.99) -> NoiseScaleAverage:
    average = NoiseScaleAverage(theta=theta)
    for signal, variance in values:
        average = average.update(GradientSquares(signal=signal, variance=variance))
    return average


@given(
    values=st.lists(st.lists(st.floats(-100.0, 100.0), min_size=2, max_size=2), min_size=1, max_size=40),
    theta=st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0]),
)
def test_the_running_averages_are_those_of_the_weights_written_out(values: list[list[float]], theta: float) -> None:
    weights = np.zeros(0)
    for step in range(1, len(values) + 1):
        newest = 1.0 / step if step * (1.0 - theta) < 1.0 else 1.0 - theta
        weights = np.append(weights * (1.0 - newest), newest)
    mean = weights @ np.array(values)
    average = averaged(values, theta)
    assert (average.signal, average.variance) == pytest.approx(tuple(mean), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("signal", "variance", "noise_scale", "worth"),
    [
        (2.0, 64.0, 32.0, 1.6),  # known
        (0.0, 64.0, None, None),  # no signal left: unknown, not infinite
        (-2.0, 64.0, None, None),  # a square that came out negative
        (2.0, -64.0, None, None),  # a variance that did
        (-2.0, -64.0, None, None),  # both: their ratio would look fine
        (2.0, 0.0, None, None),  # no noise measured: nobody trains without
    ],
)
def test_a_noise_scale_is_positive_or_not_known(
    signal: float, variance: float, noise_scale: float | None, worth: float | None
) -> None:
    average = averaged([[signal, variance]])
    assert average.noise_scale == noise_scale
    assert average.gain(4.0, reference_batch_size=32) == worth


def test_nothing_measured_is_nothing_known() -> None:
    average = NoiseScaleAverage(theta=0.99)
    assert (average.noise_scale, average.gain(4.0, 32)) == (None, None)
    assert average.update(None) == average


@given(values=st.lists(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=2), max_size=20), split=st.integers(0, 20))
def test_a_state_that_goes_through_json_goes_on_as_if_nothing_had_happened(
    values: list[list[float]], split: int
) -> None:
    average = NoiseScaleAverage.from_dict(json.loads(json.dumps(averaged(values[:split]).to_dict())), theta=0.99)
    for signal, variance in values[split:]:
        average = average.update(GradientSquares(signal=signal, variance=variance))
    assert average == averaged(values)


@pytest.mark.parametrize("theta", [-0.1, 1.1, nan])
def test_theta_is_a_weight(theta: float) -> None:
    with pytest.raises(PlanError) as caught:
        NoiseScaleAverage(theta=theta)
    assert str(caught.value) == f"theta = {theta:g} is not in [0, 1].\n  It is the weight of the past, such as 0.99."
