"""The mesh of a plan: what it needs of the job, and its reason."""

from collections.abc import Mapping

from scaler.core.mesh import DATA, DIMENSIONS, data_parallel_size, model_parallel_size
from scaler.errors import PlanError
from scaler.job import Job
from scaler.job.mesh import Mesh, mesh_on


def make_mesh(job: Job, world_size: int) -> dict[str, int]:
    """Return the size of every dimension of the mesh on ``world_size`` workers, by name.

    Raises:
        PlanError: the mesh is not for this number of workers, or weights cannot stay sharded among as many workers as
            ``reshard_after_forward`` says.
    """
    mesh = mesh_on(job, world_size)
    among, shard = job.train.fsdp.reshard_after_forward, mesh["shard"]
    if not isinstance(among, bool) and shard % among:
        fits = [size for size in range(2, shard + 1) if shard % size == 0]
        near = sorted(sorted(fits, key=lambda size: abs(size - among))[:2])
        raise PlanError(
            f"train.fsdp.reshard_after_forward = {among} does not divide the "
            f"{f'{shard} workers that share' if shard > 1 else '1 worker that has'} a copy of the model.",
            f"Use {' or '.join([*map(str, near), 'true'])}.",
        )
    return mesh


def mesh_reason(job: Job, mesh: Mapping[str, int]) -> dict[str, str]:
    """Return the sizes of the mesh and what they do to the batch, under its key; empty without a mesh or sharding."""
    if job.train.strategy == "ddp" and job.scale.mesh == Mesh():
        return {}
    sizes = ", ".join(f"{name} {mesh[name]}" for name in DIMENSIONS if name in DATA or mesh[name] > 1)
    ranks, same = data_parallel_size(mesh), model_parallel_size(mesh)
    among = f"{ranks} worker{'s' if ranks > 1 else ''}"
    if same > 1:
        among = f"{ranks} data-parallel rank{'s' if ranks > 1 else ''} of {same} workers, which get the same samples"
    return {"mesh": f"{sizes}: the batch is divided among {among}"}
