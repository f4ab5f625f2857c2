"""Warmups and schedules: tables of values, texts of what is refused, and properties of them all."""

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaler.core.cycles import CosineRestarts, Cyclical, OneCycle
from scaler.core.decays import Cosine, Linear, Polynomial, Wsd
from scaler.core.schedules import SHAPES, Schedule, Warmup
from scaler.core.shape import Shape
from scaler.core.shapes import Constant, Exponential, InverseSqrt, MultiStep, Ramp, Step
from scaler.errors import PlanError

shares = st.floats(0.0, 1.0)


@pytest.mark.parametrize(
    ("shape", "samples_seen", "expected"),
    [
        ("linear", 0, 0.25),  # the first step has the start's share exactly
        ("linear", 100, 0.4375),  # a quarter of the way
        ("linear", 200, 0.625),  # half of the way
        ("linear", 399, 0.998125),  # one sample before the end
        ("constant", 0, 0.25),
        ("constant", 399, 0.25),  # the start until the end, then a jump: Goyal et al. 2017, section 2.2
        ("cosine", 0, 0.25),
        ("cosine", 100, 0.25 + 0.75 * (1 - 0.5**0.5) / 2),  # cos(45 degrees)
        ("cosine", 200, 0.625),  # half of the way at half of the time
        *((shape, end, 1.0) for shape in ("linear", "constant", "cosine") for end in (400, 401, 10**9)),  # the peak
    ],
)
def test_the_warmups_of_400_samples_from_a_quarter(shape: Any, samples_seen: int, expected: float) -> None:
    warmup = Warmup(samples=400, start=0.25, shape=shape)
    assert warmup.factor(samples_seen) == pytest.approx(expected, rel=1e-15, abs=0)


@pytest.mark.parametrize(
    ("warmup", "samples_seen", "expected"),
    [
        (Warmup(), 0, 1.0),  # no warmup: the peak at once
        (Warmup(samples=0, start=0.25), 0, 1.0),  # nor does a start make one
        (Warmup(samples=400), 0, 0.0),  # from nothing
        (Warmup(samples=400, start=1.0), 123, 1.0),  # from the peak: no climb
        (Warmup(samples=1, start=0.5), 0, 0.5),  # a warmup of one sample is one step
    ],
)
def test_warmups_at_the_edges(warmup: Warmup, samples_seen: int, expected: float) -> None:
    assert warmup.factor(samples_seen) == expected


@given(seen=st.integers(0, 99), start=shares, shape=st.sampled_from(["linear", "constant", "cosine"]))
def test_a_warmup_never_falls(seen: int, start: float, shape: Any) -> None:
    warmup = Warmup(samples=100, start=start, shape=shape)
    assert warmup.factor(seen) <= warmup.factor(seen + 1) + 1e-15


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"start": 1.5}, "schedule.warmup.start = 1.5 is not in [0, 1].\n  It is a share of peak_lr."),
        ({"start": -0.1}, "schedule.warmup.start = -0.1 is not in [0, 1].\n  It is a share of peak_lr."),
        ({"start": float("nan")}, "schedule.warmup.start = nan is not in [0, 1].\n  It is a share of peak_lr."),
        ({"samples": -1}, "schedule.warmup.samples = -1 samples is below 0.\n  The least is 0."),
        ({"shape": "square"}, "schedule.warmup.shape = square is not known.\n  Known: linear, constant, cosine."),
    ],
)
def test_a_warmup_out_of_range_is_refused(values: dict[str, Any], text: str) -> None:
    with pytest.raises(PlanError) as caught:
        Warmup(**values)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        # Most shapes begin at the end of the warmup, at sample 100.
        (Cosine(length=200), {0: 0.5, 50: 0.75, 100: 1.0, 200: 0.5, 300: 0.0, 301: 0.0}),
        (Exponential(every=100, decay=0.5), {0: 0.5, 100: 1.0, 200: 0.5}),
        (InverseSqrt(timescale=100), {0: 0.5, 100: 1.0, 400: 0.5}),
        # Steps count the warmup, as Goyal et al. 2017 do: epoch 30 is the thirtieth of the training.
        (Step(every=150, decay=0.5), {0: 0.5, 100: 1.0, 149: 1.0, 150: 0.5, 300: 0.25}),
        (MultiStep(at=(150, 200), decay=0.5), {0: 0.5, 100: 1.0, 149: 1.0, 150: 0.5, 200: 0.25}),
        # A drop in the warmup takes effect at its end.
        (MultiStep(at=(40, 150), decay=0.5), {39: 0.695, 40: 0.7, 99: 0.995, 100: 0.5, 150: 0.25}),
    ],
)
def test_a_shape_after_100_samples_of_warmup_from_a_half(shape: Shape, expected: dict[int, float]) -> None:
    schedule = Schedule(shape=shape, warmup=Warmup(samples=100, start=0.5))
    assert {s: schedule(s) for s in expected} == pytest.approx(expected, rel=1e-15, abs=1e-15)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        # The warmup climbs to the shape's own start, a quarter of the peak, and the shape continues from there.
        (Cyclical(climb=50, descent=50, low=0.25), {0: 0.125, 50: 0.1875, 99: 0.24875, 100: 0.25, 150: 1.0, 200: 0.25}),
        (
            OneCycle(climb=50, length=150, start_fraction=0.25, final_fraction=0.0, anneal="linear"),
            {0: 0.125, 50: 0.1875, 99: 0.24875, 100: 0.25, 150: 1.0, 200: 0.5, 250: 0.0},
        ),
    ],
)
def test_a_warmup_ends_where_a_shape_that_climbs_begins(shape: Shape, expected: dict[int, float]) -> None:
    schedule = Schedule(shape=shape, warmup=Warmup(samples=100, start=0.5))
    assert {s: schedule(s) for s in expected} == pytest.approx(expected, rel=1e-15, abs=1e-15)


