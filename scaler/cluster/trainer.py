"""The Ray Train trainer of a run. Importing this loads Ray Train, which takes a second."""

import os
from collections.abc import Mapping
from typing import Any, cast

from pyarrow.fs import FSSpecHandler, PyFileSystem
from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from scaler.cluster.elastic_policy import ElasticPolicy
from scaler.cluster.embedded import set_environment
from scaler.cluster.failure_policy import FailurePolicy
from scaler.cluster.fixed_policy import FixedWithoutAutoscaler
from scaler.cluster.ray_run import RAY_TRAIN_FOLDER
from scaler.cluster.termination import NoteTermination
from scaler.cluster.worker import Assignment, work
from scaler.job import Job

# Parts of Ray Train that a run does without; each would start a process of one to two CPU seconds.
# We do not use Ray Data; and a recipe's relative paths mean the same on a worker as in this process.
_NEVER_USED = ("DatasetsCallback", "WorkingDirectorySetupCallback")
# It removes the workers' placement group when the controller has died; an embedded cluster dies with its driver.
# Without a dashboard it asks whichever Ray it finds on the machine, and takes "no such actor" for a death: it was seen
# to end a healthy run while another cluster was up.
_NOT_WHEN_EMBEDDED = ("PlacementGroupCleanerCallback",)


RESIZE_CHECK_S = ("SCALER_RESIZE_CHECK_S", 10.0)
"""How long another size must have been possible before an elastic group is resized to it, and how long the group is
left alone after a start. Lower: nodes are used sooner, and each node that comes and goes interrupts training."""
WAIT_FOR_NODES_S = ("SCALER_WAIT_FOR_NODES_S", 600.0)
"""How long a run waits for nodes in place of lost ones before it ends as a cluster too small for it."""
ELASTIC_START_S = 15.0  # an elastic group whose room is not there by then is counted again
NEVER_S = 1e9


class _Trainer(DataParallelTrainer):
    """Ray Train's trainer with our policies, without the parts named above. Should Ray rename a hook, those come back.

    Args:
        job: gives restarts and the time after which a worker hangs.
        collector: the collector's actor handle.
        embedded: whether the cluster ends with this process.
        options: Ray Train's own.
    """

    def __init__(self, *, job: Job, collector: Any, embedded: bool, **options: Any) -> None:
        super().__init__(_work, **options)
        self._hang_timeout_s, self._collector, self._embedded = job.failures.hang_timeout_s, collector, embedded
        self._without = _NEVER_USED + (_NOT_WHEN_EMBEDDED if embedded else ())

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if type(callback).__name__ not in self._without]

    def _initialize_and_run_controller(self, **options: Any) -> Any:
        patience_s, config = _seconds(WAIT_FOR_NODES_S), cast(Any, self.scaling_config)  # annotated as the old API's
        options["failure_policy"] = FailurePolicy(
            self.run_config.failure_config,
            collector=self._collector,
            patience_s=patience_s,
            hang_timeout_s=self._hang_timeout_s,
        )
        # A frozen process, or one whose thread keeps Python's lock, has no watchdog; Ray Train asks each now and then.
        environment = {"RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": str(self._hang_timeout_s or NEVER_S)}
        if config.elasticity_enabled:
            options["scaling_policy"] = ElasticPolicy(
                config,
                collector=self._collector,
                steady_s=_seconds(RESIZE_CHECK_S),
                patience_s=patience_s,
                asks_for_nodes=not self._embedded,
            )
            environment["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(ELASTIC_START_S)
        elif self._embedded:
            options["scaling_policy"] = FixedWithoutAutoscaler(config)
        # What the user has set stays; Ray Train passes it on.
        with set_environment({name: value for name, value in environment.items() if name not in os.environ}):
            return super()._initialize_and_run_controller(**options)


def _seconds(variable: tuple[str, float]) -> float:
    """An environment variable of the driver, or its default."""
    name, default = variable
    return float(os.environ.get(name, default))


def make_trainer(job: Job, assignment: Assignment, *, embedded: bool) -> DataParallelTrainer:
    """Return the trainer that runs an assignment.

    Neither it nor Ray Train's controller loads torch: the workers make their process group themselves.

    Args:
        job: gives workers, resources and restarts.
        assignment: what every worker gets.
        embedded: whether the cluster ends with this process.
    """
    workers, resources = job.scale.num_workers, job.resources
    number: Any = workers if isinstance(workers, int) else (workers.min, workers.max)  # Ray's annotation lacks the pair
    per_worker = {"CPU": resources.cpus_per_worker}
    if resources.gpus_per_worker:
        per_worker["GPU"] = resources.gpus_per_worker
    filesystem, root = assignment.folder.filesystem("")
    callbacks: list[Any] = [NoteTermination()]
    return _Trainer(
        job=job,
        collector=assignment.collector,
        embedded=embedded,
        train_loop_config={"assignment": assignment},
        scaling_config=ScalingConfig(
            num_workers=number, use_gpu=resources.gpus_per_worker > 0, resources_per_worker=per_worker
        ),
        run_config=RunConfig(
            name=RAY_TRAIN_FOLDER,
            storage_path=root.rstrip("/"),
            storage_filesystem=PyFileSystem(FSSpecHandler(filesystem)),
            failure_config=FailureConfig(max_failures=job.failures.max_restarts),
            callbacks=callbacks,
        ),
    )


def _work(config: Mapping[str, Any]) -> bool:
    """Train; Ray Train wants a function of a dict. What rank 0 returns is the result's ``return_value``."""
    return work(config["assignment"])
