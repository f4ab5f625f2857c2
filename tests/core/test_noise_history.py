"""The noise scale at the end: right where an average over the run is not, and silent where it cannot be known."""

import json
from math import nan

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from scaler.core.noise_history import (
    FEWEST_MEASURED,
    MOST_KEPT,
    NoiseHistory,
    NoiseScale,
    _Line,
    _Lines,
    _student,
)
from scaler.core.noise_scale import GradientSquares
from scaler.errors import PlanError

RUNS = 300
DIMENSIONS = 50  # the noise of one sample's gradient is alike in so many directions


def history(signals: list[float], variances: list[float]) -> NoiseHistory:
    found = NoiseHistory()
    for signal, variance in zip(signals, variances, strict=True):
        found = found.update(GradientSquares(signal=signal, variance=variance))
    return found


def measured(
    signal: np.ndarray, variance: np.ndarray, *, batch: int, parts: int = 8, runs: int = RUNS
) -> tuple[np.ndarray, np.ndarray]:
    """Return the estimates of so many runs, (runs, steps) each, from normal gradients with these true values.

    The mean over the batch and the spread of the parts about it are independent, and chi-squared.
    """
    rng = np.random.default_rng(0)
    shape, of_mean = (runs, len(signal)), variance / batch / DIMENSIONS
    along = np.sqrt(signal) + rng.normal(size=shape) * np.sqrt(of_mean)
    total = along**2 + of_mean * rng.chisquare(DIMENSIONS - 1, size=shape)
    found = variance / DIMENSIONS * rng.chisquare((parts - 1) * DIMENSIONS, size=shape) / (parts - 1)
    return total - found / batch, found


STEPS = np.arange(1, 2001, 20)  # of 2,000, every 20th is measured
SHARE = np.linspace(0.0, 1.0, len(STEPS))
TRENDS = {
    "1 / t": 1.0 / STEPS,
    "constant": np.ones(len(STEPS)),
    "exponential, to a tenth": 10.0**-SHARE,
    "exponential, to a thousandth": 1000.0**-SHARE,
    "a drop to a fifth at three quarters": np.where(SHARE > 0.75, 0.2, 1.0),
    "growing threefold": 3.0**SHARE,
}


def intervals(trend: np.ndarray, *, end: float, batch: int, variance_falls: bool = False) -> list[NoiseScale | None]:
    """Return what each run says of its end, where the noise scale is ``end``."""
    variance = end * trend[-1] * (np.sqrt(trend / trend[-1]) if variance_falls else np.ones(len(trend)))
    signals, variances = measured(trend, variance, batch=batch)
    return [history(*run).present() for run in zip(signals.tolist(), variances.tolist(), strict=True)]


def covers(found: NoiseScale, value: float) -> bool:
    return found.lower <= value and (found.upper is None or value <= found.upper)


@pytest.mark.parametrize("variance_falls", [False, True], ids=["noise stays", "noise falls too"])
@pytest.mark.parametrize(("end", "batch"), [(300.0, 256), (3000.0, 256), (3000.0, 64)])
@pytest.mark.parametrize("trend", TRENDS)
def test_nine_of_ten_intervals_cover_the_noise_scale_of_the_end(
    trend: str, end: float, batch: int, variance_falls: bool
) -> None:
    found = intervals(TRENDS[trend], end=end, batch=batch, variance_falls=variance_falls)
    known = [present for present in found if present is not None]
    assert len(known) > 0.9 * RUNS, "it is not silent throughout"
    covered = sum(covers(present, end) for present in known) / len(known)
    assert 0.86 <= covered <= 0.98
    too_low = sum(present.upper is not None and present.upper < end for present in known) / len(known)
    assert too_low <= 0.09, "what would advise fewer workers wrongly"


@pytest.mark.parametrize("trend", ["exponential, to a tenth", "exponential, to a thousandth"])
def test_an_average_of_as_many_steps_as_were_kept_fails_the_same_test(trend: str) -> None:
    """What was reported before: the ratio of the averages, with Fieller's interval."""
    signals, variances = measured(TRENDS[trend], np.full(len(STEPS), 300.0 * TRENDS[trend][-1]), batch=256)
    covered = 0
    for run in zip(signals.tolist(), variances.tolist(), strict=True):
        flat = [_Line(values, sum(values) / len(values), 0.0) for values in run]  # of slope 0
        found = _Lines(*flat, len(STEPS)).noise_scale(0.9)
        covered += found is not None and covers(found, 300.0)
    assert covered < 0.05 * RUNS


