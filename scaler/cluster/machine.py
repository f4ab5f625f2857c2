"""What this machine offers to a run. Neither torch nor Ray is imported."""

import os
import platform
import re
import resource
import shutil
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from scaler.cluster.versions import Versions, installed_versions
from scaler.masking import MASK, looks_secret, mask_text
from scaler.training.memory import memory_limit_gib

GIB = 2**30
STORAGE_PACKAGES = ("s3fs", "gcsfs", "adlfs")
_MATTER = re.compile(
    r"(RAY|SCALER|NCCL|GLOO|TORCH)_.*|CUDA_(VISIBLE_DEVICES|DEVICE_ORDER)|OMP_NUM_THREADS|PYTHON(PATH|HASHSEED)|AWS_\w+"
    r"|(http|https|no)_proxy",
    re.IGNORECASE,
)
_HOLDS_SECRETS = re.compile("RAY_JOB_(HEADERS|CONFIG_JSON_ENV_VAR)|RAY_.*HEADERS")  # JSON with any content


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What one machine offers; None: not known."""

    host: str
    system: str  # kernel and architecture
    versions: Versions
    torch_cuda: str | None  # the CUDA that torch was built for; None: torch is for CPUs, or not installed
    gpus: Sequence[str]  # names of the NVIDIA GPUs
    gpu_driver: str | None  # version of NVIDIA's driver
    cpus: int  # that this process may use
    cpus_of_machine: int
    cpu_quota: float | None  # CPUs that a container's limit allows; None: no limit
    memory_gib: float  # the machine's, or the limit of this process's container
    shared_memory_gib: float | None  # size of /dev/shm
    open_files: int  # soft limit of this process
    most_open_files: int  # hard limit
    folder: str  # the current folder, in which `storage: runs` is
    folder_free_gib: float
    folder_is_writable: bool
    ray_folder: str  # where Ray writes its files
    ray_folder_free_gib: float
    ray_folder_used: float  # share in [0, 1]; Ray stops above 0.95
    storage_packages: Mapping[str, str]  # versions of the installed packages for remote storage
    variables: Mapping[str, str]  # environment variables that matter to a run; secrets are masked


def this_machine() -> Machine:
    """Return what this machine offers; takes a few milliseconds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    ray_folder = os.environ.get("RAY_TMPDIR") or ("/tmp" if os.path.isdir("/tmp") else os.environ.get("TMPDIR", "."))
    here, of_ray = shutil.disk_usage("."), shutil.disk_usage(ray_folder if os.path.isdir(ray_folder) else ".")
    gpus, driver = _nvidia(Path("/proc/driver/nvidia"))
    return Machine(
        host=socket.gethostname(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        versions=installed_versions(),
        torch_cuda=cuda_of_torch(),
        gpus=gpus,
        gpu_driver=driver,
        cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        cpus_of_machine=os.cpu_count() or 1,
        cpu_quota=_cpu_quota(Path("/sys/fs/cgroup/cpu.max")),
        memory_gib=memory_limit_gib(),
        shared_memory_gib=shutil.disk_usage("/dev/shm").total / GIB if os.path.isdir("/dev/shm") else None,
        open_files=soft,
        most_open_files=hard,
        folder=os.getcwd(),
        folder_free_gib=here.free / GIB,
        folder_is_writable=os.access(".", os.W_OK),
        ray_folder=ray_folder,
        ray_folder_free_gib=of_ray.free / GIB,
        ray_folder_used=1 - of_ray.free / of_ray.total if of_ray.total else 0.0,
        storage_packages=_installed(STORAGE_PACKAGES),
        variables=variables_that_matter(os.environ),
    )


def cuda_of_torch() -> str | None:
    """Return the CUDA version that the installed torch was built for; None: for CPUs only, or torch is not installed.

    It is read from torch's file ``version.py``, because importing torch takes seconds.
    """
    try:
        text = Path(str(metadata.distribution("torch").locate_file("torch/version.py"))).read_text()
    except (metadata.PackageNotFoundError, OSError):
        return None
    found = re.search(r"^cuda\b.*= *['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return found[1] if found else None


def variables_that_matter(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables that change how a run works, sorted; their secrets are masked.

    Example:
        >>> variables_that_matter({"RAY_ADDRESS": "head:6379", "RAY_AUTH_TOKEN": "abc", "LANG": "C"})
        {'RAY_ADDRESS': 'head:6379', 'RAY_AUTH_TOKEN': '***'}
    """
    return {
        name: MASK if looks_secret(name) or _HOLDS_SECRETS.fullmatch(name) else mask_text(value)
        for name, value in sorted(environment.items())
        if _MATTER.fullmatch(name)
    }


def _installed(packages: Sequence[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _nvidia(folder: Path) -> tuple[list[str], str | None]:
    """Return the names of the GPUs and the version of the driver, as NVIDIA's kernel module lists them."""
    try:
        about = [(gpu / "information").read_text() for gpu in sorted((folder / "gpus").iterdir())]
        driver = re.search(r"Kernel Module\D*([\d.]+)", (folder / "version").read_text())
    except OSError:
        return [], None
    names = [re.search(r"^Model:\s*(.+)$", text, re.MULTILINE) for text in about]
    return [name[1].strip() if name else "GPU" for name in names], driver[1] if driver else None


def _cpu_quota(file: Path) -> float | None:
    """Return the CPUs of a container's limit (cgroups v2); None: there is none."""
    try:
        quota, period = file.read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)
