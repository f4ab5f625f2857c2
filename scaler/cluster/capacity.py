"""Count how many workers a cluster can hold.

Ray Train would ask its autoscaling coordinator, which looks at the nodes every 20 s, and counts only the resources
that Ray Train and Ray Data use. So a group of the size that the coordinator gives may wait for resources that another
program uses.
"""

import os
import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import floor

from scaler.errors import ClusterError

ANSWER_S = 1.0
# Measured by benchmarks/many_workers.py; see docs/decisions/0047-workers-are-forked.md.
CLUSTER_GIB = 1.5  # the driver, Ray's daemons, and the process that workers are forks of
WORKER_GIB, FORK_GIB = 0.32, 0.1  # a worker that has imported torch and Ray
# A group that has not started by then is started again, an elastic one with another size. Many workers on one machine
# start one after the other, because they share its CPUs: each takes a few CPU seconds, or 0.3 if it is a fork.
ELASTIC_START_S, ELASTIC_START_A_WORKER_S = 15.0, 1.0
FIXED_START_S, FIXED_START_A_WORKER_S = 60.0, 6.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """A node of the cluster, with its free resources."""

    node_id: str
    host: str
    port: int
    free: Mapping[str, float]  # amount by resource


def usable_nodes() -> list[Node]:
    """Return the nodes that the cluster considers alive and does not drain."""
    import ray

    from scaler.cluster.ray_internals import state

    free = state.available_resources_per_node()  # type: ignore[no-untyped-call]
    draining = state.get_draining_nodes()
    return [
        Node(
            node_id=node["NodeID"],
            host=node["NodeManagerAddress"],
            port=node["NodeManagerPort"],
            free=free.get(node["NodeID"], {}),
        )
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"] and node["NodeID"] not in draining
    ]


def reachable_nodes(nodes: list[Node]) -> list[Node]:
    """Return the nodes whose daemon listens: a cluster considers a dead node alive for 15 s or more."""

    def answers(node: Node) -> bool:
        try:
            socket.create_connection((node.host, node.port), timeout=ANSWER_S).close()
        except OSError:
            return False
        return True

    with ThreadPoolExecutor(max_workers=32) as pool:
        return [node for node, is_there in zip(nodes, pool.map(answers, nodes), strict=True) if is_there]


def count_workers(
    nodes: list[Node], need: Mapping[str, float], *, held: Mapping[str, int], most: int, step: int = 1
) -> int:
    """Return how many workers the nodes can hold, at most ``most`` and a multiple of ``step``.

    Args:
        nodes: where workers may run.
        need: amount by resource that a worker needs.
        held: number of the group's workers by node id; ``free`` does not contain what they use.
        most: the largest number to return; a multiple of ``step``.
        step: what the job's mesh needs a multiple of.

    Example:
        >>> nodes = [Node(node_id="a", host="", port=0, free={"CPU": 1.5}), Node(node_id="b", host="", port=0, free={})]
        >>> count_workers(nodes, {"CPU": 1.0}, held={"b": 1}, most=4)
        2
    """
    need = {name: amount for name, amount in need.items() if amount}
    if not need:
        return most
    fit = min(sum(held.get(node.node_id, 0) + _workers_in(node.free, need) for node in nodes), most)
    return fit // step * step


