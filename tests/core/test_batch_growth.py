"""Where a batch grows that replaces the fall of the learning rate."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.core.batch_growth import batch_instead_of_decay, next_growth
from scaler.core.decays import Cosine, Linear, Polynomial, Wsd
from scaler.core.schedules import Schedule, Warmup
from scaler.core.shapes import Exponential, InverseSqrt, MultiStep, Step

STOP = 400
SHAPES: tuple[Callable[[int], object], ...] = (
    lambda length: Cosine(length=length),
    lambda length: Linear(length=length, final_fraction=0.05),
    lambda length: Polynomial(length=length, power=2.0),
    lambda length: Wsd(decay_start=length // 2, length=length, tail="1-sqrt"),
    lambda length: Exponential(every=max(1, length // 3), decay=0.5),
    lambda length: InverseSqrt(timescale=max(1, length // 4)),
    lambda length: Step(every=max(1, length // 3), decay=0.3),
    lambda length: MultiStep(at=(max(1, length // 4), 3 * length + 1), decay=0.1),
)
schedules = st.builds(
    lambda made, warmup: Schedule(shape=made(STOP - warmup), warmup=Warmup(samples=warmup, start=0.1)),
    st.sampled_from(SHAPES),
    st.integers(0, 200),
)


@given(
    schedule=schedules,
    first=st.integers(1, 64),
    most=st.integers(1, 2000),
    growth=st.floats(1.01, 10),
    start=st.integers(0, STOP),
)
def test_the_next_growth_is_the_first_point_where_the_batch_is_large_enough(
    schedule: Schedule, first: int, most: int, growth: float, start: int
) -> None:
    """The search by halving finds what looking at every sample finds."""
    most = max(first, most)
    batch = batch_instead_of_decay(schedule, start, first=first, most=most)
    found = next_growth(schedule, batch=batch, first=first, most=most, growth=growth, start=start, stop=STOP)
    sizes = {s: batch_instead_of_decay(schedule, s, first=first, most=most) for s in range(start, STOP)}
    wanted = min(max(growth * batch, batch + 1), most)
    expected = next((s for s, size in sizes.items() if batch < most and size >= wanted), None)
    assert found == expected
    assert all(first <= size <= most for size in sizes.values())
    assert list(sizes.values()) == sorted(sizes.values()), "it never shrinks"


@pytest.mark.parametrize(
    ("samples", "size"),
    [
        (0, 10),  # in the warmup the learning rate is low, and the batch is the first one
        (99, 10),
        (100, 10),  # the peak
        (300, 20),  # half the peak: twice the batch
        (433, 60),  # 10 / 0.1675 = 59.7: the nearest number of samples
        (490, 100),  # a fortieth of the peak: the largest batch
        (500, 100),  # the learning rate is 0, and the batch is not infinite
    ],
)
def test_the_batch_is_the_first_over_the_share_of_the_peak(samples: int, size: int) -> None:
    schedule = Schedule(shape=Linear(length=400), warmup=Warmup(samples=100, start=0.1))
    assert batch_instead_of_decay(schedule, samples, first=10, most=100) == size


def test_a_batch_of_one_sample_grows_by_whole_samples() -> None:
    schedule = Schedule(shape=Linear(length=400))
    places = [
        next_growth(schedule, batch=batch, first=1, most=4, growth=1.1, start=0, stop=400) for batch in (1, 2, 3, 4)
    ]
    assert places == [134, 241, 286, None]  # just above 1.5, 2.5 and 3.5 samples
