import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.core.steps import (
    LastBatch,
    last_step_start,
    next_step,
    next_step_start,
    samples_in,
    step_size,
    steps_between,
)

sizes = st.integers(1, 300)
ways = st.sampled_from(["scale", "drop", "carry"])


@given(batch=sizes, num_samples=sizes, steps=st.integers(0, 10**6))
def test_samples_in_is_the_inverse_of_steps_from_the_start(batch: int, num_samples: int, steps: int) -> None:
    samples = samples_in(steps, global_batch_size=batch, num_samples=num_samples, last_batch="scale")
    assert steps_between(0, samples, global_batch_size=batch, num_samples=num_samples, last_batch="scale") == steps


@given(batch=sizes, num_samples=sizes, samples=st.integers(1, 10**6))
def test_steps_are_the_fewest_that_take_the_samples(batch: int, num_samples: int, samples: int) -> None:
    steps = steps_between(0, samples, global_batch_size=batch, num_samples=num_samples, last_batch="scale")
    assert samples_in(steps, global_batch_size=batch, num_samples=num_samples, last_batch="scale") >= samples
    assert samples_in(steps - 1, global_batch_size=batch, num_samples=num_samples, last_batch="scale") < samples


@given(batch=sizes, num_samples=sizes, total=st.integers(1, 900))
def test_walking_step_by_step_uses_each_epoch_exactly_and_never_exceeds(
    batch: int, num_samples: int, total: int
) -> None:
    seen, steps = 0, 0
    visited = {0}
    while size := step_size(
        seen, global_batch_size=batch, num_samples=num_samples, total_samples=total, last_batch="scale"
    ):
        assert seen == samples_in(steps, global_batch_size=batch, num_samples=num_samples, last_batch="scale")
        assert 0 < size <= batch
        seen, steps = seen + size, steps + 1
        visited.add(seen)
    assert seen == total
    assert steps == steps_between(0, total, global_batch_size=batch, num_samples=num_samples, last_batch="scale")
    assert visited.issuperset(range(0, total + 1, num_samples)), "a step reached over the end of an epoch"


def starts_of_steps(start: int, *, batch: int, num_samples: int, end: int) -> list[int]:
    """Where steps begin from ``start`` on, walked one by one; up to the first at or after ``end``."""
    found = [start]
    while found[-1] < end:
        size = step_size(
            found[-1], global_batch_size=batch, num_samples=num_samples, total_samples=10**9, last_batch="scale"
        )
        found.append(found[-1] + size)
    return found


@given(batch=sizes, num_samples=sizes, start=st.integers(0, 900), more=st.integers(0, 900))
def test_steps_from_the_middle_of_an_epoch_are_those_walked(
    batch: int, num_samples: int, start: int, more: int
) -> None:
    walked = starts_of_steps(start, batch=batch, num_samples=num_samples, end=start + more)
    for stop in range(start, start + more + 1, 7):
        steps = steps_between(start, stop, global_batch_size=batch, num_samples=num_samples, last_batch="scale")
        assert steps == sum(begin < stop for begin in walked)


@given(batch=sizes, num_samples=sizes, start=st.integers(0, 900), more=st.integers(-50, 900))
def test_the_next_start_of_a_step_is_the_first_walked_that_is_not_before(
    batch: int, num_samples: int, start: int, more: int
) -> None:
    at = start + more
    walked = starts_of_steps(start, batch=batch, num_samples=num_samples, end=at)
    found = next_step_start(at, start=start, global_batch_size=batch, num_samples=num_samples, last_batch="scale")
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
    assert next_step_start(at, start=start, global_batch_size=4, num_samples=10, last_batch="scale") == found


@given(num_samples=sizes, total=st.integers(1, 900), batches=st.lists(sizes, min_size=1, max_size=20))
def test_a_batch_that_changes_on_the_way_still_uses_each_epoch_exactly(
    num_samples: int, total: int, batches: list[int]
) -> None:
    seen, steps = 0, 0
    visited = {0}
    while size := step_size(
        seen,
        global_batch_size=batches[steps % len(batches)],
        num_samples=num_samples,
        total_samples=total,
        last_batch="scale",
    ):
        seen, steps = seen + size, steps + 1
        visited.add(seen)
    assert seen == total
    assert visited.issuperset(range(0, total + 1, num_samples))