def test_the_noise_scale_of_a_gradient_that_falls_as_1_over_t_is_that_of_the_end() -> None:
    """Reported before: 287 [176, 881] after 2,000 steps where it was 12,201."""
    end = 12201.0
    signals, variances = measured(1.0 / STEPS, np.full(len(STEPS), end / STEPS[-1]), batch=4096, runs=100)
    found = [history(*run).present() for run in zip(signals.tolist(), variances.tolist(), strict=True)]
    known = [present.noise_scale for present in found if present is not None and present.noise_scale is not None]
    assert len(known) > 90
    assert np.median(known) == pytest.approx(end, rel=0.15)
    averages = signals.mean(axis=1)
    assert np.median(variances.mean(axis=1) / averages) < end / 20, "an average is of the beginning"


def test_a_noise_scale_far_above_the_batch_has_no_upper_end() -> None:
    """The signal of a step of 64 samples is lost in noise of 30,000: only a lower bound is known."""
    known = [present for present in intervals(TRENDS["1 / t"], end=30_000.0, batch=64) if present is not None]
    assert sum(present.upper is None for present in known) > 0.8 * len(known)
    assert np.mean([present.lower <= 30_000.0 for present in known]) > 0.9


def test_what_changes_too_fast_for_ten_measured_steps_is_not_known() -> None:
    falling = 4.0 ** -np.arange(40.0)
    signals, variances = measured(falling, np.full(40, 10.0 * falling[-1]), batch=256)
    found = [history(*run).present() for run in zip(signals.tolist(), variances.tolist(), strict=True)]
    assert sum(present is None for present in found) > 0.95 * RUNS


def test_fewer_than_ten_measured_steps_say_nothing() -> None:
    for steps in range(FEWEST_MEASURED):
        assert history([1.0, 2.0, 1.5] * 3, [90.0, 110.0, 100.0] * 3).present() is None
        assert history([1.0] * steps, [90.0] * steps).noise_scale is None
    assert history([1.0, 2.0] * 5, [90.0, 110.0] * 5).present() is not None


def test_a_line_without_scatter_is_read_at_its_end() -> None:
    signals = [100.0 - step for step in range(50)]
    variances = [10.0 + 2.0 * step for step in range(50)]
    found = history(signals, variances).present()
    assert found is not None
    expected = 108.0 / 51.0
    assert (found.noise_scale, found.lower, found.upper) == pytest.approx((expected, expected, expected), rel=1e-6)
    assert found.fitted_steps == 25, "half of all: the rest only shows that the line is one"


def test_a_step_without_an_estimate_changes_nothing() -> None:
    assert NoiseHistory().update(None) == NoiseHistory()


@given(
    signals=st.lists(st.floats(-1e3, 1e3), min_size=5, max_size=40),
    unit=st.sampled_from([2.0**-10, 4.0, 2.0**10]),
)
def test_a_line_is_that_of_least_squares_and_the_unit_does_not_matter(signals: list[float], unit: float) -> None:
    line = _Line.through(signals)
    places = np.arange(len(signals))
    slope, start = np.polyfit(places, signals, 1)
    assert line.newest == pytest.approx(start + slope * places[-1], rel=1e-6, abs=1e-6)
    assert line.residuals() == pytest.approx(list(np.array(signals) - start - slope * places), rel=1e-6, abs=1e-6)
    variances = [signal + 1e3 for signal in signals]
    plain = history(signals, variances).present()
    scaled = history([value * unit for value in signals], [value * unit for value in variances]).present()
    assert scaled == plain


@pytest.mark.parametrize("steps", [5, 20, 128])
def test_the_variance_of_a_line_at_its_end_is_its_leverage(steps: int) -> None:
    lines = np.random.default_rng(1).normal(size=(4000, steps))
    ends = [_Line.through(values).newest for values in lines.tolist()]
    found = _Lines(_Line.through([0.0] * steps), _Line.through([0.0] * steps), steps).leverage
    assert np.var(ends) == pytest.approx(found, rel=0.08)


def test_the_oldest_steps_are_dropped() -> None:
    found = history([float(step) for step in range(MOST_KEPT + 30)], [1.0] * (MOST_KEPT + 30))
    assert found.signals == tuple(float(step) for step in range(30, MOST_KEPT + 30))
    assert len(found.variances) == MOST_KEPT


def test_a_gradient_that_blows_up_breaks_nothing_and_is_forgotten() -> None:
    steady = [[1.0, 2.0, 1.5, 0.5] * 10, [90.0, 110.0, 105.0, 95.0] * 10]
    blown = history([*steady[0], 1e200], [*steady[1], 1e200])
    assert blown.present() is None
    after = history([*steady[0], 1e200, *steady[0]], [*steady[1], 1e200, *steady[1]]).present()
    assert after is not None
    assert after.noise_scale == pytest.approx(80.0, rel=0.5)


