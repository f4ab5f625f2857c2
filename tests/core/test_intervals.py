import math
import random
from statistics import NormalDist

import pytest

from scaler.core.intervals import (
    Estimate,
    deviation,
    fewest_for_median,
    geometric_mean_interval,
    harmonic_mean,
    mean_interval,
    median_interval,
    paired_differences,
)
from scaler.core.student_t import f_chance, incomplete_beta
from scaler.errors import PlanError


def test_the_interval_of_a_mean_by_hand() -> None:
    found = mean_interval([2.0, 4.0], level=0.90)  # s = sqrt(2), q = tan(0.45 pi) with one degree of freedom
    margin = math.tan(0.45 * math.pi) * math.sqrt(2) / math.sqrt(2)
    assert found.value == 3.0
    assert found.low == pytest.approx(3 - margin)
    assert found.high == pytest.approx(3 + margin)


@pytest.mark.parametrize("values", [[5.0], [5.0, 5.0, 5.0]])
def test_one_value_and_equal_values_have_no_interval(values: list[float]) -> None:
    assert mean_interval(values, level=0.95) == Estimate(value=5.0)
    assert geometric_mean_interval(values, level=0.95).low is None


def test_the_geometric_mean_does_not_depend_on_the_unit() -> None:
    times = [1.0, 1.3, 1.1]
    seconds, milliseconds = (geometric_mean_interval([f * t for t in times], level=0.9) for f in (1, 1000))
    assert seconds.high is not None
    assert milliseconds.high == pytest.approx(1000 * seconds.high)


@pytest.mark.parametrize(
    ("n", "level", "reason"),
    [
        (2, 0.5, "two values enclose the median half of the time"),
        (5, 0.90, "1 - 2 / 32 = 0.9375, and with 4 values 0.875"),
        (6, 0.95, "1 - 2 / 64 = 0.969, and with 5 values 0.9375"),
        (8, 0.99, "1 - 2 / 256 = 0.992, and with 7 values 0.984"),
    ],
)
def test_the_fewest_values_for_a_median(n: int, level: float, reason: str) -> None:
    assert fewest_for_median(level) == n, reason
    values = [float(value) for value in range(n)]
    assert median_interval(values, level=level).has_interval
    assert not median_interval(values[:-1], level=level).has_interval


def test_at_the_level_of_the_extremes_the_interval_is_the_whole_range() -> None:
    found = median_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], level=1 - 2 / 64)
    assert (found.value, found.low, found.high) == (3.5, pytest.approx(1.0), pytest.approx(6.0))


def test_a_value_that_is_only_known_to_be_large_opens_the_upper_end() -> None:
    values = [1.0, 2.0, 3.0, 4.0, 5.0, math.inf]
    found = median_interval(values, level=0.95)
    assert found.value == 3.5
    assert found.low is not None
    assert found.high is None
    assert median_interval([1.0, math.inf, math.inf], level=0.95).value is None


def test_the_harmonic_mean_is_all_work_over_all_time() -> None:
    assert harmonic_mean([60.0, 30.0]) == pytest.approx((1 + 1) / (1 / 60 + 1 / 30))


def test_pairs_are_made_by_seed() -> None:
    assert paired_differences({0: 1.0, 2: 5.0, 3: 7.0}, {2: 5.5, 0: 1.25, 9: 0.0}) == (0.25, 0.5)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: mean_interval([], level=0.9), "An interval was asked for of no values.\n  Give one value at least."),
        (lambda: median_interval([], level=0.9), "An interval was asked for of no values.\n  Give one value at least."),
        (
            lambda: mean_interval([1.0, math.nan], level=0.9),
            "value = nan is not a finite number.\n  Report the run as diverged; leave it out here.",
        ),
        (lambda: median_interval([1.0], level=1.0), "level = 1 is not in (0, 1).\n  Such as 0.95."),
        (
            lambda: geometric_mean_interval([1.0, 0.0], level=0.9),
            "value = 0 is not a finite number above 0.\n  Leave it out.",
        ),
        (lambda: harmonic_mean([math.inf]), "value = inf is not a finite number above 0.\n  Leave it out."),
        (
            lambda: paired_differences({0: 1.0}, {1: 1.0}),
            "No seed has been run in both groups.\n  Run both with the same seeds.",
        ),
    ],
)
def test_what_cannot_be_is_refused(call: object, text: str) -> None:
    with pytest.raises(PlanError) as error:
        call()  # type: ignore[operator]
    assert str(error.value) == text


def test_the_deviation_of_equal_values_is_exactly_zero() -> None:
    assert deviation([0.1] * 7) == 0.0  # their computed mean is not 0.1


@pytest.mark.parametrize(("f", "numerator", "denominator", "chance"), [(4.7571, 3, 6, 0.05), (161.45, 1, 1, 0.05)])
def test_the_chance_of_f_is_that_of_the_tables(f: float, numerator: int, denominator: int, chance: float) -> None:
    assert f_chance(f, numerator=numerator, denominator=denominator) == pytest.approx(chance, rel=1e-4)


def test_the_incomplete_beta_function_is_a_binomial_sum() -> None:
    for a, n, x in ((2, 5, 0.3), (7, 9, 0.8), (1, 3, 0.01)):
        terms = [math.comb(n, k) * x**k * (1 - x) ** (n - k) for k in range(a, n + 1)]
        assert incomplete_beta(a, n - a + 1, x, 1 - x) == pytest.approx(sum(terms), rel=1e-12)


def test_many_values_give_the_normal_interval() -> None:
    generator = random.Random(0)
    values = [generator.gauss(0, 1) for _ in range(4000)]
    found = mean_interval(values, level=0.95)
    spread = deviation(values)
    assert spread is not None
    assert found.high is not None
    assert found.low is not None
    assert (found.high - found.low) / 2 == pytest.approx(
        NormalDist().inv_cdf(0.975) * spread / math.sqrt(4000), rel=1e-3
    )
