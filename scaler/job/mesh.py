"""The ``scale.mesh`` section: how the workers share the model, and which numbers of workers fit it."""

from typing import TYPE_CHECKING

from pydantic import Field

from scaler.core.mesh import mesh_step, mesh_text, nearest_multiples, resolve_mesh
from scaler.errors import PlanError
from scaler.job.section import MOST_WORKERS, Section, problem

if TYPE_CHECKING:
    from scaler.job.model import Job


class Mesh(Section):
    """How the workers share the model. The batch is divided among replicate x shard; the others are for own loops."""

    replicate: int | None = Field(
        None,
        ge=1,
        le=MOST_WORKERS,
        description="Copies of the model; each has samples of its own. null: what is left of the workers with ddp or "
        "a given shard, else 1.",
    )
    shard: int | None = Field(
        None,
        ge=1,
        le=MOST_WORKERS,
        description="strategy: fsdp: workers that share one copy of the model, each with a part of its weights and "
        "with samples of its own. null: what is left of the workers.",
    )
    tensor: int = Field(
        1, ge=1, le=MOST_WORKERS, description="Workers that share each matrix of a layer, and get the same samples."
    )
    context: int = Field(
        1,
        ge=1,
        le=MOST_WORKERS,
        description="Workers that share each sequence: they get the same samples, and each computes a part of every "
        "sequence.",
    )
    pipeline: int = Field(
        1, ge=1, le=MOST_WORKERS, description="Stages of the model, one after the other, that get the same samples."
    )
    expert: int = Field(
        1,
        ge=1,
        le=MOST_WORKERS,
        description="Groups of this many workers share the experts of a layer. It adds no workers: it must divide "
        "the workers of a pipeline stage.",
    )

    @property
    def model_parallel_size(self) -> int:
        """How many workers get the same samples."""
        return self.tensor * self.context * self.pipeline


def mesh_on(job: "Job", workers: int) -> dict[str, int]:
    """Return the size of every dimension of a job's mesh on ``workers`` workers, by name.

    Raises:
        PlanError: the mesh is not for this number of workers; names numbers that fit.
    """
    return resolve_mesh(workers, _asked(job))


def workers_step(job: "Job") -> int:
    """Return the number that the job's number of workers must be a multiple of."""
    return mesh_step(_asked(job))


def require_mesh(job: "Job") -> None:
    """Refuse numbers of workers that the mesh does not fit; for the job's validator.

    Raises:
        PydanticCustomError: names numbers that fit.
    """
    mesh, workers = job.scale.mesh, job.scale.num_workers
    if job.train.strategy == "ddp" and (mesh.shard or 1) > 1:
        raise problem(
            f"scale.mesh.shard = {mesh.shard}, and train.strategy = ddp gives each worker the whole model.",
            f"Write train.strategy: fsdp, or replicate: {mesh.shard} instead of shard.",
        )
    asked = _asked(job)
    if isinstance(workers, int):
        try:
            resolve_mesh(workers, asked)
        except PlanError as error:
            raise problem(error.problem, error.remedy) from None
        return
    step = mesh_step(asked)
    if None not in asked.values():
        raise problem(
            f"scale.mesh = {mesh_text(asked)} is for {step} workers, and the job is elastic.",
            f"Leave {'replicate or shard' if (mesh.shard or 1) > 1 else 'replicate'} out: it takes what is left of the "
            f"workers; or write num_workers: {step}.",
        )
    for name, size in (("min", workers.min), ("max", workers.max)):
        if size % step:
            raise problem(
                f"scale.num_workers.{name} = {size} is no multiple of {step}, and scale.mesh = {mesh_text(asked)} "
                "needs one.",
                f"Use {nearest_multiples(size, step)}.",
            )


def _asked(job: "Job") -> dict[str, int | None]:
    """Return the mesh as the job asks for it, with at most one None: what is left of the workers."""
    asked: dict[str, int | None] = job.scale.mesh.model_dump()
    if job.train.strategy == "ddp":
        asked["shard"] = asked["shard"] or 1
    elif asked["replicate"] is None and asked["shard"] is None:
        asked["replicate"] = 1
    return asked