def local_cpus() -> float:
    """Return how many CPUs an embedded cluster on this machine has."""
    return float(len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else float(os.cpu_count() or 1)


def require_resources(
    *,
    workers: int,
    cpus_per_worker: float,
    gpus_per_worker: float,
    nodes: Sequence[Mapping[str, float]],
    owner: str | None = None,
    step: int = 1,
) -> None:
    """Refuse a job that a cluster is too small for.

    Args:
        workers: the smallest number of workers that the job may run with.
        cpus_per_worker: CPUs that one worker needs.
        gpus_per_worker: GPUs that one worker needs.
        nodes: ``CPU`` and ``GPU`` of each node; a worker runs on one node.
        owner: the text of the error before the amounts, such as "this machine has"; None: made from ``nodes``.
        step: what the job's mesh needs a multiple of.

    Raises:
        ClusterError: says what the job needs and what the cluster has.
    """
    need = {"CPU": cpus_per_worker, "GPU": gpus_per_worker}
    need = {name: amount for name, amount in need.items() if amount}
    fit = _fitting(need, nodes) // step * step
    if fit >= workers:
        return
    total = {name: sum(node.get(name, 0.0) for node in nodes) for name in need}
    needed = ", ".join(f"{workers * amount:g} {name}" for name, amount in need.items())
    present = ", ".join(f"{amount:g} {name}" for name, amount in total.items())
    owner = owner or ("the cluster has" if len(nodes) == 1 else f"the {len(nodes)} nodes of the cluster have")
    remedies = [f"--workers {fit} fits."] if fit else []
    if gpus_per_worker:
        share = _share("GPU", need, nodes, workers=workers)
        if share is not None:
            remedies.append(f"Workers can share GPUs, which is slower: --set resources.gpus_per_worker={share:g}.")
        if share is not None or not total.get("GPU"):
            remedies.append("To train on CPUs: --set resources.gpus_per_worker=0.")
    share = _share("CPU", need, nodes, workers=workers)
    if share is not None:
        remedies.append(f"Workers can share CPUs: --set resources.cpus_per_worker={share:g}.")
    subject = f"{workers} workers need" if workers > 1 else "1 worker needs"
    raise ClusterError(f"{subject} {needed}, and {owner} {present}.", " ".join(remedies))


def require_memory(*, workers: int, forks: bool, free_gib: float | None, step: int = 1) -> None:
    """Refuse a job whose workers do not fit into the memory of this machine, before they load a model or data.

    Args:
        workers: the smallest number of workers that the job may run with.
        forks: whether the workers are forks of one process, and share what they import.
        free_gib: memory that is free, in GiB; None: not known, and nothing is refused.
        step: as in ``require_resources``.

    Raises:
        ClusterError: says how much memory is needed and free, and how many workers fit.
    """
    each_gib = FORK_GIB if forks else WORKER_GIB
    needed_gib = CLUSTER_GIB + workers * each_gib
    if free_gib is None or needed_gib <= free_gib:
        return
    fit = floor((free_gib - CLUSTER_GIB) / each_gib) // step * step
    subject = f"{workers} workers need" if workers > 1 else "1 worker needs"
    raise ClusterError(
        f"{subject} {needed_gib:.1f} GiB of memory without their model and data, and this machine has {free_gib:.1f} "
        "GiB free.",
        f"--workers {fit} fits." if fit > 0 else "End other programs, or use a machine with more memory.",
    )


def _share(
    resource: str, need: Mapping[str, float], nodes: Sequence[Mapping[str, float]], *, workers: int
) -> float | None:
    """Return the largest amount of a resource for each worker with which all fit; None: no amount is enough."""
    if resource not in need:
        return None
    counts = range(1, workers + 1)
    wholes = {1.0, *(node.get(resource, 0.0) for node in nodes)}  # of one GPU, or of a node
    shares = {floor(100 * whole / count) / 100 for whole in wholes for count in counts}
    below = [share for share in shares if 0 < share < need[resource]]
    return max((share for share in below if _fitting({**need, resource: share}, nodes) >= workers), default=None)


def start_timeout_s(workers: int, *, elastic: bool) -> float:
    """Return how many seconds a group of ``workers`` may take to start; an elastic group, at its largest.

    Example:
        >>> start_timeout_s(64, elastic=False), start_timeout_s(4, elastic=True)
        (444.0, 19.0)
    """
    if elastic:
        return ELASTIC_START_S + ELASTIC_START_A_WORKER_S * workers
    return FIXED_START_S + FIXED_START_A_WORKER_S * workers


def _fitting(need: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> int:
    """Return how many workers fit on the nodes when nothing else runs there."""
    return sum(_workers_in(node, need) for node in nodes)


def _workers_in(free: Mapping[str, float], need: Mapping[str, float]) -> int:
    """Return how many workers fit into the free resources of a node; ``need`` has at least one amount above 0."""
    return min(_times(free.get(name, 0.0), name, amount) for name, amount in need.items())


def _times(free: float, resource: str, amount: float) -> int:
    """Return how often an amount fits into a free one. Ray gives a worker its share of a GPU on one GPU."""
    if resource == "GPU" and amount < 1:
        whole = floor(free + 1e-9)
        return whole * floor(1 / amount + 1e-9) + floor((free - whole) / amount + 1e-9)
    return floor(free / amount + 1e-9)
