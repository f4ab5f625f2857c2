"""Import Ray's private names. Only this module and ``ray_packaging`` do; a test checks this.

Ray may rename or change these names in any release. ``ray_hooks.py`` lists how scaler uses each of them, and checks
that the installed Ray still has them.
"""

from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray._private.state import GlobalState, state
from ray.autoscaler.v2.sdk import get_cluster_status
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

from scaler.cluster.ray_packaging import _get_excludes, _get_ignore_file, get_runtime_env_default_excludes
from scaler.cluster.ray_start_internals import RayParams, start_api_server

__all__ = [
    "DEBUG_AUTOSCALING_STATUS",
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
    "RayParams",
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
    "get_cluster_status",
    "get_runtime_env_default_excludes",
    "get_train_context",
    "start_api_server",
    "state",
    "train_constants",
]
