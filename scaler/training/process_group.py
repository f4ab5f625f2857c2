"""torch's process group: how its workers find each other, exchange values, and leave."""

import os
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import wraps
from time import perf_counter
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import HashStore, TCPStore  # type: ignore[attr-defined]

from scaler.errors import ClusterError, RecipeError

T = TypeVar("T")

LINK_BYTES = 256 * 2**10  # sent there and back to measure a link: 2 s at 2 Mbit/s


def agree(found: T | RecipeError, *, world_size: int) -> T:
    """Return what rank 0 found, or raise on every worker an error that any worker found.

    If only one worker raised it, the others would wait for that worker.

    Args:
        found: by this worker; every worker calls this.
        world_size: workers; with 1 nothing is sent.
    """
    if world_size > 1:
        gathered: list[T | RecipeError] = [found] * world_size
        dist.all_gather_object(gathered, found)
        found = next((one for one in gathered if isinstance(one, RecipeError)), gathered[0])
    if isinstance(found, RecipeError):
        raise found
    return found


def collective_backend(gpus: float) -> str:
    """Return the backend of torch's process group: ``nccl`` if each worker has a GPU of its own, otherwise ``gloo``.

    NCCL refuses two ranks on one GPU. gloo sums GPU tensors through the memory of the CPU.

    Args:
        gpus: GPUs of a worker, in [0, 1].

    Raises:
        ClusterError: torch was built without NCCL.
    """
    if gpus < 1:
        return "gloo"
    if not dist.is_nccl_available():
        raise ClusterError(
            f"resources.gpus_per_worker = 1 needs NCCL, and torch {torch.__version__} on the node "
            f"{socket.gethostname()} was built without it.",
            "Install a torch with NCCL, or use gloo, which is slower: --set resources.gpus_per_worker=0.5.",
        )
    return "nccl"


class MeetingPoint:
    """The store through which the workers of a group meet; rank 0 opens it on a free port.

    The store accepts any client, as gloo and NCCL do. So it listens on one address only, and gloo and NCCL use the
    network of this address.

    Args:
        host: the address of rank 0's node in the cluster's network; ``127.0.0.1`` if all workers are on one node.
        port: None on rank 0, which opens the store; otherwise rank 0's port.
        world_size: workers in the group.

    Raises:
        ClusterError: rank 0's node does not have this address.
    """

    def __init__(self, host: str, *, port: int | None, world_size: int) -> None:
        self._host, self._world_size = host, world_size
        opened: int | None = None
        if port is None:
            port, opened = free_port_on(host)
        self.port = port
        self._store = TCPStore(
            host, port, world_size, opened is not None, wait_for_workers=False, master_listen_fd=opened
        )

    def join(self, *, rank: int, backend: str) -> None:
        """Create torch's default process group, ``nccl`` or ``gloo``, on the network interface that leads to rank 0.

        This sets ``GLOO_SOCKET_IFNAME`` and ``NCCL_SOCKET_IFNAME`` in this process, unless the user has set them.
        """
        interface = _interface_of(own_address(self._host))
        if interface is not None:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={interface}")  # with "=" NCCL compares the whole name
        dist.init_process_group(backend, store=self._store, rank=rank, world_size=self._world_size)

    def measure_link(self, *, rank: int) -> tuple[float, float]:
        """Measure the network between this worker's node and the node of rank 0; takes milliseconds on a fast one.

        Args:
            rank: of this worker.

        Returns:
            Seconds of the shortest of three round trips, and MiB/s of a transfer there and back.
        """
        key = f"link-{rank}"
        round_trips = []
        for _ in range(3):
            began = perf_counter()
            self._store.check([key])
            round_trips.append(perf_counter() - began)
        began = perf_counter()
        self._store.set(key, "0" * LINK_BYTES)
        self._store.get(key)
        transfer_s = perf_counter() - began
        self._store.delete_key(key)
        return min(round_trips), 2 * LINK_BYTES / 2**20 / transfer_s


def free_port_on(host: str) -> tuple[int, int]:
    """Return a free port and the descriptor of a socket that listens on it, on one address of this machine.

    By default a store would listen on every interface.

    Raises:
        ClusterError: this machine does not have this address.
    """
    listening = _listen(host)
    return int(listening.getsockname()[1]), listening.detach()