@given(values=st.lists(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=2), max_size=30), split=st.integers(0, 30))
def test_a_state_that_goes_through_json_goes_on_as_if_nothing_had_happened(
    values: list[list[float]], split: int
) -> None:
    signals, variances = [value[0] for value in values], [value[1] for value in values]
    found = NoiseHistory.from_dict(json.loads(json.dumps(history(signals[:split], variances[:split]).to_dict())))
    for signal, variance in values[split:]:
        found = found.update(GradientSquares(signal=signal, variance=variance))
    assert found == history(signals, variances)


# -- the interval --------------------------------------------------------------------------------------------------


def lines(signal: float, variance: float, *, signal_sd: float, variance_sd: float) -> _Lines:
    """Return flat lines through 100 steps, with these standard errors at the end, and no correlation."""
    pattern = np.array([[1, 1, -1, -1] * 25, [1, -1, -1, 1] * 25], dtype=float)
    leverage = _Lines(_Line.through([0.0] * 100), _Line.through([0.0] * 100), 100).leverage
    width = np.sqrt(98 / 100 / leverage) * np.array([signal_sd, variance_sd])
    values = (np.array([[signal], [variance]]) + width[:, None] * pattern).tolist()
    return _Lines(*(_Line(row, level, 0.0) for row, level in zip(values, (signal, variance), strict=True)), 100)


def ends(found: NoiseScale | None) -> tuple[float, float | None] | None:
    return None if found is None else (found.lower, found.upper)


def test_intervals_are_fiellers_and_unbounded_where_the_signal_may_be_nothing() -> None:
    def interval(signal: float, variance: float, **errors: float) -> tuple[float, float | None] | None:
        return ends(lines(signal, variance, **errors).noise_scale(0.9))

    q = scipy.stats.t.ppf(0.95, 98)
    assert interval(1.0, 100.0, signal_sd=0.0, variance_sd=10.0) == pytest.approx(
        (100 - 10 * q, 100 + 10 * q), rel=1e-5
    )  # a known signal: Student's own
    assert interval(1.0, 100.0, signal_sd=0.3, variance_sd=0.0) == pytest.approx(
        (100 / (1 + 0.3 * q), 100 / (1 - 0.3 * q)), rel=1e-5
    )  # a known variance
    assert interval(1.0, 100.0, signal_sd=0.7, variance_sd=1.0) == (pytest.approx(46.2, abs=0.1), None)
    assert interval(-0.5, 100.0, signal_sd=0.7, variance_sd=1.0) == (pytest.approx(150.8, abs=1.0), None)
    assert interval(1.0, 1.0, signal_sd=2.0, variance_sd=2.0) == (0.0, None)  # knows nothing
    assert interval(-1.0, 100.0, signal_sd=0.1, variance_sd=1.0) is None  # fits no noise scale
    assert interval(1.0, -0.5, signal_sd=0.1, variance_sd=1.0) == (0.0, pytest.approx(1.17, abs=0.02))


@given(
    signal=st.floats(-10.0, 10.0),
    variance=st.floats(-10.0, 1e3),
    signal_sd=st.floats(0.01, 10.0),
    variance_sd=st.floats(0.01, 100.0),
)
def test_an_interval_holds_the_noise_scale_and_the_wider_level_holds_the_narrower(
    signal: float, variance: float, signal_sd: float, variance_sd: float
) -> None:
    through = lines(signal, variance, signal_sd=signal_sd, variance_sd=variance_sd)
    wide, narrow = through.noise_scale(0.95), through.noise_scale(0.5)
    if narrow is None:
        assert not (signal > 0.0 and variance > 0.0)
        return
    if narrow.noise_scale is not None:
        assert narrow.lower <= narrow.noise_scale * (1 + 1e-9)
        assert narrow.upper is None or narrow.noise_scale <= narrow.upper * (1 + 1e-9)
    assert wide is not None
    assert wide.lower <= narrow.lower * (1 + 1e-9)
    assert wide.upper is None or (narrow.upper is not None and narrow.upper <= wide.upper * (1 + 1e-9))


@pytest.mark.parametrize(("level", "within"), [(0.5, 0.01), (0.8, 0.01), (0.9, 0.02), (0.95, 0.04), (0.99, 0.2)])
@pytest.mark.parametrize("freedom", [3.0, 10.0, 65.0, 198.0])
def test_the_quantile_is_students(level: float, within: float, freedom: float) -> None:
    exact = scipy.stats.t.ppf((1 + level) / 2, freedom)
    assert _student(level, freedom=freedom) == pytest.approx(exact, rel=within)


@pytest.mark.parametrize("level", [0.0, 1.0, 90.0, nan])
def test_a_level_is_a_probability(level: float) -> None:
    with pytest.raises(PlanError) as caught:
        NoiseHistory().present(level)
    assert str(caught.value) == f"level = {level:g} is not in (0, 1).\n  It is a probability, such as 0.9."
