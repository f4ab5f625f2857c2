"""What is wrong with a machine or a cluster: for each finding its consequence, and what to do."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from scaler.cluster.cluster_view import ClusterView, NodeView
from scaler.cluster.machine import Machine
from scaler.cluster.ray_hooks import TESTED
from scaler.cluster.versions import minor
from scaler.report.text.format import plural

TESTED_TORCH = ">=2.6,<3"  # as in pyproject.toml
LEAST_SHARED_GIB, LEAST_FREE_GIB, LEAST_OPEN_FILES, RAYS_FULL = 0.5, 1.0, 1024, 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Something that is wrong, or will be."""

    problem: str
    consequence: str
    remedy: str


def findings_of(machine: Machine, cluster: ClusterView | None) -> Sequence[Finding]:
    """Return what is wrong with this machine, and with the cluster if one is given."""
    return [*_of_machine(machine), *(_of_cluster(cluster) if cluster is not None else ())]


def _of_machine(machine: Machine) -> Iterator[Finding]:
    versions = machine.versions
    if versions.torch is None:
        yield Finding(
            problem="torch is not installed.", consequence="No run can train here.", remedy="pip install torch"
        )
    elif Version(versions.torch) not in SpecifierSet(TESTED_TORCH):
        yield Finding(
            problem=f"torch {versions.torch} is not one of the versions that scaler is made for, {TESTED_TORCH}.",
            consequence="A training may fail at functions that this torch does not have.",
            remedy=f"pip install 'torch{TESTED_TORCH}'",
        )
    if versions.ray is None:
        yield Finding(
            problem="Ray is not installed.",
            consequence="Only --address none works, with one worker.",
            remedy=f"pip install 'ray[default,train]{TESTED}'",
        )
    elif Version(versions.ray) not in SpecifierSet(TESTED):
        yield Finding(
            problem=f"Ray {versions.ray} is not one of the tested versions, {TESTED}.",
            consequence="scaler compares Ray's private parts at each start, and refuses to run if they differ.",
            remedy=f"pip install 'ray[default,train]{TESTED}'",
        )
    if machine.gpus and versions.torch is not None and machine.torch_cuda is None:
        yield _cpu_torch(
            f"This machine has {plural(len(machine.gpus), 'GPU')}, and its torch {versions.torch} is for CPUs only."
        )
    if machine.cpu_quota is not None and machine.cpu_quota < machine.cpus:
        yield Finding(
            problem=f"The container may use {machine.cpu_quota:g} of the {machine.cpus} CPUs that Ray counts.",
            consequence="More workers start than have CPU time; each of them is slower.",
            remedy=f"Start fewer workers, or the container with --cpuset-cpus instead of --cpus={machine.cpu_quota:g}.",
        )
    if machine.shared_memory_gib is not None and machine.shared_memory_gib < LEAST_SHARED_GIB:
        yield Finding(
            problem=f"/dev/shm has {machine.shared_memory_gib * 1024:.0f} MiB.",
            consequence="Ray keeps its objects on disk, and train.data_workers end with a bus error.",
            remedy="docker run --shm-size=4g, or in Kubernetes an emptyDir of medium Memory at /dev/shm.",
        )
    if machine.open_files < LEAST_OPEN_FILES:
        yield Finding(
            problem=f"A process may open {machine.open_files:,} files.",
            consequence="Ray's daemons fail with many workers: too many open files.",
            remedy="ulimit -n 65536",
        )
    if not machine.folder_is_writable:
        yield Finding(
            problem=f"The current folder {machine.folder} cannot be written.",
            consequence="With storage: runs, which is relative to it, no run can start.",
            remedy="Start scaler in another folder, or: --set storage=FOLDER",
        )
    elif machine.folder_free_gib < LEAST_FREE_GIB:
        yield Finding(
            problem=f"The disk of {machine.folder} has {machine.folder_free_gib:.1f} GiB free.",
            consequence="Checkpoints may not fit; a run ends when its folder cannot be written.",
            remedy="Free space, or: --set storage=FOLDER",
        )
    if machine.ray_folder_used > RAYS_FULL:
        yield Finding(
            problem=f"The disk of {machine.ray_folder}, where Ray writes, is {machine.ray_folder_used:.0%} full.",
            consequence="Above 95% Ray may refuse to create objects.",
            remedy="Free space, or: export RAY_TMPDIR=FOLDER",
        )


def _of_cluster(cluster: ClusterView) -> Iterator[Finding]:
    for node in cluster.nodes:
        yield from _of_node(node)
    known = [node for node in cluster.nodes if node.versions is not None]
    by_torch: dict[str, list[str]] = {}
    for node in known:
        if node.versions is not None and node.versions.torch is not None and node.can_train:
            by_torch.setdefault(node.versions.torch, []).append(node.host)
    if len(by_torch) > 1:
        listed = "; ".join(f"torch {version} on {_hosts(hosts)}" for version, hosts in by_torch.items())
        is_release = len({minor(version) for version in by_torch}) > 1
        yield Finding(
            problem=f"The nodes have different versions of torch: {listed}.",
            consequence="A run on both is refused."
            if is_release
            else "Results may differ slightly with the nodes that a run gets.",
            remedy=f"Install one version on every node, or: --set 'runtime_env.pip=[torch=={next(iter(by_torch))}]'",
        )
    if cluster.nodes and not any(node.can_train for node in cluster.nodes) and not cluster.has_autoscaler:
        yield Finding(
            problem="No node of the cluster has a CPU for workers.",
            consequence="No run can start.",
            remedy="ray start --address=HEAD:6379 on a machine with CPUs.",
        )


def _of_node(node: NodeView) -> Iterator[Finding]:
    if node.versions is None:
        yield Finding(
            problem=f"The node {node.host} ({node.address}) did not answer: {node.why}.",
            consequence="A worker that Ray starts there may not start.",
            remedy="Look at Ray's log on that node: /tmp/ray/session_latest/logs.",
        )
        return
    gpus = node.resources.get("GPU", 0.0)
    if node.can_train and node.versions.torch is None:
        yield Finding(
            problem=f"The node {node.host} ({node.address}) has no torch.",
            consequence="A worker there fails at its start.",
            remedy="Install torch there, or have Ray install it: --set 'runtime_env.pip=[torch]'",
        )
    elif gpus and node.torch_cuda is None:
        yield _cpu_torch(
            f"The node {node.host} has {gpus:g} GPU, and its torch {node.versions.torch} is for CPUs only."
        )


def _cpu_torch(problem: str) -> Finding:
    return Finding(
        problem=problem,
        consequence="A worker with resources.gpus_per_worker above 0 fails there.",
        remedy="Install torch for CUDA there: https://pytorch.org/get-started/locally",
    )


def _hosts(hosts: Sequence[str], most: int = 3) -> str:
    shown = ", ".join(hosts[:most])
    return f"{shown} and {len(hosts) - most} more" if len(hosts) > most else shown
