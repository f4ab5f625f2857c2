"""What a running Ray cluster offers: its nodes, their resources, and the versions on each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from scaler.cluster.auth_token import asks_for_token
from scaler.cluster.capacity import usable_nodes
from scaler.cluster.free_resources import has_autoscaler
from scaler.cluster.running import require_reachable, resolve_address, running_cluster
from scaler.cluster.versions import Versions
from scaler.errors import JobFileError

ANSWER_S = 20.0  # a node starts a Python process to answer, which takes seconds on a busy one
ACCELERATOR = "accelerator_type:"  # Ray's resource names the kind of GPU after it


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeView:
    """One node of a cluster."""

    host: str
    address: str  # IP address in the cluster's network
    is_head: bool
    resources: Mapping[str, float]  # CPU and GPU: how many the node has
    free: Mapping[str, float]  # CPU and GPU: how many of them are not in use
    memory_gib: float  # that Ray counts as the node's
    accelerators: Sequence[str]  # types of its accelerators, such as H100
    versions: Versions | None  # None: the node did not answer
    torch_cuda: str | None  # the CUDA that its torch was built for; None: its torch is for CPUs
    why: str  # why it did not answer; empty: it did

    @property
    def can_train(self) -> bool:
        """Whether a worker with a CPU may run on it."""
        return self.resources.get("CPU", 0.0) > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterView:
    """A running cluster."""

    address: str
    ray: str  # version
    has_autoscaler: bool
    asks_for_token: bool
    nodes: Sequence[NodeView]


def view_cluster(address: str) -> ClusterView:
    """Return what a running cluster offers; takes some seconds, because each node starts a process to answer.

    Args:
        address: ``auto``, ``host:port``, or ``http(s)://host:port`` of the dashboard.

    Raises:
        JobFileError: the address is of another kind.
        ClusterError: there is no cluster at the address, or it refuses this process.
    """
    if address.startswith(("http://", "https://")):
        from scaler.cluster.cluster_view_http import view_over_http

        return view_over_http(address)
    if "://" in address:
        raise JobFileError(
            f"--address {address} is not the address of a Ray cluster: auto, host:port or http(s)://host:port.",
            "ray start --head prints it. On a node of the cluster: --address auto.",
        )
    require_reachable(address)
    with running_cluster(address, verbose=False, runtime_env={}):
        import ray

        head = ray.get_runtime_context().gcs_address
        return ClusterView(
            address=head,
            ray=ray.__version__,
            has_autoscaler=has_autoscaler(),
            asks_for_token=asks_for_token(resolve_address(address)),
            nodes=_nodes(head),
        )


def _nodes(head: str) -> list[NodeView]:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def look() -> dict[str, Any]:
        """Return the versions of the node; pickled as a whole, because scaler may not be installed there."""
        import platform
        import re
        from importlib import metadata
        from pathlib import Path

        found: dict[str, Any] = {"python": platform.python_version(), "torch_cuda": None}
        for package in ("ray", "torch", "scaler"):
            try:
                found[package] = metadata.version(package)
            except metadata.PackageNotFoundError:
                found[package] = None
        if found["torch"] is not None:
            file = Path(str(metadata.distribution("torch").locate_file("torch/version.py")))
            built = (
                re.search(r"^cuda\b.*= *['\"]([\d.]+)['\"]", file.read_text(), re.MULTILINE) if file.exists() else None
            )
            found["torch_cuda"] = built[1] if built else None
        return found

    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    free = {node.node_id: node.free for node in usable_nodes()}
    task = ray.remote(num_cpus=0, max_retries=0)(look)
    asked = {
        node["NodeID"]: task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote()
        for node in alive
    }
    deadline = monotonic() + ANSWER_S
    found = []
    for node in alive:
        answer, why = _answer(asked[node["NodeID"]], within_s=max(0.0, deadline - monotonic()))
        resources: Mapping[str, float] = node["Resources"]
        found.append(
            NodeView(
                host=node["NodeManagerHostname"],
                address=node["NodeManagerAddress"],
                is_head="node:__internal_head__" in resources,
                resources={name: resources[name] for name in ("CPU", "GPU") if name in resources},
                free={
                    name: free.get(node["NodeID"], {}).get(name, 0.0) for name in ("CPU", "GPU") if name in resources
                },
                memory_gib=resources.get("memory", 0.0) / 2**30,
                accelerators=[name.removeprefix(ACCELERATOR) for name in resources if name.startswith(ACCELERATOR)],
                versions=None
                if answer is None
                else Versions(
                    python=answer["python"], ray=answer["ray"], torch=answer["torch"], scaler=answer["scaler"]
                ),
                torch_cuda=answer["torch_cuda"] if answer is not None else None,
                why=why,
            )
        )
    return sorted(found, key=lambda node: (not node.is_head, node.host, node.address))


def _answer(asked: Any, *, within_s: float) -> tuple[dict[str, Any] | None, str]:
    """Return a node's answer, or None and why there is none."""
    import ray

    from scaler.cluster.restart_signals import first_line

    try:
        answer: dict[str, Any] = ray.get(asked, timeout=within_s)
    except ray.exceptions.GetTimeoutError:
        return None, f"no answer within {ANSWER_S:g} s"
    except ray.exceptions.RayError as error:
        return None, first_line(error)
    return answer, ""
