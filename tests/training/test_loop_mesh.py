"""What a mesh says of the processes of a loop of one's own, without any process."""

import re
from typing import Any

import pytest
import torch
from torch.distributed.device_mesh import DeviceMesh

from scaler.errors import TrainingError
from scaler.training.clock import clock_for
from scaler.training.own_loop.mesh import LoopMesh, read_mesh
from scaler.training.own_loop.open_step import OpenStep

HINT = (
    "Names that multiply the batch: replicate, dp_replicate, dp, data, data_parallel, batch, shard, dp_shard, fsdp; "
    "that do not: tensor, tp, tensor_parallel, context, cp, sequence, sp, pipeline, pp, pipe, expert, ep. "
    "Or name those that do: data_dims=(...)."
)


def mesh_of(shape: tuple[int, ...], names: tuple[str, ...] | None, *, rank: int = 0) -> DeviceMesh:
    size = torch.Size(shape).numel()
    return DeviceMesh("cpu", torch.arange(size).reshape(shape), mesh_dim_names=names, _init_backend=False, _rank=rank)


def read(shape: tuple[int, ...], names: tuple[str, ...] | None, *, rank: int = 0, **options: Any) -> LoopMesh:
    mesh = mesh_of(shape, names, rank=rank)
    return read_mesh(mesh, rank=rank, world_size=mesh.size(), **options)


@pytest.mark.parametrize(
    ("shape", "names", "data_ranks"),
    [
        ((4,), None, (0, 1, 2, 3)),  # one dimension without a name is data parallel
        ((2, 2), ("replicate", "shard"), (0, 1, 2, 3)),
        ((2, 2), ("dp_replicate", "dp_shard"), (0, 1, 2, 3)),
        ((2, 2), ("data", "fsdp"), (0, 1, 2, 3)),
        ((2, 2), ("batch", "tp"), (0, 0, 1, 1)),
        ((2, 2), ("data_parallel", "tensor_parallel"), (0, 0, 1, 1)),
        ((2, 2), ("dp", "cp"), (0, 0, 1, 1)),
        ((2, 2), ("dp", "sequence"), (0, 0, 1, 1)),
        ((2, 2), ("pp", "dp"), (0, 1, 0, 1)),  # pipeline stages are the slowest dimension
        ((2, 2), ("ep", "dp"), (0, 1, 0, 1)),
        ((2, 2, 2), ("pipe", "dp", "tp"), (0, 0, 1, 1, 0, 0, 1, 1)),
        ((2, 1), ("dp", "something"), (0, 1)),  # of size 1: it changes nothing
    ],
)
def test_the_names_of_dimensions_say_which_multiply_the_batch(
    shape: tuple[int, ...], names: tuple[str, ...] | None, data_ranks: tuple[int, ...]
) -> None:
    mesh = read(shape, names)
    assert mesh.data_ranks == data_ranks
    assert mesh.data_parallel_size == max(data_ranks) + 1
    assert mesh.is_shared == (len(set(data_ranks)) < len(data_ranks))


def test_data_dims_say_it_where_names_do_not() -> None:
    assert read((2, 2), ("a", "b"), data_dims=("a",)).data_ranks == (0, 0, 1, 1)
    assert read((2, 2), ("a", "b"), data_dims=("a", "b")).data_ranks == (0, 1, 2, 3)
    assert read((2, 2), None, data_dims=(1,)).data_ranks == (0, 1, 0, 1)
    assert read((2, 2), ("dp", "ep"), data_dims=("dp", "ep")).data_ranks == (0, 1, 2, 3)  # as experts often are
    assert read((2, 2), ("dp", "fsdp"), data_dims=("dp",)).data_ranks == (0, 0, 1, 1)


def test_without_a_mesh_each_process_has_samples_of_its_own() -> None:
    mesh = read_mesh(None, rank=1, world_size=3)
    assert (mesh.data_parallel_rank, mesh.data_parallel_size, mesh.is_shared, mesh.is_given) == (1, 3, False, False)
    assert mesh.counts_samples
    assert mesh.records_losses


