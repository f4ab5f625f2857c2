"""What a model says of its parallelism: modules of FSDP1, and parameters on dimensions that are not data parallel."""

from torch import nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.distributed.tensor import DTensor

from scaler.core.mesh import DATA
from scaler.errors import TrainingError
from scaler.training.own_loop.mesh import KINDS


def require_known_sharding(model: nn.Module) -> None:
    """Refuse a model whose gradients are parts of flattened weights.

    Raises:
        TrainingError: it has a module of FSDP1.
    """
    if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
        raise TrainingError(
            "the model is wrapped in FullyShardedDataParallel (FSDP1), with which a process has no gradient of its own "
            "to compare.",
            "Use FSDP2: torch.distributed.fsdp.fully_shard(model); in accelerate, fsdp_version=2.",
        )


def require_data_parallel(model: nn.Module) -> None:
    """Refuse a model whose processes may train on the same samples, where nothing says which do.

    Args:
        model: of a script that gave no mesh to ``scaler.start``.

    Raises:
        TrainingError: names a parameter, and what it is divided over.
    """
    is_fsdp = any(isinstance(module, FSDPModule) for module in model.modules())
    for name, parameter in model.named_parameters():
        if not isinstance(parameter, DTensor):
            continue
        mesh = parameter.device_mesh
        names = mesh.mesh_dim_names or (None,) * mesh.ndim
        for dim, size in zip(names, mesh.shape, strict=True):
            is_data = is_fsdp if dim is None else KINDS.get(dim) in DATA
            if size > 1 and not is_data:
                over = f"the mesh dimension {dim!r}" if dim is not None else "a mesh dimension without a name"
                raise TrainingError(
                    f"the parameter {name} lies on {over} of {size} processes, and scaler.start got no mesh: it would "
                    "count the samples of each process.",
                    "Give it the mesh of all processes: scaler.start(job, mesh=mesh). Where each process has samples "
                    "of its own, say so: data_dims=(...).",
                )
