"""What a shared group tells a worker's process, and what the process tells the group."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """The place of a worker in a shared group.

    Args:
        rank: of the worker, in [0, world_size).
        world_size: workers in the group.
        local_rank: among the workers of its node.
        local_world_size: workers on its node.
        node_rank: of its node; rank 0 is on node 0.
        address: of rank 0's node, for the other workers.
        gpu: which of the GPUs that this process sees is the worker's; None: it has none.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    node_rank: int
    address: str
    gpu: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a worker's process ended.

    Args:
        ended: ``finished``, ``stopped`` or ``yielded``: it has trained. ``restart``: the run is to continue from its
            checkpoint, which no limit counts. ``died``: it, or a process that loads its data, is gone. ``lost_peer``:
            another worker is gone. ``failed``: it raised an error that would come again.
        message: why, in a few words.
    """

    ended: str
    message: str = ""