@pytest.mark.parametrize("seen", [13, 14, 1000])
def test_no_step_starts_at_or_after_the_end(seen: int) -> None:
    assert step_size(seen, global_batch_size=4, num_samples=10, total_samples=13, last_batch="scale") == 0


def test_a_batch_larger_than_the_data_takes_an_epoch_a_step() -> None:
    walk = [
        step_size(seen, global_batch_size=50, num_samples=10, total_samples=25, last_batch="scale")
        for seen in (0, 10, 20)
    ]
    assert walk == [10, 10, 5]


def walk(way: LastBatch, *, batch: int, num_samples: int, total: int, start: int = 0) -> list[tuple[int, int]]:
    """Every step as (where it begins, its samples), walked one by one."""
    found: list[tuple[int, int]] = []
    settled = {"global_batch_size": batch, "num_samples": num_samples, "total_samples": total}
    seen = next_step(start, **settled, last_batch=way)
    while size := step_size(seen, **settled, last_batch=way):
        found.append((seen, size))
        seen = next_step(seen + size, **settled, last_batch=way)
    assert seen == total
    return found


@given(way=ways, batch=sizes, num_samples=sizes, total=st.integers(1, 900), start=st.integers(0, 899))
def test_steps_are_counted_as_they_are_walked(
    way: LastBatch, batch: int, num_samples: int, total: int, start: int
) -> None:
    if start >= total or (way == "drop" and batch > num_samples):
        return
    steps = walk(way, batch=batch, num_samples=num_samples, total=total, start=start)
    if not steps:  # nothing but a rest that is left out
        return
    first = steps[0][0]
    for index, (begin, _) in enumerate(steps):
        counted = steps_between(first, begin, global_batch_size=batch, num_samples=num_samples, last_batch=way)
        assert counted == index
        found = next_step_start(begin, start=first, global_batch_size=batch, num_samples=num_samples, last_batch=way)
        assert found == begin
    last = last_step_start(total, start=first, global_batch_size=batch, num_samples=num_samples, last_batch=way)
    assert last == steps[-1][0]


@given(way=ways, batch=sizes, num_samples=sizes, steps=st.integers(0, 900))
def test_samples_in_steps_is_where_the_next_begins(way: LastBatch, batch: int, num_samples: int, steps: int) -> None:
    if way == "drop" and batch > num_samples:
        return
    samples = samples_in(steps, global_batch_size=batch, num_samples=num_samples, last_batch=way)
    walked = walk(way, batch=batch, num_samples=num_samples, total=samples + batch)
    assert samples in [begin for begin, _ in walked] or way == "drop"
    assert steps_between(0, samples, global_batch_size=batch, num_samples=num_samples, last_batch=way) == steps


@pytest.mark.parametrize(
    ("way", "steps"),
    [
        ("scale", [(0, 4), (4, 4), (8, 2), (10, 4), (14, 4), (18, 2)]),  # a rest is a short step
        ("drop", [(0, 4), (4, 4), (10, 4), (14, 4)]),  # a rest is passed over
        ("carry", [(0, 4), (4, 4), (8, 4), (12, 4), (16, 4)]),  # a rest and the next epoch's first samples
    ],
)
def test_the_three_ways_by_example(way: LastBatch, steps: list[tuple[int, int]]) -> None:
    assert walk(way, batch=4, num_samples=10, total=20) == steps


@given(batch=sizes, num_samples=sizes, epochs=st.integers(1, 4))
def test_drop_takes_whole_batches_only_and_carry_all_but_the_last(batch: int, num_samples: int, epochs: int) -> None:
    total = epochs * num_samples
    if batch <= num_samples:
        dropped = walk("drop", batch=batch, num_samples=num_samples, total=total)
        assert [size for _, size in dropped] == [batch] * (epochs * (num_samples // batch))
    carried = [size for _, size in walk("carry", batch=batch, num_samples=num_samples, total=total)]
    assert carried[:-1] == [batch] * (len(carried) - 1)
    assert sum(carried) == total
