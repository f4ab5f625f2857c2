"""Decide which GPUs the workers of a run ask Ray for. The cluster is known only when the run starts."""

from collections.abc import Mapping, Sequence

from scaler.errors import ClusterError
from scaler.job import Job

TYPE = "accelerator_type:"  # Ray's resource for the type of a node's GPUs
SHARE_OF_TYPE = 0.001  # amount of it that Ray Train asks for


def with_gpus(job: Job, nodes: Sequence[Mapping[str, float]]) -> Job:
    """Return the job with a number for ``gpus_per_worker: auto``.

    Args:
        job: what was asked for.
        nodes: amount by resource of each node of the cluster, also of resources that are in use.

    Returns:
        The job with 1 GPU a worker if a node has a GPU or the job names a type of GPU, otherwise with 0. A job that
        gives a number is returned unchanged.
    """
    resources = job.resources
    if resources.gpus_per_worker != "auto":
        return job
    has_gpu = resources.accelerator_type is not None or any(node.get("GPU") for node in nodes)
    return job.model_copy(
        update={"resources": resources.model_copy(update={"gpus_per_worker": 1.0 if has_gpu else 0.0})}
    )


def with_type(nodes: Sequence[Mapping[str, float]], accelerator_type: str | None) -> Sequence[Mapping[str, float]]:
    """Return the nodes whose GPUs have the type that a job asks for.

    Args:
        nodes: amount by resource of each node.
        accelerator_type: ``resources.accelerator_type``; None: any node will do.

    Raises:
        ClusterError: no node has such a GPU; names the types that there are.
    """
    if accelerator_type is None:
        return nodes
    found = [node for node in nodes if TYPE + accelerator_type in node]
    if not found:
        types = sorted({name.removeprefix(TYPE) for node in nodes for name in node if name.startswith(TYPE)})
        raise ClusterError(
            f"resources.accelerator_type = {accelerator_type}, and the cluster has "
            f"{', '.join(types) if types else 'no node with a known type of GPU'}.",
            f"Give {' or '.join(types)}, or leave accelerator_type out." if types else "Leave accelerator_type out.",
        )
    return found
