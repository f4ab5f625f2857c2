"""Make the Ray Train trainer of a run. Importing this module loads Ray Train, which takes a second."""

import os
from collections.abc import Mapping
from typing import Any, cast

from pyarrow.fs import FSSpecHandler, PyFileSystem
from ray.train.backend import Backend, BackendConfig

from scaler.cluster.attempt import Assignment
from scaler.cluster.capacity import start_timeout_s
from scaler.cluster.failure_policy import FailurePolicy
from scaler.cluster.free_resources import has_autoscaler
from scaler.cluster.ray_internals import (
    DataParallelTrainer,
    DatasetsCallback,
    FailureConfig,
    PlacementGroupCleanerCallback,
    RunConfig,
    ScalingConfig,
    WorkingDirectorySetupCallback,
)
from scaler.cluster.ray_session import set_environment
from scaler.cluster.scaling_policy import ElasticPolicy, FixedWithoutAutoscaler
from scaler.cluster.termination import NoteTermination
from scaler.cluster.worker import work
from scaler.job import Job
from scaler.job.mesh import workers_step

# Parts of Ray Train that scaler's runs do not need; each would start a process of one to two CPU seconds. scaler does
# not use Ray Data, and a recipe's relative paths mean the same on a worker as in this process. The placement group
# cleaner removes the workers' placement group when the controller has died. scaler's driver ends then, and Ray removes
# the placement groups of a driver that has ended. In a cluster without a dashboard, the cleaner asks any Ray that it
# finds on the machine, and takes "no such actor" for a dead controller: it has ended a healthy run.
_UNUSED = (DatasetsCallback, PlacementGroupCleanerCallback, WorkingDirectorySetupCallback)


RESIZE_CHECK_S = ("SCALER_RESIZE_CHECK_S", 10.0)
"""An elastic group is resized when another size has been possible, and the group has run, for this many seconds. A
lower value uses new nodes sooner, and interrupts training for each node that comes and goes."""
NEVER_S = 1e9


class _VisibleGpus(Backend):
    """Ray Train's setting that each worker sees the GPUs of all the run's workers on its node.

    NCCL copies directly between two GPUs of a node only if each process sees both.
    """

    share_cuda_visible_devices = True


class _SharedGpus(BackendConfig):
    """Selects ``_VisibleGpus``. scaler makes the process group itself."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _VisibleGpus


class _Trainer(DataParallelTrainer):
    """Ray Train's trainer with scaler's policies, and without the parts that scaler does not use.

    Args:
        job: gives the number of workers and restarts, the time-out of hung workers, and how long to wait for nodes.
        collector: the collector's actor handle.
        embedded: whether the cluster ends with this process.
        options: of Ray Train's trainer.
    """

    def __init__(self, *, job: Job, collector: Any, embedded: bool, **options: Any) -> None:
        super().__init__(_work, **options)
        self._hang_timeout_s, self._collector, self._embedded = job.failures.hang_timeout_s, collector, embedded
        self._patience_s, self._most_workers = job.resources.wait_s, job.scale.max_workers
        self._step = workers_step(job)

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, _UNUSED)]

    def _initialize_and_run_controller(self, **options: Any) -> Any:
        config = cast(Any, self.scaling_config)  # annotated as the class of Ray Train's first version
        options["failure_policy"] = FailurePolicy(
            self.run_config.failure_config,
            collector=self._collector,
            patience_s=self._patience_s,
            hang_timeout_s=self._hang_timeout_s,
        )
        # scaler's watchdog cannot act in a frozen process, or while a thread holds Python's lock; Ray Train can.
        environment = {"RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": str(self._hang_timeout_s or NEVER_S)}
        if config.elasticity_enabled:
            options["scaling_policy"] = ElasticPolicy(
                config,
                step=self._step,
                collector=self._collector,
                steady_s=_seconds(RESIZE_CHECK_S),
                patience_s=self._patience_s,
                asks_for_nodes=not self._embedded,
            )
        elif self._embedded or not has_autoscaler():
            options["scaling_policy"] = FixedWithoutAutoscaler(config)
        environment["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(
            start_timeout_s(self._most_workers, elastic=config.elasticity_enabled)
        )
        # Values that the user has set stay; Ray Train passes all of them to its controller.
        with set_environment({name: value for name, value in environment.items() if name not in os.environ}):
            return super()._initialize_and_run_controller(**options)


def _seconds(variable: tuple[str, float]) -> float:
    """Return the value of an environment variable of the driver, or its default."""
    name, default = variable
    return float(os.environ.get(name, default))


def make_trainer(job: Job, assignment: Assignment, *, embedded: bool, folder_name: str) -> DataParallelTrainer:
    """Return the trainer that runs an assignment.

    Neither the trainer nor Ray Train's controller loads torch: the workers make their process group themselves.

    Args:
        job: gives the number of workers, their resources (``gpus_per_worker`` as a number), and the number of
            restarts.
        assignment: what every worker gets.
        embedded: whether the cluster ends with this process.
        folder_name: of Ray Train's folder inside the run's folder.
    """
    workers, resources = job.scale.num_workers, job.resources
    # Any, because Ray's annotation does not have the pair.
    number: Any = workers if isinstance(workers, int) else (workers.min, workers.max)
    per_worker = {"CPU": resources.cpus_per_worker}
    if resources.gpus:
        per_worker["GPU"] = resources.gpus
    filesystem, root = assignment.folder.filesystem("")
    callbacks: list[Any] = [NoteTermination()]
    return _Trainer(
        job=job,
        collector=assignment.collector,
        embedded=embedded,
        train_loop_config={"assignment": assignment},
        scaling_config=ScalingConfig(
            num_workers=number,
            use_gpu=resources.gpus > 0,
            resources_per_worker=per_worker,
            accelerator_type=resources.accelerator_type,
            placement_strategy=resources.placement.upper(),
        ),
        backend_config=_SharedGpus(),
        run_config=RunConfig(
            name=folder_name,
            storage_path=root.rstrip("/"),
            storage_filesystem=PyFileSystem(FSSpecHandler(filesystem)),
            failure_config=FailureConfig(max_failures=job.failures.max_restarts),
            callbacks=callbacks,
        ),
    )


def _work(config: Mapping[str, Any]) -> bool:
    """Train with the assignment in Ray Train's dict; the result of rank 0 becomes the ``return_value`` of the run."""
    return work(config["assignment"])
