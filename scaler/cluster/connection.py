"""Connect to the Ray cluster of a run, with what its workers need from this machine."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import scaler
from scaler.cluster.review import Review
from scaler.job import Job
from scaler.job.runtime_env import job_environment
from scaler.training.recipe.module import shipped_recipe

if TYPE_CHECKING:
    from scaler.cluster.kept.group import KeptGroup

GPU_DEVICES = ("/dev/nvidia0", "/dev/kfd", "/dev/dri")  # of NVIDIA, AMD and Intel


@dataclass(frozen=True, kw_only=True, slots=True)
class Connection:
    """A Ray cluster that this process is connected to.

    Args:
        recipe: the recipe as the workers import it.
        recipe_folder: the job file's folder, as the workers see it.
        is_embedded: whether the cluster ends with this process.
        group: workers that the runs share; None: each run starts its own on Ray Train.
        review: decides during a run whether it continues; None: nobody does.
    """

    recipe: str
    recipe_folder: str
    is_embedded: bool
    group: "KeptGroup | None" = None
    review: Review | None = None

    @classmethod
    def of_embedded(cls, job: Job, recipe_folder: Path) -> "Connection":
        """Return the connection to an embedded cluster, whose workers see this machine's files."""
        return cls(recipe=job.recipe_function, recipe_folder=str(recipe_folder), is_embedded=True)


@contextmanager
def connect(
    job: Job,
    *,
    recipe_folder: Path,
    address: str | None,
    verbose: bool,
    on_notice: Callable[[str], None] = lambda notice: None,
) -> Iterator[Connection]:
    """Connect to a cluster for the length of a ``with`` block.

    Args:
        job: gives the recipe, the environment of the workers, and the storage, which is not sent to the cluster.
        recipe_folder: the job file's folder.
        address: of a running cluster; None: an embedded one is started.
        verbose: show Ray's log.
        on_notice: called with a sentence for the user.

    Raises:
        ClusterError: there is no such cluster, it refuses this process, or it cannot be started.
        JobFileError: a part of ``runtime_env`` cannot be used.
    """
    with ExitStack() as stack:
        if address is None:
            from scaler.cluster.capacity import local_cpus
            from scaler.cluster.embedded import embedded_cluster

            stack.enter_context(job_environment(job.runtime_env, folder=recipe_folder))
            crowded = job.scale.max_workers > local_cpus()
            stack.enter_context(embedded_cluster(verbose=verbose, forks=can_fork(job), crowded=crowded))
            yield Connection.of_embedded(job, recipe_folder)
            return
        from scaler.cluster.ray_hooks import require_hooks
        from scaler.cluster.ray_session import set_environment
        from scaler.cluster.running import environment_for, running_cluster
        from scaler.cluster.runtime_env import merged_runtime_env
        from scaler.cluster.shipment import left_out_text, pack

        stack.enter_context(set_environment(environment_for(address)))
        require_hooks()  # before ``pack``, which uses Ray's private parts
        # The nodes get the job's folder, this machine's scaler, and the recipe's package if it is elsewhere.
        with job_environment(job.runtime_env, folder=recipe_folder):
            recipe, packages = shipped_recipe(job.recipe_function, folder=recipe_folder)
        shipment = pack(recipe_folder, storage=job.storage, packages=[Path(scaler.__file__).parent, *packages])
        if shipment.left_out:
            on_notice(left_out_text(shipment.left_out))
        runtime_env = merged_runtime_env(shipment.runtime_env, job, folder=recipe_folder)
        stack.enter_context(running_cluster(address, verbose=verbose, runtime_env=runtime_env))
        yield Connection(recipe=recipe, recipe_folder=shipment.recipe_folder, is_embedded=False)


def can_fork(job: Job) -> bool:
    """Return whether workers may be forks of one process: they use no GPU, and have one thread."""
    gpus = job.resources.gpus_per_worker
    uses_gpus = any(map(os.path.exists, GPU_DEVICES)) if gpus == "auto" else gpus > 0
    return not uses_gpus and job.resources.cpus_per_worker < 2
