from itertools import pairwise
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.core.batch import (
    Batch,
    micro_batch_bounds,
    share_bounds,
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


@given(total=st.integers(0, 300), workers=st.integers(1, 12), accumulation=st.integers(1, 12))
def test_micro_batches_cover_a_step_in_order_and_are_never_empty(total: int, workers: int, accumulation: int) -> None:
    bounds = [
        bound
        for rank in range(workers)
        for bound in micro_batch_bounds(total, world_size=workers, rank=rank, grad_accum_steps=accumulation)
    ]
    assert all(start < stop for start, stop in bounds)
    assert [place for bound in bounds for place in range(*bound)] == list(range(total))


@pytest.mark.parametrize(
    ("workers", "micro_batch", "accumulation", "expected"),
    [
        (1, 16, 1, 16),  # the reference itself
        (2, 64, 1, 128),  # grows with the workers
        (2, 64, 3, 384),  # accumulation counts
    ],
)
def test_a_weak_batch_is_the_product(workers: int, micro_batch: int, accumulation: int, expected: int) -> None:
    batch = weak_batch(data_parallel_size=workers, per_worker_batch_size=micro_batch, grad_accum_steps=accumulation)
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
        data_parallel_size=workers, global_batch_size=total, per_worker_batch_size=cap, grad_accum_steps=accumulation
    )
    assert batch.global_batch_size == total
    assert (batch.per_worker_batch_size, batch.grad_accum_steps) == expected


@given(workers=st.integers(1, 40), total=st.integers(1, 5000), cap=st.none() | sizes)
def test_a_strong_batch_takes_the_fewest_micro_steps_and_every_share_fits(
    workers: int, total: int, cap: int | None
) -> None:
    batch = strong_batch(
        data_parallel_size=workers, global_batch_size=total, per_worker_batch_size=cap, grad_accum_steps=None
    )
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
            "scale.global_batch_size = 256 in 3 shares gives each worker up to 86 samples, but 2 micro-steps of at "
            "most 32 hold 64.\n  Leave scale.grad_accum_steps out, or set it to 3 or more.",
        ),
        (  # one short
            2,
            127,
            1,
            "scale.global_batch_size = 256 in 2 shares gives each worker up to 128 samples, but 1 micro-steps of at "
            "most 127 hold 127.\n  Leave scale.grad_accum_steps out, or set it to 2 or more.",
        ),
    ],
)
def test_micro_steps_that_cannot_hold_a_share_are_refused(workers: int, cap: int, accumulation: int, text: str) -> None:
    with pytest.raises(PlanError) as caught:
        strong_batch(
            data_parallel_size=workers, global_batch_size=256, per_worker_batch_size=cap, grad_accum_steps=accumulation
        )
    assert str(caught.value) == text
