"""The sizes of a mesh, and the numbers of workers that fit it."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from scaler.core.mesh import DATA, DIMENSIONS, MODEL, data_parallel_size, mesh_step, model_parallel_size, resolve_mesh
from scaler.errors import PlanError

small = st.integers(1, 4)
fixed = st.fixed_dictionaries(dict.fromkeys(DIMENSIONS, small))
free = st.sampled_from(DATA)


@pytest.mark.parametrize(
    ("workers", "asked", "expected"),
    [
        (1, {}, (1, 1, 1, 1, 1, 1)),  # one worker
        (8, {"replicate": None}, (8, 1, 1, 1, 1, 1)),  # copies only
        (8, {"shard": None}, (1, 8, 1, 1, 1, 1)),  # shards only
        (8, {"replicate": 2, "shard": None}, (2, 4, 1, 1, 1, 1)),  # shards within each of two copies
        (8, {"replicate": None, "shard": 4}, (2, 4, 1, 1, 1, 1)),  # the same, asked for the other way round
        (16, {"shard": None, "tensor": 2, "pipeline": 2}, (1, 4, 2, 1, 2, 1)),
        (8, {"shard": None, "context": 2, "expert": 8}, (1, 4, 1, 2, 1, 8)),  # experts add no workers
        (4, {"tensor": 4, "expert": 2}, (1, 1, 4, 1, 1, 2)),
        (8, {"replicate": None, "pipeline": 2, "expert": 4}, (4, 1, 1, 1, 2, 4)),  # the copies differ in their experts
    ],
)
def test_a_mesh_by_example(workers: int, asked: dict[str, int | None], expected: tuple[int, ...]) -> None:
    assert resolve_mesh(workers, asked) == dict(zip(DIMENSIONS, expected, strict=True))


@given(sizes=fixed, dimension=free, factor=small)
def test_what_is_left_of_the_workers_makes_the_product_whole(
    sizes: dict[str, int], dimension: str, factor: int
) -> None:
    asked: dict[str, int | None] = {**sizes, dimension: None}
    workers = factor * mesh_step(asked)
    found = resolve_mesh(workers, asked)
    assert data_parallel_size(found) * model_parallel_size(found) == workers
    assert all(found[name] == sizes[name] for name in DIMENSIONS if name != dimension)
    assert workers // found["pipeline"] % found["expert"] == 0


@given(sizes=fixed, dimension=free, workers=st.integers(1, 200))
def test_only_multiples_of_the_step_fit(sizes: dict[str, int], dimension: str, workers: int) -> None:
    asked: dict[str, int | None] = {**sizes, dimension: None}
    assume(workers % mesh_step(asked))
    with pytest.raises(PlanError):
        resolve_mesh(workers, asked)


@given(sizes=fixed, name=st.sampled_from(MODEL), factor=small)
def test_workers_with_the_same_samples_never_multiply_the_batch(sizes: dict[str, int], name: str, factor: int) -> None:
    more = {**sizes, name: sizes[name] * factor}
    assert data_parallel_size(more) == data_parallel_size(sizes)
    assert model_parallel_size(more) == factor * model_parallel_size(sizes)


@pytest.mark.parametrize(
    ("workers", "asked", "text"),
    [
        (
            6,
            {"replicate": 2, "shard": 4},
            "scale.mesh = {replicate: 2, shard: 4} is for 8 workers, not for 6.\n  Use 8 workers or shard: 3.",
        ),
        (
            16,
            {"replicate": 2, "shard": 4},
            "scale.mesh = {replicate: 2, shard: 4} is for 8 workers, not for 16.\n"
            "  Use 8 workers or replicate: 4 or shard: 8.",
        ),
        (
            6,
            {"shard": None, "tensor": 4},
            "scale.mesh = {tensor: 4} is for a multiple of 4 workers, not for 6.\n  Use 4 or 8 workers.",
        ),
        (
            1,
            {"replicate": None, "pipeline": 3},
            "scale.mesh = {pipeline: 3} is for a multiple of 3 workers, not for 1.\n  Use 3 workers.",
        ),
        (
            8,
            {"shard": None, "tensor": 2, "expert": 3},
            "scale.mesh.expert = 3 does not divide the 8 workers that share the experts.\n"
            "  Use expert: 2 or 4, or another number of workers.",
        ),
        (
            8,
            {"shard": None, "pipeline": 4, "expert": 4},
            "scale.mesh.expert = 4 does not divide the 2 workers of a pipeline stage that share the experts.\n"
            "  Use expert: 1 or 2, or another number of workers.",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused_with_sizes_that_do(
    workers: int, asked: dict[str, int | None], text: str
) -> None:
    with pytest.raises(PlanError) as caught:
        resolve_mesh(workers, asked)
    assert str(caught.value) == text
