"""The device of a worker: its name and memory, its threads, and errors when its memory is full."""

from typing import Any

import torch

from scaler.errors import JobFileError
from scaler.job.model import Train
from scaler.training.memory import memory_limit_gib
from scaler.training.tf32 import allow_tf32


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that a GPU, or torch's allocator on the CPU, is out of memory."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)


def use_threads(cpus_per_worker: float) -> None:
    """Set torch's number of threads to the worker's CPUs, at least one."""
    torch.set_num_threads(max(1, int(cpus_per_worker)))


def cpu() -> torch.device:
    """Return the CPU."""
    return torch.device("cpu")


def prepare_device(device: torch.device, train: Train) -> None:
    """Make a GPU the default of torch and NCCL in this process, and set whether it may compute in TF32.

    Args:
        device: the worker's.
        train: its precision and ``tf32``.

    Raises:
        JobFileError: the GPU has no bf16, and the job asks for it.
    """
    if device.type != "cuda":
        return
    torch.cuda.set_device(device)
    if train.tf32 is not None:
        allow_tf32(train.tf32)
    if train.precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise JobFileError(
            f"train.precision = bf16, and the GPU {torch.cuda.get_device_name(device)} does not compute in it.",
            "Use fp16, which scales the loss: --set train.precision=fp16.",
        )


def gpu(number: int = 0) -> torch.device:
    """Return a GPU that this process sees; by default the first."""
    return torch.device("cuda", number)


def uses_gpu() -> bool:
    """Return whether this process has used a GPU; then its forks cannot use one."""
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def describe_device(device: torch.device) -> dict[str, Any]:
    """Return ``device`` (``cpu`` or torch's name of the GPU) and ``memory_limit_gib``, all of the device's memory.

    The workers of a node share the memory of the CPU.
    """
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        return {"device": about.name, "memory_limit_gib": about.total_memory / 2**30}
    return {"device": device.type, "memory_limit_gib": memory_limit_gib()}


def torch_version() -> str:
    """Return the version of the installed torch, with what it was built for, such as ``2.13.0+cpu``."""
    return str(torch.__version__)


def gpus_here() -> int:
    """Return how many GPUs torch sees in this process (``CUDA_VISIBLE_DEVICES`` counts), without initializing any."""
    return torch.cuda.device_count()