def test_momentum_waits_for_the_end_of_the_warmup() -> None:
    shape = OneCycle(climb=100, length=400, anneal="linear", low_momentum=0.5, high_momentum=0.75)
    schedule = Schedule(shape=shape, warmup=Warmup(samples=50))
    assert [schedule.momentum(s) for s in (0, 25, 50, 100, 150, 450)] == [0.75, 0.75, 0.75, 0.625, 0.5, 0.75]
    cycles = Cyclical(climb=50, descent=50, low=0.0, low_momentum=0.5, high_momentum=0.75)
    schedule = Schedule(shape=cycles, warmup=Warmup(samples=60))
    assert [schedule.momentum(s) for s in (0, 10, 60, 110, 160)] == [0.75, 0.75, 0.75, 0.5, 0.75]


def test_the_shapes_that_count_the_warmup() -> None:
    assert [name for name, shape in SHAPES.items() if shape.counts_warmup] == ["step", "multi_step"]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (
            {"name": "stairs"},
            "schedule.name = stairs is not a schedule.\n  Schedules: constant, step, multi_step, exponential, linear, "
            "polynomial, cosine, cosine_restarts, cyclical, one_cycle, wsd, inverse_sqrt, ramp.",
        ),
        ({"name": "constant", "every": 3}, "schedule constant has no setting every.\n  Settings: none."),
        ({"name": "step", "evry": 3}, "schedule step has no setting evry.\n  Settings: every, decay."),
        ({"name": "step", "every": 3}, "schedule step needs decay.\n  Settings: every, decay."),
        (
            {"name": "constant", "warmup": {"epochs": 3}},
            "schedule.warmup has no setting epochs.\n  Settings: samples, start, shape.",
        ),
        (
            {"name": "cosine", "length": 0},
            "schedule.length = 0 samples is below 1.\n  The least is 1.",
        ),
    ],
)
def test_what_is_no_schedule_is_refused(values: dict[str, Any], text: str) -> None:
    with pytest.raises(PlanError) as caught:
        Schedule.from_dict(values)
    assert str(caught.value) == text


def test_a_schedule_in_json_reads_as_the_job_file_does() -> None:
    schedule = Schedule(shape=MultiStep(at=(300, 600), decay=0.1), warmup=Warmup(samples=50, start=0.25))
    assert schedule.to_dict() == {
        "name": "multi_step",
        "at": [300, 600],
        "decay": 0.1,
        "warmup": {"samples": 50, "start": 0.25, "shape": "linear"},
    }


