import json
import statistics
from math import exp, inf, nan
from random import Random
from time import perf_counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.core.divergence import DivergenceGuard, DivergenceState
from scaler.errors import PlanError

SMALL = DivergenceGuard(multiple=5.0, window=5, grace=2, confirm=1)
losses = st.floats(1e-6, 1e6)


def watch(guard: DivergenceGuard, values: list[float | None]) -> tuple[DivergenceState, list[str | None]]:
    state, reasons = DivergenceState(), []
    for value in values:
        state, reason = guard.observe(state, value)
        reasons.append(reason)
    return state, reasons


def first_alarm(guard: DivergenceGuard, values: list[float | None]) -> int | None:
    reasons = watch(guard, values)[1]
    return next((step for step, reason in enumerate(reasons) if reason is not None), None)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([2.0, 2.4, 12.3], "loss 12.3 is 5.59 times the running median 2.2 of 2 steps"),
        ([18.4, 18.3, 9.93e24], "loss 9.93e+24 is 5.41e+23 times the running median 18.4 of 2 steps"),
        ([2.0, 2.4, 11.0], None),  # exactly 5 times: not above
        ([2.0, 100.0], None),  # the grace: one loss is no measure yet
        ([2.0, nan], "loss is nan"),  # nan needs no measure
        ([nan], "loss is nan"),  # not even a first loss
        ([2.0, 2.0, inf], "loss is inf"),
        ([2.0, 2.0, -inf], "loss is -inf"),  # a likelihood that ran away
        ([2.0, 2.0, None], None),  # no loss known: nothing to judge
        (
            [1.0, 1.0, 1.0, 9.0, 9.0],  # the first 9 stays out of the window
            "loss 9 is 9 times the running median 1 of 3 steps; 2 steps in a row are above 5 times it",
        ),
        ([9.0, 9.0, 9.0, 1.0, 1.0, 1.0, 1.0, 1.0, 9.0], "loss 9 is 9 times the running median 1 of 5 steps"),  # fell
        ([0.0, 0.0, 0.0, 1.0], None),  # a median of 0 has no multiples
        ([-2.0, -2.0, -2.0, 100.0], None),  # nor has a negative one
        ([-2.0, -2.0, nan], "loss is nan"),  # but nan is nan
        ([2.0, 2.0, -50.0], None),  # far below is not above
    ],
)
def test_one_step_above_the_limit_by_example(values: list[float | None], reason: str | None) -> None:
    assert watch(SMALL, values)[1][-1] == reason


def test_an_outlier_is_not_a_divergence_and_the_steps_above_must_follow_each_other() -> None:
    guard = DivergenceGuard(multiple=5.0, window=50, grace=2, confirm=3)
    quiet: list[float | None] = [1.0] * 10
    assert first_alarm(guard, [*quiet, 80.0, *quiet]) is None
    assert first_alarm(guard, [*quiet, 80.0, 80.0, 1.0, 80.0, 80.0, *quiet]) is None
    assert first_alarm(guard, [*quiet, 80.0, 80.0, 80.0]) == 12
    assert first_alarm(guard, [*quiet, 80.0, None, 80.0, None, 80.0]) == 14, "a step without a loss changes nothing"
    assert watch(guard, [*quiet, 80.0, 80.0, 80.0])[1][-1] == (
        "loss 80 is 80 times the running median 1 of 10 steps; 3 steps in a row are above 5 times it"
    )


def test_a_divergence_goes_on_being_one() -> None:
    guard = DivergenceGuard(confirm=3)
    reasons = watch(guard, [1.0] * 10 + [50.0] * 300)[1]
    assert all(reason is not None for reason in reasons[12:]), "what blew up must not become the measure"


@pytest.mark.parametrize(
    ("growth", "seen"),
    [
        (1.10, True),  # the median lags by half a window: 1.1 ** 50 is 117
        (1.06, True),  # 18
        (1.04, False),  # 7: below the multiple of 10, as the docstring admits
    ],
)
def test_how_slow_a_growth_is_still_seen_by_the_median_and_by_the_start(growth: float, seen: bool) -> None:
    grown: list[float | None] = [growth**step for step in range(1000)]
    assert (first_alarm(DivergenceGuard(lasting=None), grown) is not None) == seen
    assert first_alarm(DivergenceGuard(), grown) is not None, "twice the lowest median, whatever the median does"


