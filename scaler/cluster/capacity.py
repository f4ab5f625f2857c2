"""How many workers a cluster holds now, from what its nodes have free and from what a group holds already.

Ray Train would ask its autoscaling coordinator, which looks at the nodes every 20 s and knows nothing of what others
than Ray Train and Ray Data use; a group sized by it may wait for room that is not there.
"""

import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import floor

ANSWER_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """A node that can hold workers."""

    node_id: str
    host: str
    port: int
    free: Mapping[str, float]


def usable_nodes() -> list[Node]:
    """Return the nodes that are alive, as far as the cluster knows, and that are not about to be taken away."""
    import ray

    state = ray._private.state.state
    free = state.available_resources_per_node()  # type: ignore[no-untyped-call]
    leaving = state.get_draining_nodes()
    return [
        Node(
            node_id=node["NodeID"],
            host=node["NodeManagerAddress"],
            port=node["NodeManagerPort"],
            free=free.get(node["NodeID"], {}),
        )
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"] and node["NodeID"] not in leaving
    ]


def that_answer(nodes: list[Node]) -> list[Node]:
    """Return the nodes whose daemon listens: a cluster believes a dead node alive for 15 s and more."""

    def answers(node: Node) -> bool:
        try:
            socket.create_connection((node.host, node.port), timeout=ANSWER_S).close()
        except OSError:
            return False
        return True

    with ThreadPoolExecutor(max_workers=32) as pool:
        return [node for node, there in zip(nodes, pool.map(answers, nodes), strict=True) if there]


def count_workers(nodes: list[Node], need: Mapping[str, float], *, held: Mapping[str, int], most: int) -> int:
    """Return how many workers the nodes hold, at most ``most``.

    Args:
        nodes: where workers may be.
        need: what a worker takes.
        held: workers that the group has on each node, by node id; what they take is not in ``free``.
        most: workers that are wanted.

    Example:
        >>> nodes = [Node(node_id="a", host="", port=0, free={"CPU": 1.5}), Node(node_id="b", host="", port=0, free={})]
        >>> count_workers(nodes, {"CPU": 1.0}, held={"b": 1}, most=4)
        2
    """
    need = {name: amount for name, amount in need.items() if amount}
    if not need:
        return most
    return min(sum(held.get(node.node_id, 0) + workers_in(node.free, need) for node in nodes), most)


def workers_in(free: Mapping[str, float], need: Mapping[str, float]) -> int:
    """Return how many workers fit into what a node has free.

    Args:
        free: by resource.
        need: what a worker takes of each, above 0; of one resource at least.
    """
    return min(floor(free.get(name, 0.0) / amount + 1e-9) for name, amount in need.items())
