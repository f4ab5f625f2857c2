from itertools import pairwise
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.core.batch import (
    Batch,
    micro_batch_bounds,
    next_step_start,
    samples_in,
    share_bounds,
    step_size,
    steps_between,
    strong_batch,
    weak_batch,
)
from scaler.errors import PlanError

sizes = st.integers(1, 300)


@given(total=st.integers(0, 10**6), parts=st.integers(1, 300))
def test_shares_cover_everything_in_order_and_differ_by_at_most_one(total: int, parts: int) -> None:
    bounds = [share_bounds(total, parts=parts, index=index) for index in range(parts)]
    assert bounds[0][0] == 0
    assert bounds[-1][1] == total
    assert all(before[1] == after[0] for before, after in pairwise(bounds))
    shares = [stop - start for start, stop in bounds]
    assert min(shares) >= 0
    assert max(shares) - min(shares) <= 1
    assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize(
    ("total", "parts", "shares"),
    [
        (6, 3, [2, 2, 2]),  # divides
        (7, 3, [3, 2, 2]),  # the first parts are the larger ones
        (2, 4, [1, 1, 0, 0]),  # fewer things than parts: some have none
        (0, 2, [0, 0]),  # nothing to share
        (5, 1, [5]),  # nobody to share with
    ],
)
def test_shares_by_example(total: int, parts: int, shares: list[int]) -> None:
    bounds = [share_bounds(total, parts=parts, index=index) for index in range(parts)]
    assert [stop - start for start, stop in bounds] == shares


@given(batch=sizes, num_samples=sizes, steps=st.integers(0, 10**6))
def test_samples_in_is_the_inverse_of_steps_from_the_start(batch: int, num_samples: int, steps: int) -> None:
    samples = samples_in(steps, global_batch_size=batch, num_samples=num_samples)
    assert steps_between(0, samples, global_batch_size=batch, num_samples=num_samples) == steps


@given(batch=sizes, num_samples=sizes, samples=st.integers(1, 10**6))
def test_steps_are_the_fewest_that_take_the_samples(batch: int, num_samples: int, samples: int) -> None:
    steps = steps_between(0, samples, global_batch_size=batch, num_samples=num_samples)
    assert samples_in(steps, global_batch_size=batch, num_samples=num_samples) >= samples
    assert samples_in(steps - 1, global_batch_size=batch, num_samples=num_samples) < samples


@given(batch=sizes, num_samples=sizes, total=st.integers(1, 900))
def test_walking_step_by_step_uses_each_epoch_exactly_and_never_exceeds(
    batch: int, num_samples: int, total: int
) -> None:
    seen, steps = 0, 0
    visited = {0}
    while size := step_size(seen, global_batch_size=batch, num_samples=num_samples, total_samples=total):
        assert seen == samples_in(steps, global_batch_size=batch, num_samples=num_samples)
        assert 0 < size <= batch
        seen, steps = seen + size, steps + 1
        visited.add(seen)
    assert seen == total
    assert steps == steps_between(0, total, global_batch_size=batch, num_samples=num_samples)
    assert visited.issuperset(range(0, total + 1, num_samples)), "a step reached over the end of an epoch"


def starts_of_steps(start: int, *, batch: int, num_samples: int, end: int) -> list[int]:
    """Where steps begin from ``start`` on, walked one by one; up to the first at or after ``end``."""
    found = [start]
    while found[-1] < end:
        size = step_size(found[-1], global_batch_size=batch, num_samples=num_samples, total_samples=10**9)
        found.append(found[-1] + size)
    return found


@given(batch=sizes, num_samples=sizes, start=st.integers(0, 900), more=st.integers(0, 900))
def test_steps_from_the_middle_of_an_epoch_are_those_walked(
    batch: int, num_samples: int, start: int, more: int
) -> None:
    walked = starts_of_steps(start, batch=batch, num_samples=num_samples, end=start + more)
    for stop in range(start, start + more + 1, 7):
        steps = steps_between(start, stop, global_batch_size=batch, num_samples=num_samples)
        assert steps == sum(begin < stop for begin in walked)


@given(batch=sizes, num_samples=sizes, start=st.integers(0, 900), more=st.integers(-50, 900))
def test_the_next_start_of_a_step_is_the_first_walked_that_is_not_before(
    batch: int, num_samples: int, start: int, more: int
) -> None:
    at = start + more
    walked = starts_of_steps(start, batch=batch, num_samples=num_samples, end=at)
    found = next_step_start(at, start=start, global_batch_size=batch, num_samples=num_samples)
    assert found == next(begin for begin in walked if begin >= at)


@pytest.mark.parametrize(
    ("start", "at", "found"),
    [
        (0, 0, 0),  # the training itself
        (0, 1, 4),  # one sample into a step: the next
        (0, 8, 8),  # on time
        (0, 9, 10),  # in an epoch's short last step
        (0, 10, 10),  # the next epoch begins with a step
        (0, 23, 24),  # counted from the epoch it is in
        (6, 9, 10),  # steps of this epoch begin where the batch changed: 6, 10
        (6, 5, 6),  # not before that
        (6, 12, 14),  # the next epoch's begin with it
    ],
)
def test_the_next_start_by_example(start: int, at: int, found: int) -> None:
    assert next_step_start(at, start=start, global_batch_size=4, num_samples=10) == found


