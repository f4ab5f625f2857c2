"""Check that the installed Ray has every private name that scaler uses, in the form that scaler uses it.

Ray calls what scaler overrides. If Ray renamed such a method, it would call its own instead: restarts and resizes would
stop working, without any error. So a run is refused when anything differs.
"""

import inspect
import re
from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import Any

from scaler.errors import ClusterError

TESTED = ">=2.58,<2.61"
"""The versions of Ray on which the tests pass; pyproject.toml has the same."""
MOST_SHOWN = 3

# Methods that scaler overrides and Ray calls. Their names and parameters must be exactly these.
OVERRIDDEN = (
    "DefaultFailurePolicy.__init__(failure_config)",
    "DefaultFailurePolicy.make_decision(training_failed_error)",
    "ElasticScalingPolicy.__init__(scaling_config)",
    "ElasticScalingPolicy.make_decision_for_non_running_worker_group()",
    "ElasticScalingPolicy.make_decision_for_running_worker_group(worker_group_state, worker_group_status)",
    "ElasticScalingPolicy.before_controller_execute_resize_decision(resize_decision)",
    "ElasticScalingPolicy.after_controller_start(train_run_context)",
    "async ElasticScalingPolicy.before_controller_shutdown()",
    "ElasticScalingPolicy.before_controller_abort()",
    "ElasticScalingPolicy._maybe_send_resource_request()",
    "FixedScalingPolicy.after_controller_start(train_run_context)",
    "async FixedScalingPolicy.before_controller_shutdown()",
    "FixedScalingPolicy.before_controller_abort()",
    "FixedScalingPolicy._maybe_send_resource_request()",
    "WorkerCallback.after_init_train_context()",
    "DataParallelTrainer._create_default_callbacks()",
    "DataParallelTrainer._initialize_and_run_controller(**controller_init_kwargs)",
)

# What scaler calls. Each must accept these parameters, and require no others.
CALLED = (
    "ElasticScalingPolicy._get_resize_decision(num_workers)",
    "NoopDecision()",
    "DataParallelTrainer.__init__("
    "train_loop_per_worker, train_loop_config, backend_config, scaling_config, run_config)",
    "ScalingConfig.__init__(num_workers, use_gpu, resources_per_worker, placement_strategy, accelerator_type)",
    "RunConfig.__init__(name, storage_path, storage_filesystem, failure_config, callbacks)",
    "FailureConfig.__init__(max_failures)",
    "RayParams.__init__(setup_worker_path, no_monitor, include_log_monitor, dashboard_agent_listen_port)",
    "start_api_server(include_dashboard, raise_on_failure, host, gcs_address, cluster_id_hex, node_ip_address, "
    "temp_dir, logdir, session_dir)",
    "GlobalState.available_resources_per_node()",
    "GlobalState.get_draining_nodes()",
    "get_train_context()",
    "get_runtime_env_default_excludes()",
    "_internal_kv_get(key)",
    "get_cluster_status(gcs_address)",
    "_get_excludes(path, excludes)",
    "_get_ignore_file(path, ignore_file)",
)

# The attributes of Ray's objects that scaler reads.
FIELDS = (
    "ActorMetadata.node_id",
    "ControllerError.controller_failure",
    "DataParallelTrainer.run_config",
    "DataParallelTrainer.scaling_config",
    "FailureDecision.RAISE",
    "FailureDecision.RETRY",
    "PreemptionContext.preemption_info",
    "PreemptionError.preemption_info",
    "PreemptionInfo.preempted_ranks",
    "RunConfig.failure_config",
    "ScalingConfig._resources_per_worker_not_none",
    "ScalingConfig.elasticity_enabled",
    "ScalingConfig.max_workers",
    "ScalingConfig.min_workers",
    "TrainContext.preemption_context",
    "Worker.metadata",
    "WorkerGroupError.worker_failures",
    "WorkerGroupState.num_workers",
    "WorkerGroupState.start_time",
    "WorkerGroupState.workers",
    "WorkerHealthCheckFailedError.health_check_failure",
)

