"""What a range test suggests: curves whose places can be read off, and properties of any curve."""

from math import inf, nan
from random import Random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from scaler.core.lr_range import DIVERGED, FEWEST_STEPS, RangeTest, judge_range
from scaler.errors import RunError, TrainingError

STEPS = 101


def climb(lowest: float, highest: float, steps: int = STEPS) -> list[float]:
    """Rates that are even in the logarithm."""
    return [lowest * (highest / lowest) ** (step / (steps - 1)) for step in range(steps)]


def fall(lr: float, *, at: float = 0.1, start: float = 2.0, depth: float = 1.0, diverges: float = inf) -> float:
    """A loss that has fallen half-way at ``at``, where it is also steepest on a log axis."""
    return 50.0 * start if lr >= diverges else start - depth / (1.0 + at / lr)


def judged(lowest: float = 1e-5, highest: float = 10.0, steps: int = STEPS, **curve: float) -> RangeTest:
    lrs = climb(lowest, highest, steps)
    return judge_range(lrs, [fall(lr, **curve) for lr in lrs])


def test_a_fall_is_found_where_it_is_half_done_and_steepest() -> None:
    found = judged(at=0.01)
    assert found.valley == pytest.approx(0.01, rel=0.3)
    assert found.steepest == pytest.approx(0.01, rel=0.3)
    assert found.diverged_at is None
    assert found.tenth_of_divergence is None


def test_divergence_is_the_first_lr_that_brings_the_average_above_four_times_its_lowest() -> None:
    found = judged(diverges=0.9)
    assert found.diverged_at == next(lr for lr in climb(1e-5, 10.0) if lr >= 0.9)
    assert found.tenth_of_divergence == pytest.approx(found.diverged_at / 10)


@pytest.mark.parametrize("broken", [nan, inf, -inf])
def test_a_loss_that_is_no_number_has_diverged(broken: float) -> None:
    lrs = climb(1e-5, 10.0)
    losses = [broken if lr > 1.0 else fall(lr) for lr in lrs]
    found = judge_range(lrs, [*losses[:-1], 1.0])  # whatever comes after it
    assert found.diverged_at == next(lr for lr in lrs if lr > 1.0)
    assert len(found.smoothed) == lrs.index(found.diverged_at)
    assert found.valley == pytest.approx(0.1, rel=0.5)


@pytest.mark.parametrize("lowest", [1e-7, 1e-5, 1e-3])
def test_where_the_test_begins_hardly_moves_the_valley(lowest: float) -> None:
    # fastai's valley, the middle step of the fall, moves by a factor of 100 between the first and the last.
    assert judged(lowest, diverges=2.0).valley == pytest.approx(judged(diverges=2.0).valley, rel=0.4)


@pytest.mark.parametrize("steps", [20, 50, 100, 1000])
def test_a_test_of_any_length_finds_the_same_place_on_the_same_curve(steps: int) -> None:
    assert judged(steps=steps, diverges=2.0).valley == pytest.approx(0.1, rel=0.6)


def test_noise_moves_it_by_less_than_a_factor_of_three() -> None:
    random, lrs = Random(0), climb(1e-5, 10.0)
    for _ in range(20):
        losses = [fall(lr, diverges=2.0) + random.gauss(0.0, 0.05) for lr in lrs]
        found = judge_range(lrs, losses)
        assert found.valley is not None
        assert found.steepest is not None
        assert 0.05 < found.valley < 0.2
        assert 0.04 < found.steepest < 0.25


@pytest.mark.parametrize(("loss", "noise"), [(2.0, 0.0), (2.0, 0.1), (-3.0, 1.0)])
def test_noise_alone_is_no_fall(loss: float, noise: float) -> None:
    random, lrs = Random(0), climb(1e-5, 10.0)
    found = [judge_range(lrs, [loss + random.gauss(0.0, noise) for _ in lrs]) for _ in range(50)]
    assert sum(each.valley is not None for each in found) <= 5
    assert sum(each.steepest is not None for each in found) <= 5


