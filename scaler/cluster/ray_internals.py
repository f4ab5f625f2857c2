"""Import Ray's private names. No other module of scaler does; ``tests/cluster/test_ray_internals.py`` checks this.

Ray may rename or change these names in any release. ``ray_hooks.py`` lists how scaler uses each of them, and checks
that the installed Ray still has them.
"""

from ray._private.ray_constants import (
    DEBUG_AUTOSCALING_STATUS,
    RAY_RUNTIME_ENV_IGNORE_GITIGNORE,
    get_runtime_env_default_excludes,
)
from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE, _get_excludes, _get_ignore_file
from ray._private.state import GlobalState, state
from ray.experimental.internal_kv import _internal_kv_get
from ray.train.v2._internal import constants as train_constants
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.callbacks.working_dir_setup import WorkingDirectorySetupCallback
from ray.train.v2._internal.exceptions import (
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerCallback
from ray.train.v2._internal.execution.context import TrainContext, get_train_context
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2._internal.execution.preemption import PreemptionContext
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy, FixedScalingPolicy, NoopDecision
from ray.train.v2._internal.execution.worker_group import ActorMetadata, Worker, WorkerGroupState
from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.train.v2.api.exceptions import ControllerError, PreemptionError, WorkerGroupError
from ray.train.v2.api.preemption import PreemptionInfo

__all__ = [
    "DEBUG_AUTOSCALING_STATUS",
    "GCS_STORAGE_MAX_SIZE",
    "RAY_RUNTIME_ENV_IGNORE_GITIGNORE",
    "ActorMetadata",
    "ControllerCallback",
    "ControllerError",
    "DataParallelTrainer",
    "DatasetsCallback",
    "DefaultFailurePolicy",
    "ElasticScalingPolicy",
    "FailureConfig",
    "FailureDecision",
    "FixedScalingPolicy",
    "GlobalState",
    "NoopDecision",
    "PlacementGroupCleanerCallback",
    "PreemptionContext",
    "PreemptionError",
    "PreemptionInfo",
    "RunConfig",
    "ScalingConfig",
    "TrainContext",
    "Worker",
    "WorkerCallback",
    "WorkerGroupError",
    "WorkerGroupStartupFailedError",
    "WorkerGroupStartupTimeoutError",
    "WorkerGroupState",
    "WorkerHealthCheckFailedError",
    "WorkerHealthCheckTimeoutError",
    "WorkingDirectorySetupCallback",
    "_get_excludes",
    "_get_ignore_file",
    "_internal_kv_get",
    "get_runtime_env_default_excludes",
    "get_train_context",
    "state",
    "train_constants",
]
