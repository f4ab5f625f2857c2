import random
from collections.abc import Callable

import pytest

from scaler.core.fits import least_squares, minimum, profile_interval
from scaler.core.scaling_fits import fit_law, predict_step_time
from scaler.core.scaling_laws import LAWS
from scaler.core.speedup import speed_ups
from scaler.errors import PlanError

TRUTHS: list[tuple[tuple[str, str], Callable[[float], float], dict[str, float]]] = [
    (
        ("strong", "amdahl"),
        lambda p: 2 * (0.1 + 0.9 / p),
        {"one_worker_s": 2, "serial_fraction": 0.1},
    ),
    (
        ("strong", "usl"),
        lambda p: 2 * (1 + 0.08 * (p - 1) + 0.005 * p * (p - 1)) / p,
        {"one_worker_s": 2, "contention": 0.08, "coherency": 0.005},
    ),
    (
        ("strong", "all_reduce"),
        lambda p: 2 / p + 0.3 * (p - 1) / p + 2 * 0.004 * (p - 1),
        {"compute_s": 2, "transfer_s": 0.3, "latency_s": 0.004},
    ),
    (
        ("weak", "gustafson"),
        lambda p: 2 * p / (p - 0.2 * (p - 1)),
        {"one_worker_per_s": 0.5, "serial_fraction": 0.2},
    ),
    (
        ("weak", "all_reduce"),
        lambda p: 2 + 0.3 * (p - 1) / p + 2 * 0.004 * (p - 1),
        {"compute_s": 2, "transfer_s": 0.3, "latency_s": 0.004},
    ),
]
COUNTS = (1, 2, 4, 8, 16, 32)


def times(truth: Callable[[float], float], *, noise: float = 0.0, n: int = 3) -> dict[int, list[float]]:
    generator = random.Random(11)
    return {p: [truth(p) * generator.lognormvariate(0, noise) for _ in range(n)] for p in COUNTS}


@pytest.mark.parametrize(("key", "truth", "parameters"), TRUTHS, ids=[" ".join(key) for key, _, _ in TRUTHS])
def test_the_law_that_made_the_times_is_found(
    key: tuple[str, str], truth: Callable[[float], float], parameters: dict[str, float]
) -> None:
    exact = fit_law(LAWS[key], times(truth), level=0.9)
    assert {name: found.value for name, found in exact.parameters.items()} == pytest.approx(parameters, rel=1e-9)
    assert exact.largest_residual == pytest.approx(0, abs=1e-9)
    assert exact.step_time_s(64) == pytest.approx(truth(64), rel=1e-9)
    noisy = fit_law(LAWS[key], times(truth, noise=0.02), level=0.99)
    for name, value in parameters.items():
        assert noisy.parameters[name].has_interval
        assert noisy.parameters[name].holds(value), name


@pytest.mark.parametrize(("key", "truth", "_"), TRUTHS, ids=[" ".join(key) for key, _, _ in TRUTHS])
def test_the_largest_number_of_workers_is_predicted(
    key: tuple[str, str], truth: Callable[[float], float], _: object
) -> None:
    measured = times(truth, noise=0.02)
    held_out = measured.pop(32)
    found = predict_step_time(LAWS[key], measured, 32, level=0.99)
    assert found.holds(sum(held_out) / len(held_out))
    assert found.value == pytest.approx(truth(32), rel=0.2)


def test_the_laws_with_three_parameters_are_one_in_strong_scaling() -> None:
    measured = times(TRUTHS[1][1], noise=0.02)
    usl, ring = (fit_law(LAWS["strong", name], measured, level=0.9) for name in ("usl", "all_reduce"))
    assert usl.step_time_s(100) == pytest.approx(ring.step_time_s(100))
    one, sigma = usl.parameters["one_worker_s"].value, usl.parameters["contention"].value
    assert one is not None
    assert sigma is not None
    assert ring.parameters["transfer_s"].value == pytest.approx(one * sigma)


def test_more_workers_than_the_peak_make_a_step_longer() -> None:
    found = fit_law(LAWS["strong", "usl"], times(TRUTHS[1][1]), level=0.9)
    assert found.most_workers == pytest.approx((0.92 / 0.005) ** 0.5)
    assert fit_law(LAWS["strong", "amdahl"], times(TRUTHS[0][1]), level=0.9).most_workers is None


