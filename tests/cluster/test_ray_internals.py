"""Ray's private names are imported by one module, and a Ray that lacks one of them is refused."""

import ast
import importlib.metadata
import inspect
import os
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import Mock

import pytest
from process_tree import descendants

from scaler.cluster import ray_hooks
from scaler.errors import ClusterError
from scaler.job import Job

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "scaler"
INTERNAL_NAMES = ("ray_internals.py", "ray_packaging.py", "ray_start_internals.py")
INTERNALS = [PACKAGE / "cluster" / name for name in INTERNAL_NAMES]


def is_private(name: str) -> bool:
    parts = name.split(".")
    return parts[0] == "ray" and (
        "v2" in parts or any(part.startswith("_") and not part.startswith("__") for part in parts)
    )


def private_imports(code: str) -> Iterator[str]:
    """The private names of Ray that a module imports, or reaches as attributes of ``ray``."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if is_private(alias.name))
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from filter(is_private, names)
        elif isinstance(node, ast.Attribute) and is_private(ast.unparse(node)):
            yield ast.unparse(node)


def test_no_other_module_imports_rays_private_names() -> None:
    found = {path: list(private_imports(path.read_text())) for path in PACKAGE.rglob("*.py")}
    assert all(found.pop(path) for path in INTERNALS)
    assert {path.name: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "code",
    [
        "import ray._private.state",
        "from ray.train.v2.api.config import RunConfig",
        "def f():\n    from ray import _raylet",
        "import ray\nray._private.state.state.node_table()",
    ],
)
def test_a_private_import_is_found(code: str) -> None:
    assert list(private_imports(code))


def test_public_imports_are_left_alone() -> None:
    assert not list(private_imports("import ray.train\nfrom ray.exceptions import RayError\nray.init(_temp_dir='a')"))


def test_the_versions_are_those_of_pyproject() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert f"ray[default,train]{ray_hooks.TESTED}" in project["dependencies"]


@pytest.mark.usefixtures("cluster")
class TestTheInstalledRay:
    """With the tests' cluster, because Ray is imported with its token."""

    @pytest.fixture(autouse=True)
    def unchecked(self) -> Iterator[None]:
        ray_hooks.require_hooks.cache_clear()
        yield
        ray_hooks.require_hooks.cache_clear()

    @pytest.fixture
    def internals(self) -> ModuleType:
        from scaler.cluster import ray_internals

        return ray_internals

    def test_has_every_hook(self, internals: ModuleType) -> None:
        assert list(ray_hooks.find_missing(internals)) == []
        ray_hooks.require_hooks()

    def test_is_known_to_be_used_in_full(self, internals: ModuleType) -> None:
        """Each imported name is checked: by a hook, or because it would be missing when imported."""
        hooks = [*ray_hooks.OVERRIDDEN, *ray_hooks.CALLED, *ray_hooks.FIELDS]
        checked = {hook.removeprefix("async ").partition(".")[0].partition("(")[0] for hook in hooks}
        checked |= {base for pair in ray_hooks.SUBCLASSES for base in pair}
        only_compared = {name for name in internals.__all__ if name.endswith(("Error", "Callback"))}
        values = {"DEBUG_AUTOSCALING_STATUS", "state", "train_constants"}
        assert set(internals.__all__) - checked - only_compared == values

    def test_is_overridden_only_in_hooks_that_are_checked(self) -> None:
        """A method of a class of Ray's that scaler overrides, and Ray calls."""
        from scaler.cluster import failure_policy, scaling_policy, termination, trainer

        ours = [
            value
            for module in (failure_policy, scaling_policy, termination, trainer)
            for value in vars(module).values()
            if inspect.isclass(value) and value.__module__ == module.__name__ and value.__base__ is not object
        ]
        assert len(ours) == 7
        for each in ours:
            (base,) = each.__bases__
            overridden = {name for name in vars(each) if callable(vars(each)[name]) and hasattr(base, name)}
            listed = {
                hook.removeprefix("async ").partition(".")[2].partition("(")[0]
                for hook in ray_hooks.OVERRIDDEN + ray_hooks.CALLED
                if hook.removeprefix("async ").startswith(f"{base.__name__}.")
            }
            assert overridden <= listed, each

    @pytest.mark.parametrize(("cpus", "started", "asked"), [(7.0, 6, "4 -> 6 workers"), (5.0, 4, None)])
    def test_has_an_elastic_group_in_steps_that_fit_the_mesh(
        self, internals: Any, monkeypatch: pytest.MonkeyPatch, cpus: float, started: int, asked: str | None
    ) -> None:
        from scaler.cluster import scaling_policy
        from scaler.cluster.capacity import Node

        free = {"CPU": cpus}
        nodes = [Node(node_id="a", host="", port=0, free=free)]
        monkeypatch.setattr(scaling_policy, "usable_nodes", lambda: nodes)
        monkeypatch.setattr(scaling_policy, "reachable_nodes", lambda found: found)
        config = internals.ScalingConfig(num_workers=(2, 8), resources_per_worker={"CPU": 1.0})
        leave = Mock()
        policy = scaling_policy.ElasticPolicy(
            config, step=2, collector=leave, steady_s=0.0, patience_s=0.0, asks_for_nodes=False
        )
        assert policy.make_decision_for_non_running_worker_group().num_workers == started
        free["CPU"] -= 4  # a group of 4 workers runs
        worker = Mock()
        worker.metadata.node_id = "a"
        group = Mock(start_time=0.0, num_workers=4, workers=[worker] * 4)
        monkeypatch.setattr(scaling_policy, "CHECK_S", 0.0)
        for _ in range(2):  # the second time, the size has been possible for steady_s
            policy.make_decision_for_running_worker_group(group, Mock())
        calls = [call.args for call in leave.request_leave.remote.call_args_list]
        assert calls == ([("resize", asked)] if asked else [])

    def test_is_refused_when_an_overridden_method_is_renamed(
        self, internals: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import ray

        policy = internals.DefaultFailurePolicy
        monkeypatch.setattr(policy, "decide", policy.make_decision, raising=False)
        for base in policy.__mro__:
            if "make_decision" in vars(base):
                monkeypatch.delattr(base, "make_decision")
        with pytest.raises(ClusterError) as caught:
            ray_hooks.require_hooks()
        assert caught.value.exit_code == 3
        assert str(caught.value) == (
            f"Ray {ray.__version__} does not work with scaler: "
            "DefaultFailurePolicy.make_decision(training_failed_error) is missing.\n"
            "  Install a version that works, 2.58 to 2.60: pip install 'ray[default,train]>=2.58,<2.61'"
        )

    @pytest.mark.parametrize(
        ("owner", "name", "changed", "text"),
        [
            (
                "ElasticScalingPolicy",
                "before_controller_execute_resize_decision",
                lambda self, resize_decision, context: None,
                "ElasticScalingPolicy.before_controller_execute_resize_decision(resize_decision) is now "
                "ElasticScalingPolicy.before_controller_execute_resize_decision(resize_decision, context)",
            ),
            (
                "ElasticScalingPolicy",
                "before_controller_shutdown",
                lambda self: None,
                "async ElasticScalingPolicy.before_controller_shutdown() is now "
                "ElasticScalingPolicy.before_controller_shutdown()",
            ),
            (
                "ElasticScalingPolicy",
                "_get_resize_decision",
                lambda self, num_workers, nodes: None,
                "ElasticScalingPolicy._get_resize_decision(num_workers) takes other parameters",
            ),
            ("GlobalState", "get_draining_nodes", None, "GlobalState.get_draining_nodes() is missing"),
            ("FailureDecision", "RETRY", None, "FailureDecision.RETRY is missing"),
            (
                "WorkerGroupError",
                "__init__",
                lambda self, failures: None,
                "WorkerGroupError.worker_failures is missing",
            ),
            (
                "train_constants",
                "METRICS_ENABLED_ENV_VAR",
                "RAY_M",
                "the environment variable RAY_TRAIN_METRICS_ENABLED is missing",
            ),
        ],
    )
    def test_is_refused_when_a_hook_has_another_form(
        self, internals: Any, owner: str, name: str, changed: Any, text: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if name == "RETRY":
            monkeypatch.setattr(internals, owner, type("FailureDecision", (), {"RAISE": 1}))
        else:
            monkeypatch.setattr(getattr(internals, owner), name, changed)
        assert list(ray_hooks.find_missing(internals)) == [text]

    def test_is_refused_when_a_policy_gets_no_calls(self, internals: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(internals, "ControllerCallback", type("ControllerCallback", (), {}))
        assert list(ray_hooks.find_missing(internals)) == [
            "ElasticScalingPolicy is not a ControllerCallback",
            "FixedScalingPolicy is not a ControllerCallback",
        ]

    def test_is_refused_when_a_name_cannot_be_imported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import ray.train.v2._internal.execution.scaling_policy as module

        import scaler.cluster

        monkeypatch.delattr(module, "NoopDecision")
        monkeypatch.delitem(sys.modules, "scaler.cluster.ray_internals")
        monkeypatch.delattr(scaler.cluster, "ray_internals")
        with pytest.raises(ClusterError) as caught:
            ray_hooks.require_hooks()
        assert caught.value.problem == (
            f"Ray {importlib.metadata.version('ray')} does not work with scaler: cannot import name "
            "'NoopDecision' from 'ray.train.v2._internal.execution.scaling_policy'."
        )

    @pytest.mark.parametrize("address", [None, "127.0.0.1:6379"])
    def test_is_refused_before_a_trainer_is_made(self, address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
        import ray

        from scaler.cluster import embedded, running

        def refuse() -> None:
            raise ClusterError("Ray 2.61.0 does not work with scaler: all is missing.", "Install another.")

        monkeypatch.setattr(embedded, "require_hooks", refuse)
        monkeypatch.setattr(running, "require_hooks", refuse)
        monkeypatch.setattr(ray, "init", lambda **_: None)
        monkeypatch.setattr(ray, "shutdown", lambda: None)  # the tests' cluster stays
        cluster = running.running_cluster("127.0.0.1:1", verbose=False, runtime_env={})
        with pytest.raises(ClusterError) as caught, cluster if address else embedded.embedded_cluster(verbose=False):
            pass
        assert str(caught.value).startswith("Ray 2.61.0 does not work with scaler")

    def test_is_checked_in_milliseconds(self, internals: ModuleType) -> None:
        from timeit import timeit

        assert timeit(lambda: list(ray_hooks.find_missing(internals)), number=10) / 10 < 0.1


@pytest.mark.usefixtures("cluster")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray Data, from Ray Train
@pytest.mark.parametrize("embedded", [True, False])
def test_a_run_gets_no_cleaner_that_would_ask_a_dashboard(digits: Callable[..., Job], embedded: bool) -> None:
    """Ray Train's cleaner of placement groups asks the dashboard, and the end of a run would wait for it for 12 s."""
    from scaler.cluster import trainer
    from scaler.cluster.ray_internals import PlacementGroupCleanerCallback

    made = trainer._Trainer(job=digits(), collector=None, embedded=embedded)
    callbacks = made._create_default_callbacks()
    assert callbacks
    assert not any(isinstance(each, PlacementGroupCleanerCallback) for each in callbacks)


@pytest.mark.usefixtures("cluster")
def test_an_embedded_cluster_starts_no_process_that_it_does_not_need() -> None:
    """Ray waits more than a second for its dashboard, which would only send usage statistics."""
    commands = [Path(f"/proc/{process}/cmdline").read_bytes().decode() for process in descendants(os.getpid())]
    assert any("raylet" in command for command in commands)
    scripts = ("dashboard/dashboard.py", "autoscaler/v2/monitor.py", "_private/monitor.py", "_private/log_monitor.py")
    assert not [command for command in commands if any(script in command for script in scripts)]


@pytest.mark.usefixtures("cluster")
def test_an_embedded_cluster_leaves_rays_default_ports_to_other_clusters() -> None:
    """With the default port taken, the agent of another cluster on this machine ended, and it refused all Ray Jobs."""
    import ray

    (node,) = ray.nodes()  # type: ignore[no-untyped-call]
    assert node["DashboardAgentListenPort"] != 52365