@given(total=st.integers(0, 300), workers=st.integers(1, 12), accumulation=st.integers(1, 12))
def test_micro_batches_cover_a_step_in_order_and_are_never_empty(total: int, workers: int, accumulation: int) -> None:
    bounds = [
        bound
        for rank in range(workers)
        for bound in micro_batch_bounds(total, world_size=workers, rank=rank, grad_accum_steps=accumulation)
    ]
    assert all(start < stop for start, stop in bounds)
    assert [place for bound in bounds for place in range(*bound)] == list(range(total))


@given(num_samples=sizes, total=st.integers(1, 900), batches=st.lists(sizes, min_size=1, max_size=20))
def test_a_batch_that_changes_on_the_way_still_uses_each_epoch_exactly(
    num_samples: int, total: int, batches: list[int]
) -> None:
    seen, steps = 0, 0
    visited = {0}
    while size := step_size(
        seen, global_batch_size=batches[steps % len(batches)], num_samples=num_samples, total_samples=total
    ):
        seen, steps = seen + size, steps + 1
        visited.add(seen)
    assert seen == total
    assert visited.issuperset(range(0, total + 1, num_samples))


@pytest.mark.parametrize("seen", [13, 14, 1000])
def test_no_step_starts_at_or_after_the_end(seen: int) -> None:
    assert step_size(seen, global_batch_size=4, num_samples=10, total_samples=13) == 0


def test_a_batch_larger_than_the_data_takes_an_epoch_a_step() -> None:
    walk = [step_size(seen, global_batch_size=50, num_samples=10, total_samples=25) for seen in (0, 10, 20)]
    assert walk == [10, 10, 5]


@pytest.mark.parametrize(
    ("workers", "micro_batch", "accumulation", "expected"),
    [
        (1, 16, 1, 16),  # the reference itself
        (2, 64, 1, 128),  # grows with the workers
        (2, 64, 3, 384),  # accumulation counts
    ],
)
def test_a_weak_batch_is_the_product(workers: int, micro_batch: int, accumulation: int, expected: int) -> None:
    batch = weak_batch(num_workers=workers, per_worker_batch_size=micro_batch, grad_accum_steps=accumulation)
    assert batch == Batch(global_batch_size=expected, per_worker_batch_size=micro_batch, grad_accum_steps=accumulation)


@pytest.mark.parametrize(
    ("workers", "total", "cap", "accumulation", "expected"),
    [
        (1, 256, None, None, (256, 1)),  # no limit: all at once
        (3, 256, None, None, (86, 1)),  # 256 / 3 rounded up: no divisor needed
        (3, 256, 32, None, (29, 3)),  # 86 in three micro-steps, as even as they go
        (3, 256, None, 2, (43, 2)),  # as many micro-steps as asked for
        (3, 256, 43, 2, (43, 2)),  # just fits
        (3, 256, 100, 2, (43, 2)),  # the cap is a cap, not a size
        (8, 4, None, None, (1, 1)),  # more workers than samples
        (1, 7, 1, None, (1, 7)),  # one by one
    ],
)
def test_a_strong_batch_by_example(
    workers: int, total: int, cap: int | None, accumulation: int | None, expected: tuple[int, int]
) -> None:
    batch = strong_batch(
        num_workers=workers, global_batch_size=total, per_worker_batch_size=cap, grad_accum_steps=accumulation
    )
    assert batch.global_batch_size == total
    assert (batch.per_worker_batch_size, batch.grad_accum_steps) == expected


@given(workers=st.integers(1, 40), total=st.integers(1, 5000), cap=st.none() | sizes)
def test_a_strong_batch_takes_the_fewest_micro_steps_and_every_share_fits(
    workers: int, total: int, cap: int | None
) -> None:
    batch = strong_batch(num_workers=workers, global_batch_size=total, per_worker_batch_size=cap, grad_accum_steps=None)
    size, steps = batch.per_worker_batch_size, batch.grad_accum_steps
    largest = ceil(total / workers)
    assert batch.global_batch_size == total
    assert size <= (cap or largest)
    assert cap is None or (steps - 1) * cap < largest, "fewer micro-steps would do"
    taken = 0
    for rank in range(workers):
        start, stop = share_bounds(total, parts=workers, index=rank)
        for micro_step in range(steps):
            begin, end = share_bounds(stop - start, parts=steps, index=micro_step)
            assert end - begin <= size
            taken += end - begin
    assert taken == total


@pytest.mark.parametrize(
    ("workers", "cap", "accumulation", "text"),
    [
        (
            3,
            32,
            2,
            "scale.global_batch_size = 256 gives each of 3 workers up to 86 samples, but 2 micro-steps of at most 32 "
            "hold 64.\n  Leave scale.grad_accum_steps out, or set it to 3 or more.",
        ),
        (  # one short
            2,
            127,
            1,
            "scale.global_batch_size = 256 gives each of 2 workers up to 128 samples, but 1 micro-steps of at most 127 "
            "hold 127.\n  Leave scale.grad_accum_steps out, or set it to 2 or more.",
        ),
    ],
)
def test_micro_steps_that_cannot_hold_a_share_are_refused(workers: int, cap: int, accumulation: int, text: str) -> None:
    with pytest.raises(PlanError) as caught:
        strong_batch(
            num_workers=workers, global_batch_size=256, per_worker_batch_size=cap, grad_accum_steps=accumulation
        )
    assert str(caught.value) == text
