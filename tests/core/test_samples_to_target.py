import math

import pytest

from scaler.core.samples_to_target import Reached, median_reached, ratio_to_baseline, reached
from scaler.errors import PlanError

CURVE = [(100.0, 0.5), (200.0, 0.8), (300.0, 0.9), (400.0, 0.85), (500.0, 0.9), (600.0, 0.95)]
NEVER = Reached(value=None, low=600.0, high=math.inf)


def at(value: float) -> Reached:
    return Reached(value=value, low=value - 50, high=value + 50)


@pytest.mark.parametrize(
    ("target", "hold", "found", "reason"),
    [
        (0.7, 2, Reached(value=100 + 100 * 0.2 / 0.3, low=100.0, high=200.0), "between the evaluations at 0.5 and 0.8"),
        (0.8, 2, Reached(value=200.0, low=100.0, high=200.0), "exactly at an evaluation"),
        (0.88, 1, Reached(value=280.0, low=200.0, high=300.0), "the first evaluation at the target"),
        (0.88, 2, Reached(value=460.0, low=400.0, high=500.0), "the first of two in a row: that at 300 did not hold"),
        (0.94, 2, Reached(value=None, low=500.0, high=math.inf), "at the target once, and the run ends"),
        (0.99, 2, NEVER, "never"),
        (0.4, 2, Reached(value=None, low=0.0, high=100.0), "before the first evaluation: no line to interpolate on"),
        (0.5, 6, Reached(value=None, low=0.0, high=100.0), "held to the end"),
    ],
)
def test_the_first_crossing_that_is_held(target: float, hold: int, found: Reached, reason: str) -> None:
    result = reached(CURVE, target=target, mode="max", hold=hold)
    assert (result.low, result.high) == (found.low, found.high), reason
    assert result.value == (None if found.value is None else pytest.approx(found.value)), reason


def test_a_loss_reaches_a_target_from_above() -> None:
    curve = [(clock, -metric) for clock, metric in CURVE]
    for target in (0.7, 0.88, 0.99):
        assert reached(curve, target=-target, mode="min") == reached(CURVE, target=target, mode="max")


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_nothing_is_interpolated_after_an_evaluation_that_is_not_finite(broken: float) -> None:
    curve = [(100.0, 0.5), (200.0, broken), (300.0, 0.9), (400.0, 0.9)]
    found = reached(curve, target=0.8, mode="max")
    expected = (100.0, 200.0) if broken == math.inf else (200.0, 300.0)  # inf counts as above the target
    assert (found.value, found.low, found.high) == (None, *expected)


@pytest.mark.parametrize(
    ("curve", "hold", "text"),
    [
        ([], 2, "The run has no evaluation.\n  Set train.eval_every."),
        ([(1.0, 0.5)], 0, "hold = 0 is below 1.\n  1 takes the first evaluation at the target."),
        (
            [(2.0, 0.5), (1.0, 0.5)],
            2,
            "The evaluations are not in the order of their samples.\n  Sort them, and take each once.",
        ),
    ],
)
def test_what_cannot_be_is_refused(curve: list[tuple[float, float]], hold: int, text: str) -> None:
    with pytest.raises(PlanError) as error:
        reached(curve, target=0.5, mode="max", hold=hold)
    assert str(error.value) == text


def test_few_runs_that_all_arrive_have_the_interval_of_the_geometric_mean() -> None:
    found = median_reached([at(100.0), at(110.0), at(121.0)], level=0.90)
    assert found.value == 110.0
    assert found.low is not None
    assert found.high is not None
    assert found.low * found.high == pytest.approx(110.0**2)  # symmetric in logarithms


def test_a_run_that_does_not_arrive_is_not_left_out() -> None:
    four = [at(value) for value in (100.0, 110.0, 120.0, 130.0)]
    assert median_reached([*four, NEVER], level=0.90).value == 120.0
    assert median_reached(four, level=0.90).value == 115.0


def test_with_half_of_the_runs_missing_the_median_has_a_lower_bound() -> None:
    found = median_reached([at(100.0), at(110.0), NEVER, NEVER], level=0.90)
    assert (found.value, found.low, found.high) == (None, (110 + 600) / 2, None)


def test_many_runs_have_an_interval_without_an_assumption_also_with_missing_ones() -> None:
    runs = [at(100.0 + 10 * n) for n in range(8)]
    found = median_reached([*runs, NEVER], level=0.90)
    assert found.value == 140.0
    assert found.low is not None
    assert found.high is not None
    assert 100 < found.low < 140 < found.high <= 170
    open_above = median_reached([*runs[:5], NEVER, NEVER, NEVER, NEVER], level=0.90)
    assert (open_above.value, open_above.high) == (140.0, None)


def test_ratios_are_taken_seed_by_seed() -> None:
    baseline = {0: at(100.0), 1: at(200.0), 2: at(400.0)}
    candidate = {0: at(150.0), 1: at(300.0), 2: at(600.0), 7: at(1.0)}
    found = ratio_to_baseline(baseline, candidate, level=0.90)
    assert (found.value, found.low) == (1.5, None), "three equal ratios: no spread to judge by"


@pytest.mark.parametrize(
    ("baseline", "candidate", "low", "high", "reason"),
    [
        (at(100.0), NEVER, 6.0, None, "the candidate needs more than 600"),
        (NEVER, at(100.0), None, 100 / 600, "the baseline needs more than 600"),
        (NEVER, NEVER, None, None, "nothing is known"),
    ],
)
def test_a_ratio_to_a_run_that_did_not_arrive_has_bounds(
    baseline: Reached, candidate: Reached, low: float | None, high: float | None, reason: str
) -> None:
    found = ratio_to_baseline({0: baseline}, {0: candidate}, level=0.90)
    assert (found.value, found.low, found.high) == (None, low, high), reason


def test_groups_without_a_common_seed_are_refused() -> None:
    with pytest.raises(PlanError, match="No seed has been run in both groups"):
        ratio_to_baseline({0: at(1.0)}, {1: at(1.0)}, level=0.9)