@pytest.mark.parametrize(
    ("name", "counts", "refusal", "add"),
    [
        ("amdahl", (1, 2), "2 numbers of workers; the law needs 3.", (4,)),
        ("usl", (1, 2), "2 numbers of workers; the law needs 4.", (4, 8)),
        ("usl", (1, 2, 3), "3 numbers of workers; the law needs 4.", (6,)),
        ("all_reduce", (), "0 numbers of workers; the law needs 4.", (2, 4, 8, 16)),
    ],
)
def test_too_few_points_are_refused_with_what_to_run(
    name: str, counts: tuple[int, ...], refusal: str, add: tuple[int, ...]
) -> None:
    found = fit_law(LAWS["strong", name], {p: [1 / p, 1.01 / p] for p in counts}, level=0.9)
    assert (found.refusal, found.add) == (refusal, add)
    assert found.step_time_s(8) is None
    assert found.most_workers is None
    with pytest.raises(PlanError, match="are too few for"):
        predict_step_time(LAWS["strong", name], {p: [1 / p] for p in counts}, 8, level=0.9)


def test_a_speed_up_above_the_ideal_gives_parameters_of_zero_and_not_below() -> None:
    found = fit_law(LAWS["strong", "usl"], {p: [1.2 / p**1.1, 1.22 / p**1.1] for p in (1, 2, 4, 8, 16)}, level=0.9)
    assert found.parameters["contention"].value == 0.0
    assert found.parameters["contention"].low == 0.0
    assert found.largest_residual is not None
    assert found.largest_residual > 0.05, "the law does not hold"


def test_a_law_that_does_not_hold_says_so() -> None:
    found = fit_law(LAWS["strong", "amdahl"], times(TRUTHS[1][1], noise=0.005), level=0.9)
    assert found.p_misfit is not None
    assert found.p_misfit < 1e-6
    right = fit_law(LAWS["strong", "usl"], times(TRUTHS[1][1], noise=0.005), level=0.9)
    assert right.p_misfit is not None
    assert right.p_misfit > 0.01


@pytest.mark.parametrize("broken", [{1: [0.0], 2: [1.0], 4: [1.0]}, {1: [], 2: [1.0], 4: [1.0]}])
def test_times_that_cannot_be_are_refused(broken: dict[int, list[float]]) -> None:
    with pytest.raises(PlanError):
        fit_law(LAWS["strong", "amdahl"], broken, level=0.9)


def test_a_speed_up_has_its_absolute_base() -> None:
    found = speed_ups({4: [300.0, 310.0, 305.0], 2: [200.0, 190.0, 195.0], 8: [500.0]}, level=0.9)
    assert [one.num_workers for one in found] == [2, 4, 8]
    assert {one.base_workers for one in found} == {2}
    harmonic = 3 / (1 / 200 + 1 / 190 + 1 / 195)
    assert [one.base_samples_per_s for one in found] == pytest.approx([harmonic] * 3)
    assert (found[0].speed_up.value, found[0].efficiency.value) == (1.0, 1.0)
    assert found[2].speed_up.value == pytest.approx(500 / harmonic)
    assert found[2].efficiency.value == pytest.approx(500 / harmonic / 4)
    assert not found[2].samples_per_s.has_interval, "one measurement has no spread"
    assert found[2].speed_up.has_interval, "its speed-up has that of the base"


def test_without_repeats_a_speed_up_has_no_interval() -> None:
    _, two = speed_ups({1: [100.0], 2: [180.0]}, level=0.9)
    assert (two.speed_up.value, two.speed_up.low, two.efficiency.high) == (1.8, None, None)


@pytest.mark.parametrize("broken", [{}, {1: []}, {1: [1.0], 2: [0.0]}])
def test_throughputs_that_cannot_be_are_refused(broken: dict[int, list[float]]) -> None:
    with pytest.raises(PlanError):
        speed_ups(broken, level=0.9)


def test_a_linear_fit_agrees_with_the_normal_equations() -> None:
    columns, values = [[1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 3.0, 5.0]], [2.0, 3.0, 5.0, 6.0]
    (offset, slope), squares = least_squares(columns, values)
    assert slope == pytest.approx((4 * 53 - 11 * 16) / (4 * 39 - 11**2))
    assert offset == pytest.approx((16 - 11 * slope) / 4)
    gaps = [value - offset - slope * x for value, x in zip(values, columns[1], strict=True)]
    assert squares == pytest.approx(sum(gap**2 for gap in gaps))


def test_a_sum_of_squares_that_stays_low_has_no_end() -> None:
    low, high = profile_interval(lambda v: min((v - 1) ** 2, 3.0) if v > 1 else (v - 1) ** 2, 1.0, rise=4.0, step=0.1,
                                 ends=(-1e6, 1e6))  # fmt: skip
    assert low == pytest.approx(-1.0)
    assert high is None


def test_the_deeper_of_two_minima_is_found() -> None:
    assert minimum(lambda x: min((x + 5) ** 2, (x - 5) ** 2 - 1), -20, 20) == pytest.approx(5, abs=1e-4)
