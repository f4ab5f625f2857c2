"""Norms of gradients, dense and sparse, and clipping."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate


def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Return the norm of a gradient over dense, sparse and sharded parameters.

    A gradient of ``DTensor`` counts once, over all dimensions of its mesh: every worker of the mesh calls this.
    """
    if any(isinstance(gradient, DTensor) for gradient in gradients):
        return _sharded_norm(gradients)
    kinds = {(gradient.layout, gradient.device, gradient.dtype) for gradient in gradients}
    if len(kinds) != 1 or gradients[0].is_sparse:
        return torch.nn.utils.get_total_norm(values_of([coalesced(gradient) for gradient in gradients]))
    norm: Tensor = torch.linalg.vector_norm(
        torch.stack(torch._foreach_norm(list(gradients)))
    )  # the same in half the time
    return norm


def _sharded_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Return the norm of gradients of which some or all are ``DTensor``, with one sum for each way of sharding."""
    kinds: dict[tuple[DeviceMesh, tuple[Placement, ...]] | None, list[Tensor]] = {}
    for gradient in gradients:
        if isinstance(gradient, DTensor):
            if any(isinstance(placement, Partial) for placement in gradient.placements):
                gradient = gradient.redistribute(placements=[_summed(each) for each in gradient.placements])
            kinds.setdefault((gradient.device_mesh, gradient.placements), []).append(gradient.to_local())
        else:
            kinds.setdefault(None, []).append(gradient)
    squares = []
    for sharding, local in kinds.items():
        square = total_norm(local).square()
        if sharding is not None:
            mesh, placements = sharding
            square = square.to(mesh.device_type)  # the shards may be kept on the CPU
            for dim, placement in enumerate(placements):
                # Also a shard of a tensor-parallel shard, which is no Shard for torch.
                if not placement.is_replicate() and mesh.size(dim) > 1:
                    dist.all_reduce(square, group=mesh.get_group(dim))
        squares.append(square)
    first = squares[0]
    return torch.stack([square.to(first.device, first.dtype) for square in squares]).sum().sqrt()


def _summed(placement: Placement) -> Placement:
    return Replicate() if isinstance(placement, Partial) else placement


def clip(parameters: Sequence[nn.Parameter], norm: Tensor, *, most: float) -> None:
    """Scale gradients longer than ``most`` down to it, in place, as ``torch.nn.utils`` does.

    Args:
        parameters: whose gradients are scaled.
        norm: the norm of all their gradients together.
        most: the maximum norm.
    """
    torch.nn.utils.clip_grads_with_norm_([p for p in parameters if _is_dense(p.grad)], most, norm)
    others = [
        parameter.grad for parameter in parameters if parameter.grad is not None and not _is_dense(parameter.grad)
    ]
    rows = values_of(others)
    if rows:
        torch._foreach_mul_(rows, torch.clamp(most / (norm + 1e-6), max=1.0).to(rows[0].device))


def _is_dense(gradient: Tensor | None) -> bool:
    return gradient is not None and not gradient.is_sparse and not isinstance(gradient, DTensor)


def coalesced(gradient: Tensor) -> Tensor:
    """Return a sparse gradient with each row once; a dense one unchanged."""
    return gradient.coalesce() if gradient.is_sparse else gradient


def values_of(gradients: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors that hold the gradients' numbers, not copied: a sparse one's rows, a sharded one's part."""
    return [_values(gradient) for gradient in gradients]


def _values(gradient: Tensor) -> Tensor:
    if isinstance(gradient, DTensor):
        return gradient.to_local()
    return gradient.values() if gradient.is_sparse else gradient