# The controller calls the policies only if they are ControllerCallbacks.
SUBCLASSES = (("ElasticScalingPolicy", "ControllerCallback"), ("FixedScalingPolicy", "ControllerCallback"))

# Environment variables of Ray Train that scaler sets, partly before Ray is imported.
VARIABLES = (
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER",
    "RAY_TRAIN_ENABLE_PRINT_PATCH",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S",
    "RAY_TRAIN_METRICS_ENABLED",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S",
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S",
)


@cache
def require_hooks() -> None:
    """Refuse a version of Ray that lacks a private name that scaler uses, or has it in another form.

    Importing Ray Train takes a second; the check itself takes a millisecond.

    Raises:
        ClusterError: names the installed version, what differs, and the versions that work.
    """
    try:
        from scaler.cluster import ray_internals
    except ImportError as error:
        missing = [re.sub(r" \(.*\)$", "", str(error))]  # without the path of the file
    else:
        missing = list(find_missing(ray_internals))
    if missing:
        import ray

        more = f"; and {len(missing) - MOST_SHOWN} more" if len(missing) > MOST_SHOWN else ""
        raise ClusterError(
            f"Ray {ray.__version__} does not work with scaler: {'; '.join(missing[:MOST_SHOWN])}{more}.",
            f"Install a version that works, 2.58 to 2.60: pip install 'ray[default,train]{TESTED}'",
        )


def find_missing(names: ModuleType) -> Iterator[str]:
    """Yield a text for each hook that is missing or has another form.

    Args:
        names: the module ``ray_internals``.
    """
    for hook in OVERRIDDEN:
        found = _signature(names, hook)
        if found != hook:
            yield f"{hook} is missing" if found is None else f"{hook} is now {found}"
    for hook in CALLED:
        if _callable(names, hook) is None:
            yield f"{hook} is missing"
        elif not _accepts(names, hook):
            yield f"{hook} takes other parameters"
    for field in FIELDS:
        owner, _, name = field.partition(".")
        if not _has_field(getattr(names, owner), name):
            yield f"{field} is missing"
    for name, base in SUBCLASSES:
        if not issubclass(getattr(names, name), getattr(names, base)):
            yield f"{name} is not a {base}"
    variables = {value for value in vars(names.train_constants).values() if isinstance(value, str)}
    for variable in VARIABLES:
        if variable not in variables:
            yield f"the environment variable {variable} is missing"


def _callable(names: ModuleType, hook: str) -> Any:
    """Return the function that a hook names, or None."""
    found: Any = names
    for name in hook.removeprefix("async ").partition("(")[0].split("."):
        found = getattr(found, name, None)
    return found


def _parameters(function: Any, hook: str) -> list[inspect.Parameter]:
    is_method = "." in hook.partition("(")[0]
    return list(inspect.signature(function).parameters.values())[1 if is_method else 0 :]


def _signature(names: ModuleType, hook: str) -> str | None:
    """Return a hook as the installed Ray has it, or None."""
    function = _callable(names, hook)
    if function is None:
        return None
    stars = {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**"}
    parameters = ", ".join(stars.get(each.kind.name, "") + each.name for each in _parameters(function, hook))
    is_async = "async " if inspect.iscoroutinefunction(function) else ""
    return f"{is_async}{hook.removeprefix('async ').partition('(')[0]}({parameters})"


def _accepts(names: ModuleType, hook: str) -> bool:
    """Return whether a function takes the parameters of a hook, and requires no others."""
    passed = [name for name in hook.partition("(")[2].rstrip(")").split(", ") if name]
    parameters = _parameters(_callable(names, hook), hook)
    required = {each.name for each in parameters if each.default is each.empty and each.kind.name != "VAR_KEYWORD"}
    return required <= set(passed) <= {each.name for each in parameters}


def _has_field(owner: type, name: str) -> bool:
    """Return whether a class has an attribute, or its instances do: as a dataclass, or because ``__init__`` sets it."""
    fields = getattr(owner, "__dataclass_fields__", {})
    set_by_init = getattr(getattr(vars(owner).get("__init__"), "__code__", None), "co_names", ())
    return hasattr(owner, name) or name in fields or name in set_by_init