# --- properties of every schedule

# Long enough that a thousandth of a sample is a step that floats can tell and that no smooth shape changes much in.
lengths = st.integers(1_000, 10**6)
decays = st.floats(1e-3, 1.0)
momenta = st.lists(st.floats(0.0, 0.99), min_size=2, max_size=2).map(sorted) | st.just([None, None])


def _cyclical(decay: float, momentum: list[float | None], **values: Any) -> Cyclical:
    decay = decay if values["mode"] == "exp_range" else 1.0
    return Cyclical(decay=decay, low_momentum=momentum[0], high_momentum=momentum[1], **values)


def _one_cycle(climb: int, rest: int, momentum: list[float | None], **values: Any) -> OneCycle:
    return OneCycle(climb=climb, length=climb + rest, low_momentum=momentum[0], high_momentum=momentum[1], **values)


def _wsd(decay_start: int, rest: int, **values: Any) -> Wsd:
    return Wsd(decay_start=decay_start, length=decay_start + rest, **values)


SHAPE_STRATEGIES: dict[str, st.SearchStrategy[Shape]] = {
    "constant": st.just(Constant()),
    "step": st.builds(Step, every=lengths, decay=decays),
    "multi_step": st.builds(
        MultiStep, at=st.lists(lengths, min_size=1, max_size=4, unique=True).map(sorted).map(tuple), decay=decays
    ),
    "exponential": st.builds(Exponential, every=lengths, decay=decays),
    "linear": st.builds(Linear, length=lengths, final_fraction=shares),
    "polynomial": st.builds(Polynomial, length=lengths, power=st.floats(0.5, 4.0), final_fraction=shares),
    "cosine": st.builds(Cosine, length=lengths, final_fraction=shares),
    "cosine_restarts": st.builds(CosineRestarts, first=lengths, growth=st.floats(1.0, 4.0), final_fraction=shares),
    "cyclical": st.builds(
        _cyclical,
        climb=lengths,
        descent=lengths,
        low=shares,
        mode=st.sampled_from(["triangular", "triangular2", "exp_range"]),
        decay=decays,
        momentum=momenta,
    ),
    "one_cycle": st.builds(
        _one_cycle,
        climb=lengths,
        rest=lengths,
        start_fraction=shares,
        final_fraction=shares,
        anneal=st.sampled_from(["cosine", "linear"]),
        momentum=momenta,
    ),
    "wsd": st.builds(
        _wsd,
        decay_start=lengths,
        rest=lengths,
        tail=st.sampled_from(["linear", "sqrt", "1-sqrt"]),
        final_fraction=shares,
    ),
    "inverse_sqrt": st.builds(InverseSqrt, timescale=lengths),
    "ramp": st.builds(
        Ramp, length=lengths, low=st.floats(1e-9, 1.0), spacing=st.sampled_from(["exponential", "linear"])
    ),
}
SMOOTH = [name for name in SHAPES if name not in ("step", "multi_step", "cosine_restarts")]


def _schedules(names: list[str], warmups: tuple[str, ...]) -> st.SearchStrategy[Schedule]:
    warmup = st.builds(Warmup, samples=st.just(0) | lengths, start=shares, shape=st.sampled_from(warmups))
    return st.builds(Schedule, shape=st.one_of(*(SHAPE_STRATEGIES[name] for name in names)), warmup=warmup)


every_schedule = _schedules(list(SHAPES), ("linear", "constant", "cosine"))
smooth_schedule = _schedules(SMOOTH, ("linear", "cosine"))


def _lengths_of(shape: Shape) -> list[int]:
    values = [getattr(shape, field.name) for field in fields(shape) if field.type in (int, tuple[int, ...])]
    return [length for value in values for length in (value if isinstance(value, tuple) else [value])]


def _stretched(schedule: Schedule, times: int) -> Schedule:
    longer: dict[str, Any] = {}
    for field in fields(schedule.shape):
        value = getattr(schedule.shape, field.name)
        if field.type is int:
            longer[field.name] = value * times
        elif field.type == tuple[int, ...]:
            longer[field.name] = tuple(place * times for place in value)
    warmup = replace(schedule.warmup, samples=schedule.warmup.samples * times)
    return Schedule(shape=replace(schedule.shape, **longer), warmup=warmup)