def test_a_blow_up_in_the_first_steps_is_seen_with_the_default_grace_and_not_with_a_long_one() -> None:
    # Digits, batch 256, learning rate 12.8: it saturates, so it never gets to inf.
    values: list[float | None] = [2.32, 1.81, 5.54, 21.5, 35.2, 72.5, 90.0, *[200.0] * 100]
    assert first_alarm(DivergenceGuard(), values) == 14
    assert first_alarm(DivergenceGuard(grace=20, lasting=None), values) is None


def fallen(*, start: float, low: float, steps: int, noise: float = 0.03, seed: int = 0) -> list[float | None]:
    """A loss that falls from start to low, most of it in the first fifth of the steps."""
    random = Random(seed)
    return [(low + (start - low) * exp(-5 * step / steps)) * (1 + random.gauss(0, noise)) for step in range(steps)]


@pytest.mark.parametrize(
    ("start", "low", "level", "ramp"),
    [
        (10.8, 3.0, 10.8, 1),  # a language model of 50,000 tokens, back at chance
        (10.8, 3.0, 10.8, 100),  # slowly
        (10.8, 3.0, 7.2, 1),  # at the frequencies of its tokens
        (4.17, 1.5, 4.17, 1),  # of 65 characters
        (4.17, 1.5, 3.3, 1),
        (2.5, 2.3, 10.8, 1),  # fine-tuning: it never was at chance
        (2.3, 0.05, 2.3, 1),  # a classifier of ten
    ],
)
def test_a_model_that_falls_back_to_chance_is_seen_though_its_loss_is_a_few_times_what_it_was(
    start: float, low: float, level: float, ramp: int
) -> None:
    good = fallen(start=start, low=low, steps=500)
    random = Random(1)
    last = good[-1]
    assert last is not None
    climb = [last + (level - last) * min((step + 1) / ramp, 1.0) for step in range(300)]
    values = [*good, *(loss * (1 + random.gauss(0, 0.01)) for loss in climb)]
    found = first_alarm(DivergenceGuard(), values)
    assert found is not None
    assert 500 <= found < 500 + ramp + DivergenceGuard().confirm + 50
    if level < 10 * low:
        assert first_alarm(DivergenceGuard(lasting=None), values) is None


@pytest.mark.parametrize(
    ("what", "after"),
    [
        ("a spike that comes back", [10.8] * 40 + [3.0] * 200),
        ("spikes that come back", ([10.8] * 49 + [3.0]) * 6),
        ("a level that is a little higher for good", [5.5] * 300),
        ("outliers", [3.0, 3.0, 3.0, 30.0] * 100),
    ],
)
def test_what_comes_back_or_undoes_less_than_half_of_the_fall_is_not_lost(what: str, after: list[float]) -> None:
    assert first_alarm(DivergenceGuard(), [*fallen(start=10.8, low=3.0, steps=500), *after]) is None, what


@pytest.mark.parametrize("noise", [0.02, 0.3, 1.0])
@pytest.mark.parametrize("low", [0.001, 0.1, 1.0, 3.0])
def test_a_healthy_training_is_not_lost_whatever_its_noise(low: float, noise: float) -> None:
    """Gamma noise, of single samples at 1.0; and a loss that hardly falls."""
    for seed, start in ((0, 10.8), (1, 3.0), (2, low * 1.05)):
        random = Random(seed)
        levels = fallen(start=start, low=low, steps=3000, noise=0.0)
        noisy = [level * random.gammavariate(noise**-2, noise**2) for level in levels if level is not None]
        assert all("at the start" not in (reason or "") for reason in watch(DivergenceGuard(), [*noisy])[1])


def test_a_training_that_is_lost_says_what_its_loss_was() -> None:
    values: list[float | None] = [*[10.0] * 10, *[2.0] * 200, *[8.0] * 50]
    state, reasons = watch(DivergenceGuard(), values)
    assert reasons[-1] == "loss 8 was 2 before, and 10 at the start; 50 steps in a row are above 6"
    assert reasons[:-1] == [None] * 259
    assert (state.low, state.lost) == (2.0, 50)


