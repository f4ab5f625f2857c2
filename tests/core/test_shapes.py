"""Each shape by its table of values, and the texts of what it refuses."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.core.cycles import CosineRestarts, Cyclical, OneCycle
from scaler.core.decays import Cosine, Linear, Polynomial, Wsd
from scaler.core.shape import Shape
from scaler.core.shapes import Constant, Exponential, InverseSqrt, MultiStep, Ramp, Step
from scaler.errors import PlanError

LENGTH = "The least is {}."
SHARE = "It is a share of peak_lr."
DECAY = "It multiplies the learning rate: 0.1 is a tenth."


def _assert_values(shape: Shape, expected: dict[float, float]) -> None:
    found = {samples: shape.factor(samples) for samples in expected}
    assert found == pytest.approx(expected, rel=1e-15, abs=1e-15)


def test_constant() -> None:
    assert [Constant().factor(samples) for samples in (0, 1, 10**12)] == [1.0, 1.0, 1.0]


def test_step_drops_at_each_multiple() -> None:
    _assert_values(
        Step(every=100, decay=0.5),
        {
            0: 1.0,  # before the first drop
            99: 1.0,  # one sample before it
            100: 0.5,  # in the step that starts at it
            199: 0.5,
            200: 0.25,  # drops multiply
            250: 0.25,  # and last until the next
            10**6: 0.0,  # ten thousand drops: nothing is left, no error
        },
    )


def test_multi_step_drops_at_each_place() -> None:
    _assert_values(
        MultiStep(at=(300, 600, 800), decay=0.1),
        {
            0: 1.0,
            299: 1.0,  # one sample before the first place
            300: 0.1,  # in the step that starts at it
            601: 0.01,  # Goyal et al. 2017: tenths of tenths
            800: 0.001,
            10**9: 0.001,  # no place, no drop
        },
    )


def test_exponential_falls_smoothly() -> None:
    _assert_values(
        Exponential(every=100, decay=0.25),
        {
            0: 1.0,
            50: 0.5,  # half the length, the root of the decay
            100: 0.25,  # the decay itself
            150: 0.125,
            200: 0.0625,  # its square
        },
    )


def test_inverse_sqrt_is_half_after_three_timescales() -> None:
    _assert_values(
        InverseSqrt(timescale=100),
        {
            0: 1.0,  # the peak exactly
            100: 0.5**0.5,  # sqrt(100 / 200)
            300: 0.5,  # sqrt(100 / 400)
            9900: 0.1,  # sqrt(100 / 10000)
        },
    )


def test_ramp_climbs_evenly_in_the_logarithm_or_linearly() -> None:
    _assert_values(
        Ramp(length=400, low=1e-4),
        {
            0: 1e-4,  # the lowest learning rate exactly
            100: 1e-3,  # a quarter of the way, one of four decades
            200: 1e-2,
            400: 1.0,  # the highest exactly
            500: 1.0,
        },
    )
    _assert_values(Ramp(length=400, low=0.2, spacing="linear"), {0: 0.2, 100: 0.4, 200: 0.6, 400: 1.0, 500: 1.0})


def test_linear_is_a_line_and_stays() -> None:
    _assert_values(
        Linear(length=400, final_fraction=0.2),
        {
            0: 1.0,
            100: 0.8,  # a quarter of the fall of 0.8
            200: 0.6,
            399: 0.202,  # one sample before the end
            400: 0.2,  # the final fraction exactly
            401: 0.2,  # and stays
        },
    )


def test_polynomial_bends_with_its_power() -> None:
    _assert_values(
        Polynomial(length=400, power=2.0, final_fraction=0.2),
        {
            0: 1.0,
            200: 0.4,  # 0.2 + 0.8 * (1/2)^2
            300: 0.25,  # 0.2 + 0.8 * (1/4)^2
            400: 0.2,
            500: 0.2,
        },
    )
    _assert_values(Polynomial(length=400, power=0.5), {300: 0.5, 399: 0.05, 400: 0.0})  # roots of 1/4 and 1/400


def test_a_polynomial_of_power_one_is_a_line() -> None:
    line, power_one = Linear(length=400, final_fraction=0.1), Polynomial(length=400, final_fraction=0.1)
    assert [power_one.factor(s) for s in range(500)] == [line.factor(s) for s in range(500)]


def test_cosine_is_half_a_wave_and_stays() -> None:
    _assert_values(
        Cosine(length=300, final_fraction=0.1),
        {
            0: 1.0,
            100: 0.775,  # cos(60 degrees) = 1/2
            150: 0.55,  # half-way between 1 and 0.1
            200: 0.325,
            300: 0.1,  # the final fraction exactly
            600: 0.1,  # torch would be at the peak again
        },
    )


def test_wsd_is_stable_until_its_tail() -> None:
    _assert_values(
        Wsd(decay_start=800, length=1200, final_fraction=0.2),
        {
            0: 1.0,
            799: 1.0,
            800: 1.0,  # the tail starts from the peak
            900: 0.8,  # a quarter of the fall of 0.8
            1200: 0.2,
            1300: 0.2,
        },
    )


@pytest.mark.parametrize(
    ("tail", "quarter", "three_quarters"),
    [
        ("linear", 0.75, 0.25),
        ("sqrt", 0.75**0.5, 0.5),  # sqrt(1 - p): late
        ("1-sqrt", 0.5, 1 - 0.75**0.5),  # 1 - sqrt(p): early, Hägele et al. 2024
    ],
)
def test_the_tails_of_wsd(tail: str, quarter: float, three_quarters: float) -> None:
    shape = Wsd(decay_start=0, length=400, tail=tail)  # type: ignore[arg-type]
    _assert_values(shape, {0: 1.0, 100: quarter, 300: three_quarters, 400: 0.0})


def test_restarts_of_equal_length() -> None:
    _assert_values(
        CosineRestarts(first=100, final_fraction=0.1),
        {
            0: 1.0,
            50: 0.55,
            100: 1.0,  # the restart is the peak
            150: 0.55,
            10**9: 1.0,  # any multiple
        },
    )


def test_restarts_of_doubling_length() -> None:
    _assert_values(
        CosineRestarts(first=100, growth=2.0),
        {
            0: 1.0,
            50: 0.5,
            100: 1.0,  # the second cycle: 100 to 300
            200: 0.5,
            300: 1.0,  # the third: 300 to 700
            500: 0.5,
            700: 1.0,
        },
    )


def test_restarts_of_a_growth_that_is_not_whole() -> None:
    _assert_values(
        CosineRestarts(first=100, growth=1.5),
        {
            100: 1.0,  # the second cycle: 100 to 250
            175: 0.5,
            250: 1.0,  # the third: 250 to 475
            362.5: 0.5,
            475: 1.0,  # the fourth: 475 to 812.5
        },
    )


@given(thousandths=st.integers(1001, 9999), cycle=st.integers(1, 3))
def test_a_restart_is_the_peak_exactly_at_its_sample_whatever_the_growth(thousandths: int, cycle: int) -> None:
    growth, first = Fraction(thousandths, 1000), 10**6
    boundary = sum(first * growth**n for n in range(cycle))  # 10**6 * growth**2 is a whole number
    shape = CosineRestarts(first=first, growth=thousandths / 1000)
    assert boundary.denominator == 1
    assert shape.factor(int(boundary)) == 1.0
    assert shape.factor(int(boundary) - 1) < 1e-11  # (pi / 2 / 10**6) ** 2 is 2.5e-12
    assert shape.factor(int(boundary) + 1) > 1.0 - 1e-11


@pytest.mark.parametrize(
    ("growth", "samples", "expected"),
    [
        (1.0 + 2**-52, 1_000_050, 0.5),  # the nearest to 1: ten thousand equal cycles, and a half
        (1.0 + 1e-9, 100_050, 0.5),  # the thousandth is later by 0.05 samples
        (1000.0, 100, 1.0),  # the restart
        (1000.0, 50_100, 0.5),  # half of the second cycle's 100,000 samples
        (1000.0, 10**17 // 999 + 1, 1.0),  # 100 * (1000**5 - 1) / 999, rounded up
    ],
)
def test_the_cycle_is_found_at_extreme_growths(growth: float, samples: int, expected: float) -> None:
    assert CosineRestarts(first=100, growth=growth).factor(samples) == pytest.approx(expected, abs=1e-3)


def test_triangles() -> None:
    _assert_values(
        Cyclical(climb=100, descent=300, low=0.2),
        {
            0: 0.2,  # the bottom
            50: 0.6,
            100: 1.0,  # the top
            101: 1.0 - 0.8 / 300,  # one sample down
            250: 0.6,  # half-way down
            400: 0.2,  # the bottom, and the next cycle
            450: 0.6,
            500: 1.0,
        },
    )


def test_triangles_that_halve() -> None:
    _assert_values(
        Cyclical(climb=100, descent=300, low=0.2, mode="triangular2"),
        {
            100: 1.0,  # the first top
            500: 0.6,  # half the amplitude of 0.8
            900: 0.4,  # a quarter
            800: 0.2,  # bottoms stay
        },
    )


def test_triangles_that_decay() -> None:
    _assert_values(
        Cyclical(climb=200, descent=200, low=0.2, mode="exp_range", decay=0.25),
        {
            0: 0.2,
            200: 0.6,  # the first top, half a cycle in: sqrt(0.25) of 0.8
            600: 0.3,  # the second, 1.5 cycles in: 0.125 of 0.8
            400: 0.2,  # bottoms stay
        },
    )


def test_one_cycle_along_straight_lines() -> None:
    _assert_values(
        OneCycle(climb=100, length=400, start_fraction=0.2, final_fraction=0.1, anneal="linear"),
        {
            0: 0.2,  # the start
            50: 0.6,  # half-way from 0.2 to 1
            100: 1.0,  # the peak
            250: 0.55,  # half-way from 1 to 0.1
            400: 0.1,  # the end
            401: 0.1,  # and stays; torch raises
        },
    )


def test_one_cycle_along_cosines() -> None:
    _assert_values(
        OneCycle(climb=300, length=600, start_fraction=0.2, final_fraction=0.0),
        {
            0: 0.2,
            100: 0.4,  # a quarter of the climb of 0.8
            150: 0.6,
            300: 1.0,
            400: 0.75,  # cos(60 degrees) = 1/2
            600: 0.0,
        },
    )


def test_one_cycle_by_default_has_torchs_ends() -> None:
    shape = OneCycle(climb=100, length=400)
    assert [shape.factor(s) for s in (0, 100, 400)] == [1 / 25, 1.0, 1 / 25 / 1e4]


def test_one_cycle_without_a_climb_starts_at_the_peak() -> None:
    shape = OneCycle(climb=0, length=400, anneal="linear", final_fraction=0.0, low_momentum=0.5, high_momentum=0.75)
    assert [shape.factor(s) for s in (0, 200, 400)] == [1.0, 0.5, 0.0]
    assert [shape.momentum(s) for s in (0, 200, 400)] == [0.5, 0.625, 0.75]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        # Low at the highest learning rate, high at the lowest; after the end of one cycle it stays high.
        (
            OneCycle(climb=100, length=400, anneal="linear", low_momentum=0.5, high_momentum=0.75),
            {0: 0.75, 50: 0.625, 100: 0.5, 250: 0.625, 400: 0.75, 500: 0.75},
        ),
        (
            Cyclical(climb=100, descent=300, low=0.2, low_momentum=0.5, high_momentum=0.75),
            {0: 0.75, 50: 0.625, 100: 0.5, 250: 0.625, 400: 0.75, 500: 0.5},
        ),
        # With half the amplitude, momentum falls half as far.
        (
            Cyclical(climb=100, descent=300, low=0.2, mode="triangular2", low_momentum=0.5, high_momentum=0.75),
            {100: 0.5, 500: 0.625},
        ),
    ],
)
def test_momentum_is_cycled_inversely(shape: Shape, expected: dict[float, float]) -> None:
    assert {samples: shape.momentum(samples) for samples in expected} == expected


@pytest.mark.parametrize(
    "shape", [Constant(), Cosine(length=100), OneCycle(climb=1, length=3), Cyclical(climb=1, descent=1, low=0.0)]
)
def test_momentum_is_left_alone_unless_asked_for(shape: Shape) -> None:
    assert [shape.momentum(samples) for samples in (0, 1, 200)] == [None, None, None]


@pytest.mark.parametrize(
    ("shape", "total", "corners"),
    [
        (Constant(), 1000, ()),
        (Cosine(length=300), 1000, ()),
        (Step(every=100, decay=0.5), 300, (100, 200, 300)),
        (Step(every=100, decay=0.5), 99, ()),
        (MultiStep(at=(300, 600, 800), decay=0.1), 600, (300, 600)),
        (CosineRestarts(first=100), 250, (100, 200)),
        (CosineRestarts(first=100, growth=2.0), 700, (100, 300, 700)),
        (CosineRestarts(first=5, growth=1.5), 30, (5, 13, 24)),  # at 5, 12.5 and 23.75
        (Cyclical(climb=100, descent=300, low=0.2), 900, (100, 400, 500, 800, 900)),
        (OneCycle(climb=100, length=400), 1000, (100, 400)),
        (OneCycle(climb=100, length=400), 399, (100,)),
        (Wsd(decay_start=800, length=1200), 1200, (800, 1200)),
    ],
)
def test_where_a_shape_has_corners(shape: Shape, total: int, corners: tuple[int, ...]) -> None:
    assert shape.corners(total) == corners


@pytest.mark.parametrize(
    "shape",
    [
        Step(every=1, decay=0.5),
        MultiStep(at=tuple(range(1, 5000)), decay=0.999),
        CosineRestarts(first=1),
        CosineRestarts(first=1, growth=1.0 + 1e-9),
        Cyclical(climb=1, descent=1, low=0.2),
    ],
)
def test_of_many_corners_some_are_named_evenly(shape: Shape) -> None:
    corners = shape.corners(10**6)
    assert 300 < len(corners) <= 402
    assert list(corners) == sorted(set(corners))
    assert corners[-1] > 0.99 * min(10**6, 4999)


@given(thousandths=st.integers(1000, 9999), first=st.integers(2, 10**6))
def test_a_restart_is_listed_where_the_learning_rate_jumps(thousandths: int, first: int) -> None:
    shape = CosineRestarts(first=first, growth=thousandths / 1000)
    for corner in shape.corners(10 * first)[:20]:
        assert shape.factor(corner) > shape.factor(corner - 1)


@pytest.mark.parametrize(
    ("kind", "settings", "problem", "remedy"),
    [
        (Step, {"every": 0, "decay": 0.1}, "every = 0 samples is below 1.", LENGTH.format(1)),
        (Step, {"every": 1, "decay": 0.0}, "decay = 0 is not in (0, 1].", DECAY),
        (Step, {"every": 1, "decay": 1.5}, "decay = 1.5 is not in (0, 1].", DECAY),
        (Step, {"every": 1, "decay": float("nan")}, "decay = nan is not in (0, 1].", DECAY),
        (MultiStep, {"at": (), "decay": 0.1}, "at = [] has no point.", "Give one, or use name: constant."),
        (MultiStep, {"at": (0, 5), "decay": 0.1}, "at = 0 samples is below 1.", LENGTH.format(1)),
        (
            MultiStep,
            {"at": (60, 30), "decay": 0.1},
            "at = [60, 30] samples does not ascend.",
            "Did you mean [30, 60]?",
        ),
        (MultiStep, {"at": (30, 30), "decay": 0.1}, "at = [30, 30] samples does not ascend.", "Did you mean [30]?"),
        (MultiStep, {"at": (30,), "decay": 2.0}, "decay = 2 is not in (0, 1].", DECAY),
        (Exponential, {"every": 0, "decay": 0.1}, "every = 0 samples is below 1.", LENGTH.format(1)),
        (Exponential, {"every": 1, "decay": -0.1}, "decay = -0.1 is not in (0, 1].", DECAY),
        (InverseSqrt, {"timescale": 0}, "timescale = 0 samples is below 1.", LENGTH.format(1)),
        (Ramp, {"length": 0, "low": 0.1}, "length = 0 samples is below 1.", LENGTH.format(1)),
        (Ramp, {"length": 1, "low": 2.0}, "low = 2 is not in [0, 1].", SHARE),
        (Ramp, {"length": 1, "low": 0.0}, "low = 0 has no logarithm.", "Give a share of the peak above 0."),
        (
            Ramp,
            {"length": 1, "low": 0.1, "spacing": "cubic"},
            "spacing = cubic is not known.",
            "Known: exponential, linear.",
        ),
        (Linear, {"length": 0}, "length = 0 samples is below 1.", LENGTH.format(1)),
        (Linear, {"length": 1, "final_fraction": 1.5}, "final_fraction = 1.5 is not in [0, 1].", SHARE),
        (Polynomial, {"length": -3}, "length = -3 samples is below 1.", LENGTH.format(1)),
        (Polynomial, {"length": 1, "power": 0.0}, "power = 0 is not in (0, inf).", "1 is a straight line."),
        (Polynomial, {"length": 1, "final_fraction": -1.0}, "final_fraction = -1 is not in [0, 1].", SHARE),
        (Cosine, {"length": 0}, "length = 0 samples is below 1.", LENGTH.format(1)),
        (Cosine, {"length": 1, "final_fraction": float("nan")}, "final_fraction = nan is not in [0, 1].", SHARE),
        (CosineRestarts, {"first": 0}, "first = 0 samples is below 1.", LENGTH.format(1)),
        (
            CosineRestarts,
            {"first": 1, "growth": 0.5},
            "growth = 0.5 is not in [1, 1000].",
            "Use 1 for cycles of the same length.",
        ),
        (CosineRestarts, {"first": 1, "final_fraction": 2.0}, "final_fraction = 2 is not in [0, 1].", SHARE),
        (Cyclical, {"climb": 0, "descent": 1, "low": 0.0}, "climb = 0 samples is below 1.", LENGTH.format(1)),
        (Cyclical, {"climb": 1, "descent": 0, "low": 0.0}, "descent = 0 samples is below 1.", LENGTH.format(1)),
        (Cyclical, {"climb": 1, "descent": 1, "low": 1.1}, "low = 1.1 is not in [0, 1].", SHARE),
        (
            Cyclical,
            {"climb": 1, "descent": 1, "low": 0.0, "mode": "square"},
            "mode = square is not known.",
            "Known: triangular, triangular2, exp_range.",
        ),
        (
            Cyclical,
            {"climb": 1, "descent": 1, "low": 0.0, "mode": "exp_range", "decay": 0.0},
            "decay = 0 is not in (0, 1].",
            DECAY,
        ),
        (
            Cyclical,
            {"climb": 1, "descent": 1, "low": 0.0, "decay": 0.5},
            "decay = 0.5 has no effect in mode triangular.",
            "Use mode: exp_range.",
        ),
        (
            Cyclical,
            {"climb": 1, "descent": 1, "low": 0.0, "low_momentum": 0.85},
            "low_momentum = 0.85 comes without high_momentum.",
            "Give both, or neither.",
        ),
        (
            OneCycle,
            {"climb": 1, "length": 2, "high_momentum": 0.95},
            "high_momentum = 0.95 comes without low_momentum.",
            "Give both, or neither.",
        ),
        (
            OneCycle,
            {"climb": 1, "length": 2, "low_momentum": 0.9, "high_momentum": 1.0},
            "high_momentum = 1 is not in [0, 1).",
            "A usual cycle is 0.85 to 0.95.",
        ),
        (
            OneCycle,
            {"climb": 1, "length": 2, "low_momentum": 0.95, "high_momentum": 0.85},
            "low_momentum = 0.95 is above high_momentum = 0.85.",
            "Did you mean low_momentum: 0.85, high_momentum: 0.95?",
        ),
        (OneCycle, {"climb": -1, "length": 2}, "climb = -1 samples is below 0.", LENGTH.format(0)),
        (OneCycle, {"climb": 0, "length": 0}, "length = 0 samples is below 1.", LENGTH.format(1)),
        (OneCycle, {"climb": 5, "length": 5}, "climb = 5 samples leaves nothing of length = 5.", "The most is 4."),
        (OneCycle, {"climb": 1, "length": 2, "start_fraction": 3.0}, "start_fraction = 3 is not in [0, 1].", SHARE),
        (OneCycle, {"climb": 1, "length": 2, "final_fraction": 3.0}, "final_fraction = 3 is not in [0, 1].", SHARE),
        (OneCycle, {"climb": 1, "length": 2, "anneal": "cos"}, "anneal = cos is not known.", "Known: cosine, linear."),
        (Wsd, {"decay_start": -1, "length": 2}, "decay_start = -1 samples is below 0.", LENGTH.format(0)),
        (Wsd, {"decay_start": 0, "length": 0}, "length = 0 samples is below 1.", LENGTH.format(1)),
        (
            Wsd,
            {"decay_start": 9, "length": 5},
            "decay_start = 9 samples leaves nothing of length = 5.",
            "The most is 4.",
        ),
        (
            Wsd,
            {"decay_start": 0, "length": 5, "tail": "cosine"},
            "tail = cosine is not known.",
            "Known: linear, sqrt, 1-sqrt.",
        ),
        (Wsd, {"decay_start": 0, "length": 5, "final_fraction": 9.0}, "final_fraction = 9 is not in [0, 1].", SHARE),
    ],
)
def test_what_a_shape_refuses(kind: type[Shape], settings: dict[str, object], problem: str, remedy: str) -> None:
    with pytest.raises(PlanError) as caught:
        kind(**settings)
    assert str(caught.value) == f"schedule.{problem}\n  {remedy}"
