"""The device of a worker on Ray Train: the GPU that Ray assigned, and the worker's place on its node."""

import socket
from typing import Any

from scaler.errors import ClusterError


def assigned_device(gpus: float) -> Any:
    """Return the torch device of the GPU that Ray assigned to this worker, or the CPU.

    Args:
        gpus: GPUs of a worker, in [0, 1].

    Raises:
        ClusterError: Ray assigned a GPU that torch cannot use.
    """
    from scaler.training.device import cpu, gpus_here, torch_version

    if gpus == 0:
        return cpu()
    import ray.train.torch

    if not gpus_here():  # Ray would return a device that torch cannot use
        ids = ", ".join(map(str, ray.get_gpu_ids()))
        raise ClusterError(
            f"Ray assigned GPU {ids} of the node {socket.gethostname()} to rank "
            f"{ray.train.get_context().get_world_rank()}, and torch {torch_version()} there sees no GPU.",
            "Install a torch for this GPU and its driver on the node, or train on CPUs: "
            "--set resources.gpus_per_worker=0.",
        )
    return ray.train.torch.get_device()
