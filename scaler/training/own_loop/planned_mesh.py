"""The plan of a loop whose processes form a mesh."""

from scaler.core.mesh import MODEL, mesh_text
from scaler.errors import JobFileError
from scaler.job import Job
from scaler.job.load import with_mesh
from scaler.job.mesh import Mesh
from scaler.plan import Plan, make_plan
from scaler.training.own_loop.mesh import EXPERT, SHARD, TENSOR, LoopMesh


def plan_for_mesh(job: Job, mesh: LoopMesh, *, num_samples: int | None) -> tuple[Job, Plan]:
    """Return the job, with the script's mesh where it has none, and its plan for the processes that there are.

    Raises:
        JobFileError: the job has another mesh than the script.
        PlanError: there is no plan for these processes.
    """
    if mesh.is_given and job.scale.mesh == Mesh():
        job = with_mesh(job, mesh.sizes)
    plan = make_plan(job, len(mesh.places), num_samples=num_samples)
    require_planned_mesh(mesh, plan)
    return job, plan


def require_planned_mesh(mesh: LoopMesh, plan: Plan) -> None:
    """Refuse a script whose mesh is not the plan's.

    Raises:
        JobFileError: gives both.
    """
    own = {**mesh.sizes, TENSOR: mesh.sizes[TENSOR] * mesh.sizes[EXPERT]}  # as scale.mesh counts them
    compared = [*MODEL, *([SHARD] if own[SHARD] > 1 and plan.mesh[SHARD] > 1 else [])]
    if all(own[name] == plan.mesh[name] for name in compared) and mesh.data_parallel_size == plan.data_parallel_size:
        return
    own.pop(EXPERT)
    found = f"the mesh of scaler.start is {mesh_text(own)}" if mesh.is_given else "scaler.start got no mesh"
    raise JobFileError(
        f"the plan's scale.mesh is {mesh_text(plan.mesh)}, and {found}.",
        f"Write scale.mesh: {mesh_text(own)} into the job, or change the script: scaler.start(job, mesh=mesh).",
    )