def test_every_shape_is_among_the_examples() -> None:
    assert list(SHAPE_STRATEGIES) == list(SHAPES)


@settings(max_examples=400)
@given(schedule=every_schedule, seen=st.integers(0, 10**7) | st.floats(0.0, 1e12))
def test_every_factor_is_a_share_and_every_momentum_lies_between_its_bounds(schedule: Schedule, seen: float) -> None:
    assert 0.0 <= schedule.factor(seen) <= 1.0
    momentum = schedule.momentum(seen)
    low, high = (getattr(schedule.shape, name, None) for name in ("low_momentum", "high_momentum"))
    if momentum is None:
        assert low is None
    else:
        assert low is not None
        assert high is not None
        assert low - 1e-15 <= momentum <= high + 1e-15


@settings(max_examples=400)
@given(schedule=smooth_schedule, anywhere=st.integers(0, 4 * 10**6))
def test_neighbours_are_close_at_every_joint_and_between(schedule: Schedule, anywhere: int) -> None:
    joints = _lengths_of(schedule.shape)
    # The ends of all pieces: a phase's end, whole cycles, the end of the warmup.
    for place in (0, *joints, sum(joints), 2 * sum(joints), anywhere):
        at = schedule.warmup.samples + place
        before, here, after = (schedule.factor(max(s, 0.0)) for s in (at - 1e-3, at, at + 1e-3))
        # A thousandth of a sample is 1e-6 of the shortest length; of square roots at their end that makes 1e-3.
        assert abs(after - here) <= 1.001e-3
        assert abs(here - before) <= 1.001e-3


@given(schedule=smooth_schedule, share=shares)
def test_a_warmup_is_continuous_too(schedule: Schedule, share: float) -> None:
    warmup = schedule.warmup
    at = share * warmup.samples
    assert abs(warmup.factor(at + 1e-3) - warmup.factor(at)) <= 1.6e-6  # pi / 2 of a cosine


@settings(max_examples=400)
@given(schedule=every_schedule, seen=st.integers(0, 5 * 10**6), times=st.integers(1, 1000))
def test_a_schedule_knows_shares_of_its_lengths_only(schedule: Schedule, seen: int, times: int) -> None:
    longer = _stretched(schedule, times)
    assert longer.factor(seen * times) == pytest.approx(schedule.factor(seen), rel=0, abs=1e-12)
    momentum, of_longer = schedule.momentum(seen), longer.momentum(seen * times)
    assert of_longer is None if momentum is None else of_longer == pytest.approx(momentum, rel=0, abs=1e-12)


@given(schedule=every_schedule)
def test_the_ends_are_exact(schedule: Schedule) -> None:
    shape, warmup = schedule.shape, schedule.warmup
    begins = 1.0 if shape.counts_warmup else shape.factor(0)
    if warmup.samples:
        assert schedule.factor(0) == warmup.start * begins
    if isinstance(shape, OneCycle):
        assert shape.factor(0) == shape.start_fraction
        assert shape.factor(shape.climb) == 1.0
    elif isinstance(shape, Cyclical | Ramp):
        assert shape.factor(0) == shape.low
    else:
        assert shape.factor(0) == 1.0
    if not shape.counts_warmup:
        assert schedule.factor(warmup.samples) == shape.factor(0)
    if isinstance(shape, Linear | Polynomial | Cosine | Wsd | OneCycle):
        assert schedule.factor(warmup.samples + shape.length) == shape.final_fraction
        assert schedule.factor(warmup.samples + shape.length + 1) == shape.final_fraction
    if isinstance(shape, Ramp):
        assert schedule.factor(warmup.samples + shape.length) == 1.0


@given(schedule=every_schedule)
def test_a_schedule_survives_json(schedule: Schedule) -> None:
    written = schedule.to_dict()
    assert Schedule.from_dict(written) == schedule
    assert json.loads(json.dumps(written)) == written
    assert Schedule.from_dict(json.loads(json.dumps(written, allow_nan=False))) == schedule