def test_a_recovery_from_a_spike_is_no_fall() -> None:
    lrs = climb(1e-5, 10.0)
    losses = [fall(lr, at=0.01) + (3.0 if 0.2 < lr < 0.3 else 0.0) for lr in lrs]
    found = judge_range(lrs, losses)
    assert found.steepest is not None
    assert found.steepest < 0.05


def test_an_explosion_does_not_move_what_was_before_it() -> None:
    lrs = climb(1e-5, 10.0)
    calm = [fall(lr) for lr in lrs if lr < 2.0]
    found = judge_range(lrs, [*calm, *[100.0] * (STEPS - len(calm))])
    assert found.smoothed[: len(calm)] == judge_range(lrs, [*calm, *[1e9] * (STEPS - len(calm))]).smoothed[: len(calm)]
    assert found.valley == pytest.approx(judge_range(lrs[: len(calm)], calm).valley, rel=0.2)


def test_losses_below_0_do_not_diverge_by_their_ratio() -> None:
    lrs = climb(1e-5, 10.0)
    found = judge_range(lrs, [fall(lr) - 5.0 if lr < 1.0 else 100.0 for lr in lrs])
    assert found.diverged_at is None
    assert found.valley == pytest.approx(0.1, rel=0.5)


def test_an_lr_that_is_too_high_from_the_start_suggests_only_the_divergence() -> None:
    found = judge_range(climb(1.0, 100.0), [2.0, 50.0, *[1e6] * (STEPS - 2)])
    assert (found.steepest, found.valley) == (None, None)
    assert found.diverged_at == climb(1.0, 100.0)[1]


def test_too_few_steps_are_refused() -> None:
    lrs = climb(1e-3, 1.0, FEWEST_STEPS - 1)
    with pytest.raises(RunError) as refused:
        judge_range(lrs, [1.0] * len(lrs))
    assert str(refused.value) == "the range test has 9 steps.\n  It takes at least 10."


def test_a_loss_that_is_not_finite_before_any_lr_was_used_is_the_recipes_error() -> None:
    lrs = climb(1e-3, 1.0)
    with pytest.raises(TrainingError) as refused:
        judge_range(lrs, [nan, *[1.0] * (STEPS - 1)])
    assert str(refused.value) == (
        "the loss of the first step is nan, before any learning rate was used.\n"
        "  Check the recipe's loss and data; the learning rate is not the cause."
    )


losses = st.lists(st.floats(-1e38, 1e38, allow_subnormal=False), min_size=FEWEST_STEPS, max_size=60)


@given(losses)
def test_for_any_losses_the_suggestions_are_learning_rates_of_the_test(values: list[float]) -> None:
    lrs = climb(1e-5, 10.0, len(values))
    found = judge_range(lrs, values)
    assert len(found.smoothed) == len(values)
    margin = 1e-9 * max(map(abs, values))
    assert all(min(values) - margin <= loss <= max(values) + margin for loss in found.smoothed)
    for lr in (found.steepest, found.valley, found.diverged_at):
        assert lr is None or lr in lrs


@given(losses, st.floats(0.01, 100.0))
def test_the_unit_of_the_learning_rate_changes_nothing(values: list[float], unit: float) -> None:
    lrs = climb(1e-5, 10.0, len(values))
    here, there = judge_range(lrs, values), judge_range([unit * lr for lr in lrs], values)
    assert there.smoothed == here.smoothed
    for name in ("valley", "diverged_at"):
        one, other = getattr(here, name), getattr(there, name)
        assert (one is None) == (other is None)
        assert one is None or other == pytest.approx(unit * one)


@given(st.lists(st.floats(0.5, 1.0), min_size=FEWEST_STEPS, max_size=60))
def test_losses_within_a_factor_of_four_have_not_diverged(values: list[float]) -> None:
    assume(max(values) <= DIVERGED * min(values))
    assert judge_range(climb(1e-5, 10.0, len(values)), values).diverged_at is None
