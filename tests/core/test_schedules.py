from math import nextafter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.core.schedules import cosine_factor, schedule_factor, warmup_factor
from scaler.errors import PlanError

shares = st.floats(0.0, 1.0)


@pytest.mark.parametrize(
    ("samples_seen", "expected"),
    [
        (0, 0.25),  # the first step has the start's share exactly
        (100, 0.4375),  # a quarter of the way
        (200, 0.625),  # half of the way
        (399, 0.998125),  # one sample before the end
        (400, 1.0),  # the end has the peak exactly
        (401, 1.0),  # and stays
        (10**9, 1.0),
    ],
)
def test_a_warmup_of_400_samples_from_a_quarter(samples_seen: int, expected: float) -> None:
    assert warmup_factor(samples_seen, warmup_samples=400, start=0.25) == expected


@pytest.mark.parametrize(
    ("warmup_samples", "start", "samples_seen", "expected"),
    [
        (0, 0.25, 0, 1.0),  # no warmup: the peak at once
        (400, 0.0, 0, 0.0),  # from nothing
        (400, 1.0, 123, 1.0),  # from the peak: no climb
        (1, 0.5, 0, 0.5),  # a warmup of one sample is one step
    ],
)
def test_warmups_at_the_edges(warmup_samples: int, start: float, samples_seen: int, expected: float) -> None:
    assert warmup_factor(samples_seen, warmup_samples=warmup_samples, start=start) == expected


@pytest.mark.parametrize(
    ("warmup_samples", "start", "text"),
    [
        (10, 1.5, "schedule.warmup.start = 1.5 is not in [0, 1].\n  It is a share of peak_lr."),
        (10, -0.1, "schedule.warmup.start = -0.1 is not in [0, 1].\n  It is a share of peak_lr."),
        (10, float("nan"), "schedule.warmup.start = nan is not in [0, 1].\n  It is a share of peak_lr."),
        (-1, 0.5, "warmup_samples = -1 is negative.\n  0 means no warmup."),
    ],
)
def test_a_warmup_that_cannot_be_is_refused(warmup_samples: int, start: float, text: str) -> None:
    with pytest.raises(PlanError) as caught:
        warmup_factor(0, warmup_samples=warmup_samples, start=start)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        (-1.0, 1.0),  # clipped
        (0.0, 1.0),  # the peak exactly
        (1 / 3, 0.775),  # cos(60 degrees) = 1/2
        (0.5, 0.55),  # half-way between 1 and 0.1
        (2 / 3, 0.325),
        (1.0, 0.1),  # the final fraction exactly
        (7.0, 0.1),  # clipped
    ],
)
def test_a_cosine_to_a_tenth(progress: float, expected: float) -> None:
    assert cosine_factor(progress, final_fraction=0.1) == pytest.approx(expected, rel=0, abs=1e-15)


@pytest.mark.parametrize("final_fraction", [0.0, 0.1, 0.5, 1.0])
def test_a_cosine_meets_both_ends_exactly(final_fraction: float) -> None:
    assert cosine_factor(0.0, final_fraction=final_fraction) == 1.0
    assert cosine_factor(1.0, final_fraction=final_fraction) == final_fraction


@pytest.mark.parametrize(
    ("name", "samples_seen", "expected"),
    [
        ("cosine", 0, 0.5),  # the warmup's start
        ("cosine", 50, 0.75),  # its middle
        ("cosine", 99, 0.995),  # one sample before its end
        ("cosine", 100, 1.0),  # the peak, exactly at its end
        ("cosine", 150, 0.8535533905932737),  # (1 + cos(45 degrees)) / 2: progress counts from the warmup's end
        ("cosine", 200, 0.5),
        ("cosine", 300, 0.0),  # the end of training
        ("cosine", 301, 0.0),  # beyond it
        ("constant", 0, 0.5),
        ("constant", 99, 0.995),
        ("constant", 100, 1.0),
        ("constant", 300, 1.0),
    ],
)
def test_the_schedule_of_300_samples_with_100_of_warmup(name: str, samples_seen: int, expected: float) -> None:
    factor = schedule_factor(
        samples_seen, name=name, total_samples=300, warmup_samples=100, warmup_start=0.5, final_fraction=0.0
    )
    assert factor == pytest.approx(expected, rel=0, abs=1e-15)


@pytest.mark.parametrize("total", [100, 50])
def test_a_warmup_as_long_as_the_training_or_longer_only_climbs(total: int) -> None:
    climb = [
        schedule_factor(s, name="cosine", total_samples=total, warmup_samples=100, warmup_start=0.0, final_fraction=0.0)
        for s in range(total)
    ]
    assert climb == pytest.approx([s / 100 for s in range(total)], rel=0, abs=1e-15)


@given(
    name=st.sampled_from(["constant", "cosine"]),
    total=st.integers(1, 10**7),
    warmup=st.integers(0, 10**7),
    start=shares,
    final=shares,
    seen=st.integers(0, 2 * 10**7),
)
def test_every_factor_is_a_share_and_neighbours_are_close(
    name: str, total: int, warmup: int, start: float, final: float, seen: int
) -> None:
    def factor(samples: int) -> float:
        return schedule_factor(
            samples, name=name, total_samples=total, warmup_samples=warmup, warmup_start=start, final_fraction=final
        )

    assert 0.0 <= factor(seen) <= nextafter(1.0, 2.0)
    slope = max(1 / max(warmup, 1), 1.6 / max(total - warmup, 1))  # of the climb, and pi / 2 of the cosine
    assert abs(factor(seen + 1) - factor(seen)) <= slope + 1e-12


@given(seen=st.integers(0, 99), start=shares)
def test_warmup_never_falls(seen: int, start: float) -> None:
    before, after = (warmup_factor(s, warmup_samples=100, start=start) for s in (seen, seen + 1))
    assert before <= after + 1e-15


def test_a_word_that_is_no_schedule_is_refused() -> None:
    with pytest.raises(PlanError) as caught:
        schedule_factor(0, name="step", total_samples=1, warmup_samples=0, warmup_start=0.0, final_fraction=0.0)
    assert str(caught.value) == "schedule.name = step is not a schedule.\n  Schedules: constant, cosine."
