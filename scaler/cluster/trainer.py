"""The Ray Train trainer of a run. Importing this loads Ray Train, which takes a second."""

from collections.abc import Mapping
from typing import Any

from pyarrow.fs import FSSpecHandler, PyFileSystem
from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from scaler.cluster.fixed_policy import FixedWithoutAutoscaler
from scaler.cluster.ray_run import RAY_TRAIN_FOLDER
from scaler.cluster.worker import Assignment, work
from scaler.job import Job

# Parts of Ray Train that a run does without; each would start a process of one to two CPU seconds.
# We do not use Ray Data; and a recipe's relative paths mean the same on a worker as in this process.
_NEVER_USED = ("DatasetsCallback", "WorkingDirectorySetupCallback")
# It removes the workers' placement group when the controller has died; an embedded cluster dies with its driver.
# Without a dashboard it asks whichever Ray it finds on the machine, and takes "no such actor" for a death: it was seen
# to end a healthy run while another cluster was up.
_NOT_WHEN_EMBEDDED = ("PlacementGroupCleanerCallback",)


class _Trainer(DataParallelTrainer):
    """Ray Train's trainer without the parts named here. Should Ray rename a hook, its part merely comes back."""

    def __init__(self, *args: Any, embedded: bool, **options: Any) -> None:
        super().__init__(*args, **options)
        self._without = _NEVER_USED + (_NOT_WHEN_EMBEDDED if embedded else ())
        config: Any = self.scaling_config  # annotated as the old API's
        self._config = config
        self._never_asks = embedded and not config.elasticity_enabled

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if type(callback).__name__ not in self._without]

    def _initialize_and_run_controller(self, **options: Any) -> Any:
        if self._never_asks:
            options["scaling_policy"] = FixedWithoutAutoscaler(self._config)
        return super()._initialize_and_run_controller(**options)


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
    return _Trainer(
        _work,
        train_loop_config={"assignment": assignment},
        scaling_config=ScalingConfig(
            num_workers=number, use_gpu=resources.gpus_per_worker > 0, resources_per_worker=per_worker
        ),
        run_config=RunConfig(
            name=RAY_TRAIN_FOLDER,
            storage_path=root.rstrip("/"),
            storage_filesystem=PyFileSystem(FSSpecHandler(filesystem)),
            failure_config=FailureConfig(
                max_failures=job.failures.max_restarts, controller_failure_limit=job.failures.max_restarts
            ),
        ),
        embedded=embedded,
    )


def _work(config: Mapping[str, Any]) -> bool:
    """Train; Ray Train wants a function of a dict. What rank 0 returns is the result's ``return_value``."""
    return work(config["assignment"])