def test_weights_of_the_first_steps_above_a_limit_are_kept_and_later_ones_are_suspect() -> None:
    guard = DivergenceGuard()
    good: list[float | None] = [*[10.0] * 10, *[2.0] * 200]
    for steps, is_suspect in ((0, False), (9, False), (10, True), (40, True)):
        assert guard.is_suspect(watch(guard, [*good, *[8.0] * steps])[0]) is is_suspect
    assert guard.is_suspect(watch(guard, [*good, 30.0])[0]), "above the multiple: at once"


@given(values=st.lists(losses, max_size=60), window=st.integers(1, 20))
def test_the_window_holds_the_last_losses_and_its_median_is_the_median(values: list[float], window: int) -> None:
    guard = DivergenceGuard(window=window, grace=window, multiple=inf)
    state, reasons = watch(guard, list(values))
    assert reasons == [None] * len(values), "an infinite multiple judges by nan and inf only"
    assert state.recent == tuple(values[-window:])
    assert state.ordered == tuple(sorted(state.recent))
    assert state.median == (statistics.median(values[-window:]) if values else None)


@given(values=st.lists(losses, max_size=60), scale=st.sampled_from([2.0**-20, 0.5, 4.0, 2.0**20]))
def test_the_unit_of_the_loss_does_not_matter(values: list[float], scale: float) -> None:
    guard = DivergenceGuard(window=10, confirm=2)
    assert first_alarm(guard, list(values)) == first_alarm(guard, [value * scale for value in values])


@given(values=st.lists(losses | st.none(), max_size=40), split=st.integers(0, 40))
def test_a_state_that_goes_through_json_goes_on_as_if_nothing_had_happened(
    values: list[float | None], split: int
) -> None:
    guard = DivergenceGuard(window=7, confirm=2)
    state, before = watch(guard, values[:split])
    state = DivergenceState.from_dict(json.loads(json.dumps(state.to_dict())))
    after = []
    for value in values[split:]:
        state, reason = guard.observe(state, value)
        after.append(reason)
    assert (state, before + after) == watch(guard, values)


def test_a_shorter_window_on_resume_forgets_the_oldest_losses() -> None:
    state = watch(DivergenceGuard(window=10), [float(value) for value in range(1, 11)])[0]
    state, _ = DivergenceGuard(window=3).observe(state, 11.0)
    assert (state.recent, state.ordered) == ((9.0, 10.0, 11.0), (9.0, 10.0, 11.0))


def test_a_step_costs_microseconds() -> None:
    guard, state = DivergenceGuard(window=100), DivergenceState()
    values = [1.0 + (step * 37 % 101) / 101 for step in range(2000)]
    costs = []
    for _ in range(5):
        start = perf_counter()
        for value in values:
            state, _ = guard.observe(state, value)
        costs.append((perf_counter() - start) / len(values))
    assert min(costs) < 50e-6, "measured: 3.4 us; the bound allows for a busy machine"


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"multiple": 1.0}, ("divergence.multiple = 1 is not above 1.\n  It multiplies the median of the losses.")),
        ({"multiple": nan}, ("divergence.multiple = nan is not above 1.\n  It multiplies the median of the losses.")),
        ({"window": 0}, ("divergence.window = 0 is not a number of steps.\n  Use 1 or more.")),
        (
            {"grace": 0},
            "divergence.grace = 0 is not in [1, 100].\n"
            "  It counts losses in the window; for a longer grace, raise divergence.window.",
        ),
        (
            {"grace": 60, "window": 50},
            "divergence.grace = 60 is not in [1, 50].\n"
            "  It counts losses in the window; for a longer grace, raise divergence.window.",
        ),
        ({"confirm": 0}, "divergence.confirm = 0 is not a number of steps.\n  Use 1 or more."),
        ({"lasting": 0}, "divergence.lasting = 0 is not a number of steps.\n  Use 1 or more."),
    ],
)
def test_settings_out_of_range_are_refused(setting: dict[str, Any], text: str) -> None:
    with pytest.raises(PlanError) as caught:
        DivergenceGuard(**setting)
    assert str(caught.value) == text
