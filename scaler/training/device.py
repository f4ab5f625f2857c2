"""What a worker trains on, in the words of a report: its name and its memory."""

import os
from pathlib import Path, PurePosixPath
from typing import Any

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device, or torch's allocator on the CPU, has no memory left."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)


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


def describe_device(device: torch.device) -> dict[str, Any]:
    """Return ``device``, ``cpu`` or what torch calls the GPU, and ``memory_limit_gib``, all the memory it has.

    On a CPU the workers of a node share it.
    """
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        return {"device": about.name, "memory_limit_gib": about.total_memory / 2**30}
    return {"device": device.type, "memory_limit_gib": memory_limit_gib()}


def gpus_here() -> int:
    """Return how many GPUs torch sees in this process; ``CUDA_VISIBLE_DEVICES`` counts. None of them is touched."""
    return torch.cuda.device_count()


def memory_limit_gib(root: Path = Path("/")) -> float:
    """Return the memory that this process can use, in 2**30 bytes: the machine's, or less where its cgroup says so.

    Args:
        root: where ``proc`` and ``sys`` are.
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_cgroup_limits(root)]) / 2**30


def _cgroup_limits(root: Path) -> list[int]:
    """The limits of this process's cgroup and of those that hold it, in both versions; none where there are none."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # no Linux
        return []
    limits = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        place = "sys/fs/cgroup/memory" if controllers else "sys/fs/cgroup"
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        group = PurePosixPath(path)
        for above in (group, *group.parents):  # a container sees its own as the root, and may not see the path's
            limit = _number(root / place / above.relative_to("/") / name)
            if limit is not None:
                limits.append(limit)
    return limits


def _number(file: Path) -> int | None:
    """What a file says; None when it is not there, or says "max"."""
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