def test_one_process_of_a_data_parallel_rank_counts_and_losses_of_the_same_tokens_count_once() -> None:
    names, shape = ("pp", "dp", "cp", "tp"), (2, 2, 2, 2)
    meshes = [read(shape, names, rank=rank) for rank in range(16)]
    assert [mesh.rank for mesh in meshes if mesh.counts_samples] == [8, 12]  # last stage, first of the others
    assert [mesh.rank for mesh in meshes if mesh.records_losses] == [0, 2, 4, 6, 8, 10, 12, 14]  # first of tp
    assert meshes[0].groups("tensor")[:2] == [[0, 1], [2, 3]]
    assert meshes[0].groups("replicate", "shard")[0] == [0, 4]


@pytest.mark.parametrize(
    ("shape", "names", "options", "message"),
    [
        (
            (2, 2),
            ("dp", "model"),
            {},
            f"the mesh of scaler.start has the dimension 'model', which is not known.\n  {HINT}",
        ),
        (
            (2, 2),
            None,
            {},
            f"the mesh of scaler.start has 2 dimensions without names.\n  Give mesh_dim_names. {HINT}",
        ),
        (
            (2, 2),
            ("dp", "tp"),
            {"data_dims": ("dp", "pp")},
            "data_dims has 'pp', and the mesh has 'dp', 'tp'.\n  Name dimensions of the mesh, or give their numbers.",
        ),
        (
            (2, 2),
            None,
            {"data_dims": (2,)},
            "data_dims has 2, and the mesh has 0, 1.\n  Name dimensions of the mesh, or give their numbers.",
        ),
    ],
)
def test_a_mesh_that_does_not_say_it_is_refused(
    shape: tuple[int, ...], names: tuple[str, ...] | None, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrainingError, match=f"^{re.escape(message)}$"):
        read(shape, names, **options)


def test_a_part_of_a_mesh_is_refused() -> None:
    message = "the mesh of scaler.start has 2 processes, and there are 4."
    with pytest.raises(TrainingError, match=re.escape(message)):
        read_mesh(mesh_of((2,), ("dp",)), rank=0, world_size=4)


def test_data_dims_need_a_mesh() -> None:
    with pytest.raises(TrainingError, match="got data_dims without a mesh"):
        read_mesh(None, rank=0, world_size=2, data_dims=("dp",))


def recorded(
    names: tuple[str, ...], rank: int, *, weight: float | None, loss: float | None = 3.0
) -> tuple[int, float | None, float | None]:
    """Return samples, loss and weight in a record of a process of 2 x 2, after two micro-batches of 4 samples."""
    step = OpenStep()
    for _ in range(2 if loss is not None else 0):
        step.last_fetched = 4
        step.record(loss=loss, weight=weight, values={"double": 6.0})
    mesh = read((2, 2), names, rank=rank)
    mark = clock_for(torch.device("cpu")).mark()
    measures = step.measures(samples=8, mesh=mesh, ready=mark, synced=mark)
    mean, weights = measures.loss()
    values = step.counted_values(mesh)
    assert sum(value.value for value in values) == (0.0 if mean is None else 6.0 * (weights or 8.0))
    assert sum(value.weight for value in values) == (0.0 if mean is None else weights or 8.0)
    return measures.samples, mean, weights


def test_samples_and_weights_of_all_records_add_up_to_those_of_the_step() -> None:
    data = ("dp", "fsdp")
    assert [recorded(data, rank, weight=None) for rank in range(4)] == [(8, 3.0, None)] * 4
    tensor = ("dp", "tp")
    assert [recorded(tensor, rank, weight=None) for rank in (0, 1)] == [(8, 3.0, 8.0), (0, None, 0.0)]
    assert [recorded(tensor, rank, weight=50.0) for rank in (0, 1)] == [(8, 3.0, 100.0), (0, None, 0.0)]
    context = ("dp", "cp")  # each has the loss of its tokens
    assert [recorded(context, rank, weight=None) for rank in (0, 1)] == [(8, 3.0, 4.0), (0, 3.0, 4.0)]
    assert [recorded(context, rank, weight=25.0) for rank in (0, 1)] == [(8, 3.0, 50.0), (0, 3.0, 50.0)]
    pipeline = ("pp", "dp")  # rank 2 is the last stage of rank 0
    assert [recorded(pipeline, rank, weight=None, loss=3.0 if rank == 2 else None) for rank in (0, 2)] == [
        (0, None, 0.0),
        (8, 3.0, 8.0),
    ]
    assert [recorded(pipeline, rank, weight=None, loss=3.0 if rank == 0 else None) for rank in (0, 2)] == [
        (0, 3.0, 8.0),  # a schedule that ends at the first stage
        (8, None, 0.0),
    ]
