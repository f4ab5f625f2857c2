"""The Ray Train trainer of a run. Importing this loads Ray Train, which takes a second."""

from collections.abc import Mapping
from typing import Any

import ray.train
from pyarrow.fs import FSSpecHandler, PyFileSystem
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from scaler.cluster.ray_run import RAY_TRAIN_FOLDER
from scaler.cluster.worker import Assignment, work
from scaler.job import Job

# Parts of Ray Train that a run does without; each would start a process of one to two CPU seconds.
_NEVER_USED = ("DatasetsCallback",)  # we do not use Ray Data
# It removes the workers' placement group when the controller has died; an embedded cluster dies with its driver.
# Without a dashboard it asks whichever Ray it finds on the machine, and takes "no such actor" for a death: it was seen
# to end a healthy run while another cluster was up.
_NOT_WHEN_EMBEDDED = ("PlacementGroupCleanerCallback",)


class _Trainer(DataParallelTrainer):
    """Ray Train's trainer without the callbacks named above. Should Ray rename its hook, they merely come back."""

    def __init__(self, *args: Any, without: tuple[str, ...], **options: Any) -> None:
        super().__init__(*args, **options)
        self._without = without

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if type(callback).__name__ not in self._without]


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
        scaling_config=ray.train.ScalingConfig(
            num_workers=number, use_gpu=resources.gpus_per_worker > 0, resources_per_worker=per_worker
        ),
        run_config=ray.train.RunConfig(
            name=RAY_TRAIN_FOLDER,
            storage_path=root.rstrip("/"),
            storage_filesystem=PyFileSystem(FSSpecHandler(filesystem)),
            failure_config=ray.train.FailureConfig(max_failures=job.failures.max_restarts),
        ),
        without=_NEVER_USED + (_NOT_WHEN_EMBEDDED if embedded else ()),
    )


def _work(config: Mapping[str, Any]) -> bool:
    """Train; Ray Train wants a function of a dict. What rank 0 returns is the result's ``return_value``."""
    return work(config["assignment"])
