"""torch's side of a group of workers: threads, device, and the process group."""

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]


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

    Args:
        host: the address of rank 0's node in the cluster's network.
        port: None on rank 0, which opens it; else what rank 0 said.
        world_size: workers in the group.
    """

    def __init__(self, host: str, *, port: int | None, world_size: int) -> None:
        is_master = port is None
        self._world_size = world_size
        self._store = TCPStore(host, port or 0, world_size, is_master=is_master, wait_for_workers=False)
        self.port = int(self._store.port)

    def join(self, *, rank: int, backend: str) -> None:
        """Make torch's default process group, ``nccl`` or ``gloo``."""
        dist.init_process_group(backend, store=self._store, rank=rank, world_size=self._world_size)


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
