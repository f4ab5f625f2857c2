import math
import random
from typing import Any

import pytest

from scaler.core.equivalence import Equivalence, equivalence, equivalences, pairs_to_decide
from scaler.core.student_t import two_sided_quantile
from scaler.errors import PlanError


def test_two_one_sided_tests_by_hand() -> None:
    found = equivalence([-0.002, 0.0, 0.002], margin=0.01, mode="max")
    reach = two_sided_quantile(0.90, freedom=2) * 0.002 / math.sqrt(3)  # 2.92 * 0.001155
    assert found.low == pytest.approx(-reach)
    assert found.high == pytest.approx(reach)
    assert (found.verdict, found.is_as_good, found.level) == ("equivalent", True, 0.90)


@pytest.mark.parametrize(
    ("differences", "mode", "verdict", "is_as_good", "reason"),
    [
        ([0.001, 0.002, 0.000], "max", "equivalent", True, "the interval is within the margin"),
        ([0.03, 0.04, 0.05], "max", "better", True, "above 0, beyond the margin"),
        ([0.03, 0.04, 0.05], "min", "worse", False, "a higher loss"),
        ([-0.03, -0.04, -0.05], "min", "better", True, "a lower loss"),
        ([-0.009, -0.010, -0.011], "max", "worse", False, "below 0, across the margin: -0.0117 to -0.0083"),
        ([-0.03, 0.00, 0.03], "max", "undecided", False, "the interval has 0 and both margins"),
        ([-0.003, 0.010, 0.020], "max", "undecided", False, "the interval has 0, and ends beyond both margins"),
        ([0.000, 0.010, 0.015], "max", "undecided", True, "the interval has 0, and ends above -margin"),
        ([0.01], "max", "undecided", False, "one pair has no spread"),
        ([0.0, 0.0, 0.0], "max", "undecided", False, "equal differences of a coarse metric are no spread"),
    ],
)
def test_verdicts(differences: list[float], mode: Any, verdict: str, is_as_good: bool, reason: str) -> None:
    found = equivalence(differences, margin=0.01, mode=mode)
    assert (found.verdict, found.is_as_good) == (verdict, is_as_good), reason


def test_the_p_value_decides_as_the_interval_does() -> None:
    for shift in (0.0, 0.004, 0.006, 0.0069, 0.0072, 0.009, 0.012):
        found = equivalence([shift - 0.002, shift, shift + 0.002], margin=0.01, mode="max")
        assert (found.p_equivalent <= 0.05) == (found.verdict == "equivalent"), shift


@pytest.mark.parametrize(
    ("samples", "verdict", "reason"),
    [(360, "equivalent", "half a step of 1/360 is within the margin"), (50, "undecided", "a step is twice the margin")],
)
def test_equal_differences_are_judged_by_the_resolution(samples: int, verdict: str, reason: str) -> None:
    found = equivalence([0.0, 0.0, 0.0], margin=0.01, mode="max", resolution=1 / samples)
    assert found.verdict == verdict, reason


def test_holm_tests_the_surest_group_at_the_strictest_level() -> None:
    groups = {"wide": [-0.004, 0.0, 0.004], "sure": [-0.0001, 0.0, 0.0001], "middle": [-0.001, 0.0, 0.001]}
    found = equivalences(groups, margin=0.01, mode="max")
    assert list(found) == list(groups)
    assert {name: round(1 - one.level, 6) for name, one in found.items()} == {
        "sure": round(0.10 / 3, 6),
        "middle": 0.05,
        "wide": 0.10,
    }


def test_holm_stops_at_the_first_failure() -> None:
    groups = {"sure": [-0.0001, 0.0, 0.0001], "bad": [-0.02, 0.0, 0.02], "worse": [-0.03, 0.0, 0.03]}
    found = equivalences(groups, margin=0.01, mode="max")
    assert {name: (one.verdict, round(one.level, 3)) for name, one in found.items()} == {
        "sure": ("equivalent", round(1 - 0.1 / 3, 3)),
        "bad": ("undecided", 0.95),
        "worse": ("undecided", 0.95),
    }


def test_a_group_can_be_equivalent_alone_and_not_among_many() -> None:
    differences = [-0.005, 0.0, 0.005]
    alone = equivalence(differences, margin=0.01, mode="max")
    among = equivalences({str(n): differences for n in range(5)}, margin=0.01, mode="max")
    assert alone.verdict == "equivalent"
    assert {one.verdict for one in among.values()} == {"undecided"}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"margin": 0.0}, "margin = 0 is not a finite number above 0.\n  Such as 0.01."),
        ({"margin": 0.1, "alpha": 0.5}, "alpha = 0.5 is not in (0, 0.5).\n  Such as 0.05."),
        (
            {"margin": 0.1, "resolution": -1.0},
            "resolution = -1 is not a finite number of at least 0.\n  0 means continuous.",
        ),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, float], text: str) -> None:
    with pytest.raises(PlanError) as error:
        equivalence([0.1, 0.2], mode="max", **options)
    assert str(error.value) == text


def test_one_pair_has_a_difference_and_no_interval() -> None:
    assert equivalence([0.004], margin=0.01, mode="max") == Equivalence(
        difference=0.004, low=None, high=None, level=0.90, p_equivalent=1.0, verdict="undecided", is_as_good=False
    )


def test_the_number_of_pairs_decides_about_as_often_as_it_says() -> None:
    generator = random.Random(0)
    for mean, spread in ((-0.02, 0.02), (0.002, 0.012), (-0.004, 0.01)):
        pairs = pairs_to_decide(mean, spread, margin=0.015, mode="max", level=0.9)
        assert pairs is not None
        decided = 0
        for _ in range(300):
            found = equivalence([generator.gauss(mean, spread) for _ in range(pairs)], margin=0.015, mode="max")
            decided += found.is_as_good or found.verdict == "worse"
        assert 0.70 < decided / 300 < 0.95, (mean, spread, pairs)


def test_a_comparison_in_the_middle_of_the_margin_needs_more_pairs_than_are_looked_at() -> None:
    assert pairs_to_decide(-0.0075, 0.1, margin=0.015, mode="max", level=0.99) is None
    assert pairs_to_decide(0.02, 0.02, margin=0.015, mode="min", level=0.9) == 8
