"""What the files of a cluster contain: the job's workers as nodes, the command, the image and the storage."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor

from scaler.cluster.gpus import with_gpus
from scaler.core.optimizers import optimizer_facts
from scaler.job import Job

HOME = "/home/scaler"  # of the image's user
RUNS = f"{HOME}/runs"  # where containers have the runs, if the job's storage is a folder
DEFAULT_MEMORY_GIB = 4  # a worker of a small model takes 0.5 GiB
STORAGE_EXTRAS = {"s3": "s3", "gs": "gs", "gcs": "gs", "abfs": "abfs", "abfss": "abfs", "az": "abfs"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """What a job file does not say about the place where the job will run.

    Args:
        run_id: id of the run that the files start or resume.
        image: name of the container image; None: the job's name.
        memory_gib: memory of each worker, in GiB; None: ``DEFAULT_MEMORY_GIB``.
        workers_per_node: workers on each node; None: one, or as many as share a GPU.
        instance_type: type of the cloud machine; None: the smallest that fits.
        queue: Kueue's local queue, or Slurm's partition; None: the default one.
    """

    run_id: str
    image: str | None = None
    memory_gib: int | None = None
    workers_per_node: int | None = None
    instance_type: str | None = None
    queue: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Nodes:
    """The nodes of a cluster for one job.

    Args:
        min: fewest nodes, without the head.
        max: most nodes, without the head.
        cpus: CPUs of each node.
        gpus: GPUs of each node.
        memory_gib: memory of each node, in GiB.
    """

    min: int
    max: int
    cpus: int
    gpus: int
    memory_gib: int


def nodes_of(job: Job, place: Place, *, on_one_machine: bool = False) -> Nodes:
    """Return the nodes that hold a job's workers.

    Workers with less than one GPU share one, because a node has whole GPUs.

    Args:
        job: the job.
        place: has the workers and the memory of a node.
        on_one_machine: all nodes are containers of one machine. Then all its GPUs belong to one node, because a
            container runtime that is asked for one GPU gives the same one to every container.
    """
    scale, share = job.scale, gpu_share(job)
    fitting = floor(1 / share + 1e-9) if 0 < share < 1 else 1
    per_node = scale.max_workers if on_one_machine and share else place.workers_per_node or fitting
    per_node = min(per_node, scale.max_workers)
    return Nodes(
        min=ceil(scale.min_workers / per_node),
        max=ceil(scale.max_workers / per_node),
        cpus=ceil(per_node * job.resources.cpus_per_worker - 1e-9),
        gpus=ceil(per_node / fitting) * ceil(share),
        memory_gib=per_node * (place.memory_gib or DEFAULT_MEMORY_GIB),
    )


def is_remote(storage: str) -> bool:
    """Return whether a storage is one that every machine reaches by its URI."""
    return "://" in storage and not storage.startswith(("file://", "local://"))


def gpu_share(job: Job) -> float:
    """Return the GPUs of each worker. ``auto`` depends on the cluster, and the files make the cluster: 1 for a type."""
    return with_gpus(job, nodes=[]).resources.gpus


def submit_command(
    job_file: str, *, run_id: str, overrides: Sequence[str], workers: int | None, address: str | None = "auto"
) -> list[str]:
    """Return the command that starts the run, or resumes it from its checkpoint if it was started before."""
    command = ["python", "-m", "scaler", "submit", job_file]
    command += ["--address", address] if address is not None else []
    command += ["--run-id", run_id]
    command += ["--workers", str(workers)] if workers is not None else []
    return command + [part for override in overrides for part in ("--set", override)]


def extras_of(job: Job) -> list[str]:
    """Return the extras of scaler that a job needs, in the order of the alphabet."""
    found = {STORAGE_EXTRAS.get(job.storage.partition("://")[0])} if is_remote(job.storage) else set()
    found |= {name for name in ("mlflow", "wandb") if getattr(job.tracking, name) is not None}
    several = [own.optimizer for own in job.reference.several.values() if own.optimizer is not None]
    paths = [optimizer_facts(optimizer.name).path for optimizer in (job.reference.optimizer, *several)]
    found |= {"optimizers"} if any(path.startswith("pytorch_optimizer") for path in paths) else set()
    return sorted(extra for extra in found if extra)


def kubernetes_name(text: str, *, longest: int) -> str:
    """Return a text as the name of an object in Kubernetes: lower-case letters, digits and ``-``, a letter first.

    A name that is too long keeps its end, which tells runs apart.

    Example:
        >>> kubernetes_name("My_Job.v2-1", longest=47), kubernetes_name("2b", longest=47)
        ('my-job-v2-1', 'r-2b')
    """
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    name = name if name[:1].isalpha() else f"r-{name}"
    return name if len(name) <= longest else f"r-{name[2 - longest :].lstrip('-')}"
