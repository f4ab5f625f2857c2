"""The memory that a process of this machine may use. Importing this loads only the standard library."""

import ctypes
import os
from pathlib import Path, PurePosixPath

MAPPED_BYTES = 4 * 2**20
_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h


def memory_limit_gib(root: Path = Path("/")) -> float:
    """Return the memory that this process can use, in GiB: the machine's, or the limit of its cgroup if that is lower.

    Args:
        root: the folder that contains ``proc`` and ``sys``.
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_cgroup_limits(root)]) / 2**30


def free_memory_gib(root: Path = Path("/")) -> float | None:
    """Return the memory that new processes can use, in GiB, or None if the system does not tell (only Linux does).

    Args:
        root: the folder that contains ``proc`` and ``sys``.
    """
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    free = next((int(line.split()[1]) / 2**20 for line in lines if line.startswith("MemAvailable:")), None)
    return None if free is None else min(free, memory_limit_gib(root))


def return_freed_blocks() -> None:
    """Let the C library return memory blocks of 4 MiB and more to the system when they are freed, in this process.

    By default glibc raises the size from which it does so to 32 MiB, as such blocks are freed. A sharded model gathers
    and frees the weights of its blocks all the time, and its process would keep more memory than it saves. Nothing is
    changed where MALLOC_MMAP_THRESHOLD_ is set, or where the C library is not glibc.
    """
    change = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if change is not None and "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        change(_M_MMAP_THRESHOLD, MAPPED_BYTES)


def _cgroup_limits(root: Path) -> list[int]:
    """Return the memory limits in bytes of this process's cgroup and its parents (cgroups v1 and v2), if any."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return []
    limits = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        place = "sys/fs/cgroup/memory" if controllers else "sys/fs/cgroup"
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        group = PurePosixPath(path)
        for above in (group, *group.parents):  # in a container this process's own cgroup may be the root
            limit = _number(root / place / above.relative_to("/") / name)
            if limit is not None:
                limits.append(limit)
    return limits


def _number(file: Path) -> int | None:
    """Return the number in a file; None if the file does not exist or contains "max"."""
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