def _listen(host: str) -> socket.socket:
    """Return a socket that listens on one address, on a free port."""
    try:
        family = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, 0), family=family)
    except OSError as error:
        why = (error.strerror or str(error)).partition(" (")[0]  # without the address, which Python appends
        raise ClusterError(
            f"rank 0 cannot listen on {host}, its node's address in the cluster: {why}.",
            "Set it with ray start --node-ip-address: an address of this node that the other nodes can reach.",
        ) from error


def own_address(host: str) -> str:
    """Return this machine's address on the route to a host; nothing is sent.

    Raises:
        OSError: the host is not known, or there is no route.
    """
    family, _, _, _, place = socket.getaddrinfo(host, 1, type=socket.SOCK_DGRAM)[0]
    with closing(socket.socket(family, socket.SOCK_DGRAM)) as probe:
        probe.connect(place)
        return str(probe.getsockname()[0])


def _interface_of(address: str) -> str | None:
    """Return the interface with this first IPv4 address; None if the system cannot tell (only Linux can)."""
    try:
        import fcntl
    except ImportError:
        return None
    get_address = 0x8915  # SIOCGIFADDR
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe.fileno(), get_address, struct.pack("256s", name.encode()[:15]))
            except OSError:  # an interface without an address
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None


def group_of_one(device: torch.device) -> None:
    """Create a default process group of this process alone, unless there is one."""
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)


def leave_group() -> None:
    """Leave torch's default process group, if it exists."""
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def process_of_its_own() -> Iterator[None]:
    """Set torchrun's variables for a single process in a ``with`` block, at whose end a group that was made there ends.

    So a script that begins with ``init_process_group`` runs in any process.
    """
    single = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "NODE_RANK": "0"}
    before = {name: os.environ.get(name) for name in (*single, "MASTER_ADDR", "MASTER_PORT")}
    had_group = dist.is_initialized()
    os.environ |= single
    set_meeting_variables("127.0.0.1")
    try:
        yield
    finally:
        if not had_group:
            leave_group()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def set_meeting_variables(host: str, port: int | None = None) -> None:
    """Set the variables that ``init_process_group`` reads of rank 0.

    Args:
        host: of rank 0.
        port: of its store; None: a free port of this machine.
    """
    if port is None:
        with _listen(host) as listening:
            port = int(listening.getsockname()[1])
    os.environ |= {"MASTER_ADDR": host, "MASTER_PORT": str(port)}


@contextmanager
def init_finds_the_group() -> Iterator[None]:
    """Let a script's ``init_process_group`` do nothing in a ``with`` block where the group is there already."""
    original = dist.init_process_group

    @wraps(original)
    def init(*args: Any, **options: Any) -> None:
        if not dist.is_initialized():
            original(*args, **options)

    dist.init_process_group = init
    try:
        yield
    finally:
        dist.init_process_group = original


def is_lost_peer(error: BaseException) -> bool:
    """Return whether an error only says that another worker is gone; the end of that worker is the cause.

    A restart of the group may then succeed. torch raises ``DistBackendError`` and ``DistNetworkError`` for NCCL and the
    store. gloo's errors are plain ``RuntimeError`` that name the source file they come from.
    """
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(
        sign in str(error) for sign in ("gloo/", "Connection closed by peer", "Connection reset by peer")
    )


def max_over_workers(values: Sequence[float], *, world_size: int, device: torch.device) -> list[float]:
    """Return the largest of every worker's values, place by place; a collective if there are several workers."""
    largest = torch.tensor(values, dtype=torch.float64)
    if world_size > 1:
        largest = largest.to(device)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    found: list[float] = largest.tolist()
    return found


def sum_over_workers(values: torch.Tensor, *, world_size: int, device: torch.device) -> torch.Tensor:
    """Return the sum of every worker's tensor; a collective unless there is one worker or the tensor is empty."""
    if world_size > 1 and len(values):
        values = values.to(device)
        dist.all_reduce(values)
    return values


def object_from_rank_0(value: T, *, world_size: int) -> T:
    """Return rank 0's value; a collective on several workers. The value must be picklable."""
    sent = [value]
    if world_size > 1:
        dist.broadcast_object_list(sent, 0)
    return sent[0]


def from_rank_0(values: Sequence[int], *, world_size: int, device: torch.device) -> list[int]:
    """Return rank 0's integers; a collective on several workers, with as many integers on each."""
    sent = torch.tensor(values, dtype=torch.int64, device=device)
    if world_size > 1:
        dist.broadcast(sent, 0)
    found: list[int] = sent.tolist()
    return found
