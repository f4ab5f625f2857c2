"""The search for the largest multiple of the batch, on simulated losses with a known answer."""

import random
from collections.abc import Callable
from math import inf, nan
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.core.largest_batch import Bounds, bounds, growth_points, next_multiple, seed_tolerance


def search(
    loss: Callable[[int], float], *, tolerance: float = 0.01, most: int = 64, resolution: float = 1.2
) -> tuple[Bounds, list[int]]:
    losses: dict[int, float] = {}
    while (k := next_multiple(losses, tolerance=tolerance, most=most, resolution=resolution)) is not None:
        assert k not in losses
        losses[k] = loss(k)
    return bounds(losses, tolerance=tolerance), list(losses)


def rising(critical: float) -> Callable[[int], float]:
    """A loss that rises with the batch, by the tolerance at ``critical``."""
    return lambda k: 2.5 + 0.01 * (k - 1) / (critical - 1)


@pytest.mark.parametrize(
    ("loss", "options", "expected", "tried", "reason"),
    [
        (rising(10.5), {}, (10, 11), [1, 2, 4, 8, 16, 32, 11, 9, 10], "the gap closes to the next whole number"),
        (rising(7.5), {"resolution": 2.0}, (4, 8), [1, 2, 4, 8, 16], "a loss just above the tolerance needs a second"),
        (rising(7.4), {"resolution": 2.0, "most": 8}, (4, 8), [1, 2, 4, 8], "there is no second one to try"),
        (rising(10.5), {"resolution": 1.5, "most": 16}, (8, 11), [1, 2, 4, 8, 16, 11], "one division"),
        (rising(1.4), {}, (1, 2), [1, 2], "there is no whole number between 1 and 2"),
        (rising(1000), {"most": 24}, (24, None), [1, 2, 4, 8, 16, 24], "nothing is claimed beyond the largest tried"),
        (rising(1000), {"most": 1}, (1, None), [1], "there is nothing to try"),
        (lambda k: 2.5 - 0.1 * (k == 2), {}, (2, 3), [1, 2, 4, 3], "the best smaller one counts, not the first"),
        (lambda k: 2.5 - 0.001 * k, {"most": 8}, (8, None), [1, 2, 4, 8], "a larger batch may be better"),
        (lambda k: nan if k > 5 else 2.5, {}, (5, 6), [1, 2, 4, 8, 6, 5], "a branch that diverged does not hold"),
        (lambda k: inf, {}, (None, 1), [1], "the run itself diverges"),
        (lambda k: 2.5 + (k in (4, 6)), {}, (3, 4), [1, 2, 4, 3], "what lies beyond a clear failure is not tried"),
        (lambda k: 2.5 + 0.015 * (k == 4), {"most": 16}, (16, None), [1, 2, 4, 8, 16], "one small excess is noise"),
    ],
)
def test_the_search(
    loss: Callable[[int], float],
    options: dict[str, float],
    expected: tuple[int | None, int | None],
    tried: list[int],
    reason: str,
) -> None:
    found, order = search(loss, **options)  # type: ignore[arg-type]
    assert ((found.holds, found.fails), order) == (expected, tried), reason


@given(critical=st.floats(1.0, 500.0), most=st.integers(1, 300), resolution=st.floats(1.0, 2.0))
def test_a_rising_loss_is_bracketed(critical: float, most: int, resolution: float) -> None:
    found, tried = search(lambda k: 0.0 if k <= critical else 1.0, most=most, resolution=resolution)
    assert found.holds is not None
    assert found.holds <= min(critical, most)
    if found.fails is None:
        assert found.holds == most
    else:
        assert found.fails > critical
        assert found.fails <= max(found.holds + 1, resolution * found.holds)
    assert max(tried) <= most


def test_a_search_that_was_interrupted_continues_with_the_same_multiples() -> None:
    loss = rising(10.5)
    _, whole = search(loss)
    for known in range(len(whole)):
        losses = {k: loss(k) for k in whole[:known]}
        assert next_multiple(losses, tolerance=0.01, most=64, resolution=1.2) == whole[known]


@pytest.mark.parametrize(("seeds", "share"), [(3, 0.75), (5, 0.85)])
def test_noise_of_the_seeds_seldom_hides_a_clear_break(seeds: int, share: float) -> None:
    """From 16 on, the loss is ten standard errors above the others; the tolerance comes from noisy repeats."""
    draws, noise, trials, right = random.Random(0), 0.02, 500, 0
    for _ in range(trials):
        means, tolerance = {}, 0.0
        while (k := next_multiple(means, tolerance=tolerance, most=64, resolution=2.0)) is not None:
            excess = 10 * noise / seeds**0.5 if k >= 16 else 0.0
            losses = [2.0 + excess + draws.gauss(0.0, noise) for _ in range(seeds)]
            means[k] = fmean(losses)
            tolerance = tolerance or seed_tolerance(losses)
        right += bounds(means, tolerance=tolerance).holds == 8
    assert right / trials > share, right / trials


@pytest.mark.parametrize(
    ("held", "points"),
    [
        ([], []),
        ([(100, 1), (500, 1)], []),
        ([(100, 4)], [(100, 4)]),
        ([(100, 4), (500, 4), (900, 16)], [(100, 4), (900, 16)]),
        ([(100, 1), (500, 4), (900, 16)], [(500, 4), (900, 16)]),
        ([(100, 8), (500, 2)], [(100, 2)]),
        ([(100, 8), (500, 8), (900, 1)], [(100, 8), (500, 1)]),
    ],
)
def test_the_batch_grows_only_where_both_ends_of_a_stretch_hold(
    held: list[tuple[int, int]], points: list[tuple[int, int]]
) -> None:
    assert growth_points(held) == points
