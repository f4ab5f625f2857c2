"""The device of a worker on Ray Train: the GPU that Ray assigned, its place on the node, and the collective backend."""

import os
import socket
from typing import TYPE_CHECKING

import ray
import ray.train

from scaler.errors import ClusterError

if TYPE_CHECKING:
    import torch


def set_rank_variables() -> None:
    """Set torchrun's variables in this process, for recipes and libraries that read their rank from them."""
    context = ray.train.get_context()
    os.environ |= {
        "RANK": str(context.get_world_rank()),
        "WORLD_SIZE": str(context.get_world_size()),
        "LOCAL_RANK": str(context.get_local_rank()),
        "LOCAL_WORLD_SIZE": str(context.get_local_world_size()),
        "NODE_RANK": str(context.get_node_rank()),
    }


def assigned_device(gpus: float) -> "torch.device":
    """Return the GPU that Ray assigned to this worker, or the CPU.

    Args:
        gpus: GPUs of a worker, in [0, 1].

    Raises:
        ClusterError: Ray assigned a GPU that torch cannot use.
    """
    from scaler.training.device import cpu

    if gpus == 0:
        return cpu()
    import ray.train.torch
    import torch

    if not torch.cuda.is_available():
        ids = ", ".join(map(str, ray.get_gpu_ids()))
        raise ClusterError(
            f"Ray assigned GPU {ids} of the node {socket.gethostname()} to rank "
            f"{ray.train.get_context().get_world_rank()}, and torch {torch.__version__} there sees no GPU.",
            "Install a torch for this GPU and its driver on the node, or train on CPUs: "
            "--set resources.gpus_per_worker=0.",
        )
    return ray.train.torch.get_device()


def collective_backend(gpus: float) -> str:
    """Return the backend of torch's process group: ``nccl`` if each worker has a GPU of its own, otherwise ``gloo``.

    NCCL refuses two ranks on one GPU. gloo sums GPU tensors through the memory of the CPU.

    Args:
        gpus: GPUs of a worker, in [0, 1].

    Raises:
        ClusterError: torch was built without NCCL.
    """
    import torch
    import torch.distributed as dist

    if gpus < 1:
        return "gloo"
    if not dist.is_nccl_available():
        raise ClusterError(
            f"resources.gpus_per_worker = 1 needs NCCL, and torch {torch.__version__} on the node "
            f"{socket.gethostname()} was built without it.",
            "Install a torch with NCCL, or use gloo, which is slower: --set resources.gpus_per_worker=0.5.",
        )
    return "nccl"
