"""torch's process group: how its workers meet, and what they must agree on."""

import os
import socket
import struct
from contextlib import closing
from typing import TypeVar

import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from scaler.errors import ClusterError, RecipeError

T = TypeVar("T")


def agree(found: T | RecipeError, *, world_size: int) -> T:
    """Return what rank 0 found, or raise an error that any worker found: who raises alone leaves the others waiting.

    Args:
        found: by this worker; every worker calls this.
        world_size: workers; with 1 there is nobody to agree with.
    """
    if world_size > 1:
        everyones: list[T | RecipeError] = [found] * world_size
        dist.all_gather_object(everyones, found)
        found = next((one for one in everyones if isinstance(one, RecipeError)), everyones[0])
    if isinstance(found, RecipeError):
        raise found
    return found


class MeetingPoint:
    """Where the workers of a group find each other: a store that rank 0 opens on a free port of its own.

    It takes anybody's word, as gloo and NCCL do, so it listens on one address only, and they on that address's network.

    Args:
        host: the address of rank 0's node in the cluster's network; ``127.0.0.1`` when all workers are on one node.
        port: None on rank 0, which opens it; else what rank 0 said.
        world_size: workers in the group.

    Raises:
        ClusterError: rank 0's node does not have that address.
    """

    def __init__(self, host: str, *, port: int | None, world_size: int) -> None:
        self._host, self._world_size = host, world_size
        opened: int | None = None
        if port is None:  # left to itself, the store would listen on every interface
            listening = _listen(host)
            port, opened = int(listening.getsockname()[1]), listening.detach()
        self.port = port
        self._store = TCPStore(
            host, port, world_size, opened is not None, wait_for_workers=False, master_listen_fd=opened
        )

    def join(self, *, rank: int, backend: str) -> None:
        """Make torch's default process group, ``nccl`` or ``gloo``, on the interface that leads to rank 0.

        ``GLOO_SOCKET_IFNAME`` and ``NCCL_SOCKET_IFNAME`` are set for this process, unless the user has set them.
        """
        interface = _interface_of(_own_address(self._host))
        if interface is not None:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={interface}")  # = is NCCL's sign for the whole name
        dist.init_process_group(backend, store=self._store, rank=rank, world_size=self._world_size)


def _listen(host: str) -> socket.socket:
    """A socket that listens on one address, on a free port."""
    try:
        family = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, 0), family=family)
    except OSError as error:
        why = (error.strerror or str(error)).partition(" (")[0]  # Python adds the address
        raise ClusterError(
            f"rank 0 cannot listen on {host}, its node's address in the cluster: {why}.",
            "ray start --node-ip-address sets it: one that the node has, and the others reach.",
        ) from error


def _own_address(host: str) -> str:
    """This machine's address on the way to a host; nothing is sent."""
    family, _, _, _, place = socket.getaddrinfo(host, 1, type=socket.SOCK_DGRAM)[0]
    with closing(socket.socket(family, socket.SOCK_DGRAM)) as probe:
        probe.connect(place)
        return str(probe.getsockname()[0])


def _interface_of(address: str) -> str | None:
    """The interface that has an IPv4 address as its first; None where the system does not say (it is Linux's way)."""
    try:
        import fcntl
    except ImportError:
        return None
    get_address = 0x8915  # SIOCGIFADDR
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe.fileno(), get_address, struct.pack("256s", name.encode()[:15]))
            except OSError:  # it has no address
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None


def leave_group() -> None:
    """Leave torch's default process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def is_lost_peer(error: BaseException) -> bool:
    """Whether an error only says that another worker is gone: that worker's death is the cause, and worth a restart.

    torch raises ``DistBackendError`` and ``DistNetworkError`` for NCCL and the store; gloo's errors are plain
    ``RuntimeError`` that name the source file they come from.
    """
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(
        sign in str(error) for sign in ("gloo/", "Connection closed by peer", "Connection reset by peer")
    )
