"""torch's side of a group of workers: threads, device, the process group, and what its members must agree on."""

import hashlib
import os
import socket
import struct
from collections.abc import Sequence
from contextlib import closing

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from scaler.errors import ClusterError, RecipeError
from scaler.training.names import named_buffers, named_parameters

Described = tuple[str, tuple[int, ...], str, bool]  # name, shape, dtype, whether it is trained


def use_threads(cpus_per_worker: float) -> None:
    """Give torch the worker's CPUs: as many threads, at least one."""
    torch.set_num_threads(max(1, int(cpus_per_worker)))


def cpu() -> torch.device:
    """Return the CPU."""
    return torch.device("cpu")


def use_gpu(device: torch.device) -> None:
    """Make a GPU the one that torch and NCCL use when they are not told which."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def first_gpu() -> torch.device:
    """Return the first GPU that this process sees."""
    return torch.device("cuda", 0)


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


def require_same_model(model: nn.Module, *, world_size: int) -> None:
    """Refuse a model that is not built the same on every worker; called by all of them, before the model is shared.

    Compared are name, shape, dtype and ``requires_grad`` of every parameter, in their order, and buffers likewise:
    workers that disagree would wait for each other, or add up what does not belong together.

    Args:
        model: this worker's, not wrapped.
        world_size: workers in torch's default process group; with 1 there is nothing to compare.

    Raises:
        RecipeError: names the first parameter that differs, on every worker.
    """
    if world_size == 1:
        return
    mine = _described(model)
    digests: list[bytes] = [b""] * world_size
    dist.all_gather_object(digests, hashlib.sha256(repr(mine).encode()).digest())
    if len(set(digests)) == 1:
        return
    models: list[list[Described]] = [[] for _ in range(world_size)]
    dist.all_gather_object(models, mine)
    raise RecipeError(
        f"the model differs between workers: {_first_difference(models)}.",
        "The recipe must build the same model on each: from recipe_args and the job's seed only.",
    )


def _described(model: nn.Module) -> list[Described]:
    named = [*named_parameters(model).items(), *named_buffers(model).items()]
    return [(name, tuple(t.shape), str(t.dtype).removeprefix("torch."), t.requires_grad) for name, t in named]


def _first_difference(models: Sequence[Sequence[Described]]) -> str:
    """The first parameter that is not the same everywhere, and who has what."""
    tables = [{described[0]: described for described in model} for model in models]
    names = list(dict.fromkeys(described[0] for model in models for described in model))
    for name in names:
        found = [table.get(name) for table in tables]
        if len(set(found)) == 1:
            continue
        if None in found:
            return f"{name} is {_who(['there' if described else 'missing' for described in found])}"
        there = [described for described in found if described is not None]
        shapes, dtypes = [str(described[1]) for described in there], [described[2] for described in there]
        uses = ["trained" if described[3] else "frozen" for described in there]
        return f"{name} is {_who(next(shown for shown in (shapes, dtypes, uses) if len(set(shown)) > 1))}"
    place = next(i for i in range(len(names)) if len({model[i][0] for model in models}) > 1)
    return f"its parameter {place} is {_who([model[place][0] for model in models])}"


def _who(shown: Sequence[str]) -> str:
    """What each rank has: ``(4, 2) on ranks 0, 2 and (5, 2) on rank 1``."""
    ranks = {what: [rank for rank, other in enumerate(shown) if other == what] for what in shown}
    return " and ".join(
        f"{what} on rank{'s' if len(having) > 1 else ''} {', '.join(map(str, having))}"
        for what, having in ranks.items()
    )


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
