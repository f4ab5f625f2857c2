import math
import random

import pytest

from scaler.core.student_t import compare_means, two_sided_quantile
from scaler.errors import PlanError


@pytest.mark.parametrize(
    ("level", "freedom", "quantile"),
    [  # the tables of every textbook
        (0.95, 1, 12.7062),
        (0.95, 2, 4.30265),
        (0.95, 5, 2.57058),
        (0.95, 30, 2.04227),
        (0.99, 3, 5.84091),
        (0.90, 4, 2.13185),
        (0.5, 1, 1.0),  # of Cauchy's distribution
        (0.95, 1e9, 1.95996),  # the normal one
    ],
)
def test_quantiles_are_those_of_the_tables(level: float, freedom: float, quantile: float) -> None:
    assert two_sided_quantile(level, freedom=freedom) == pytest.approx(quantile, rel=3e-6)


@pytest.mark.parametrize("level", [0.01, 0.3, 0.9, 0.999])
def test_with_one_and_two_degrees_of_freedom_there_is_a_formula(level: float) -> None:
    assert two_sided_quantile(level, freedom=1) == pytest.approx(math.tan(math.pi * level / 2), rel=1e-9)
    two = math.sqrt(2) * level / math.sqrt(1 - level**2)
    assert two_sided_quantile(level, freedom=2) == pytest.approx(two, rel=1e-9)


def test_more_freedom_is_a_smaller_quantile_also_between_whole_numbers() -> None:
    quantiles = [two_sided_quantile(0.95, freedom=1 + step / 4) for step in range(60)]
    assert quantiles == sorted(quantiles, reverse=True)


@pytest.mark.parametrize(
    ("level", "freedom", "text"),
    [
        (1.0, 3, "level = 1 is not in (0, 1).\n  Such as 0.95."),
        (0.95, 0.5, ("freedom = 0.5 is not a number of at least 1.\n  Use two values or more.")),
        (0.95, math.nan, ("freedom = nan is not a number of at least 1.\n  Use two values or more.")),
    ],
)
def test_what_cannot_be_is_refused(level: float, freedom: float, text: str) -> None:
    with pytest.raises(PlanError) as error:
        two_sided_quantile(level, freedom=freedom)
    assert str(error.value) == text


def test_welchs_interval_by_hand() -> None:
    # v1 = 1/3, v2 = 4/2: error sqrt(7/3), freedom (7/3)^2 / ((1/3)^2 / 2 + 2^2 / 1) = 1.3425
    found = compare_means([1.0, 2.0, 3.0], [8.0 - math.sqrt(2), 8.0 + math.sqrt(2)], level=0.95)
    assert found is not None
    assert found.difference == pytest.approx(6.0)
    assert found.freedom == pytest.approx(49 / 9 / (1 / 18 + 4))
    assert found.margin == pytest.approx(two_sided_quantile(0.95, freedom=found.freedom) * math.sqrt(7 / 3))
    assert not found.is_beyond_noise


def test_one_run_against_repeats_is_taken_to_spread_as_they_do() -> None:
    found = compare_means([1.0, 2.0, 3.0], [9.0], level=0.95)
    assert found is not None
    assert (found.difference, found.freedom) == (7.0, 2.0)
    assert found.margin == pytest.approx(4.30265 * math.sqrt(1 / 3 + 1), rel=1e-5)
    turned = compare_means([9.0], [1.0, 2.0, 3.0], level=0.95)
    assert turned is not None
    assert (turned.difference, turned.margin) == (-7.0, found.margin)


@pytest.mark.parametrize(("first", "second"), [([1.0], [2.0]), ([1.0, 1.0], [2.0]), ([1.0, 1.0], [2.0, 2.0])])
def test_without_a_spread_nothing_is_judged(first: list[float], second: list[float]) -> None:
    assert compare_means(first, second, level=0.95) is None


@pytest.mark.parametrize(("sizes", "spreads"), [((3, 3), (1, 1)), ((3, 5), (1, 4)), ((4, 1), (1, 1))])
def test_the_interval_holds_the_truth_as_often_as_it_says(sizes: tuple[int, int], spreads: tuple[int, int]) -> None:
    chance, rounds, truth = random.Random(0), 2000, 1.5
    held = without = 0
    for _ in range(rounds):
        first = [chance.gauss(0, spreads[0]) for _ in range(sizes[0])]
        second = [chance.gauss(truth, spreads[1]) for _ in range(sizes[1])]
        found = compare_means(first, second, level=0.95)
        assert found is not None
        held += abs(found.difference - truth) <= found.margin
        # The normal quantile in Student's place is the negative control: it holds the truth too seldom.
        without += abs(found.difference - truth) <= found.margin * 1.96 / two_sided_quantile(
            0.95, freedom=found.freedom
        )
    assert 0.935 < held / rounds < 0.985  # Welch's is about right, or somewhat wide, with so few
    assert without / rounds < 0.93
