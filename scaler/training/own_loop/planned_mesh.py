"""The plan of a loop whose processes form a mesh."""

from scaler.errors import JobFileError
from scaler.job import Job
from scaler.plan import Plan, make_plan
from scaler.training.own_loop.mesh import LoopMesh


def plan_for_mesh(job: Job, mesh: LoopMesh, *, num_samples: int | None) -> tuple[Job, Plan]:
    return job, make_plan(job, mesh.data_parallel_size, num_samples=num_samples)


def require_planned_mesh(mesh: LoopMesh, plan: Plan) -> None:
    if mesh.data_parallel_size != plan.world_size:
        raise JobFileError("x", "y")
