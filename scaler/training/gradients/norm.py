"""Norms of gradients, dense and sparse, and clipping."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Return the norm of a gradient over dense and sparse parameters."""
    kinds = {(gradient.layout, gradient.device, gradient.dtype) for gradient in gradients}
    if len(kinds) != 1 or gradients[0].is_sparse or isinstance(gradients[0], DTensor):
        return torch.nn.utils.get_total_norm(values_of([coalesced(gradient) for gradient in gradients]))
    norm: Tensor = torch.linalg.vector_norm(
        torch.stack(torch._foreach_norm(list(gradients)))
    )  # the same in half the time
    return norm


def clip(parameters: Sequence[nn.Parameter], norm: Tensor, *, most: float) -> None:
    """Scale gradients longer than ``most`` down to it, in place, as ``torch.nn.utils`` does.

    Args:
        parameters: whose gradients are scaled.
        norm: the norm of all their gradients together.
        most: the maximum norm.
    """
    torch.nn.utils.clip_grads_with_norm_([p for p in parameters if not _is_sparse(p)], most, norm)
    rows = values_of([p.grad for p in parameters if p.grad is not None and p.grad.is_sparse])
    if rows:
        torch._foreach_mul_(rows, torch.clamp(most / (norm + 1e-6), max=1.0))


def _is_sparse(parameter: nn.Parameter) -> bool:
    return parameter.grad is not None and parameter.grad.is_sparse


def coalesced(gradient: Tensor) -> Tensor:
    """Return a sparse gradient with each row once; a dense one unchanged."""
    return gradient.coalesce() if gradient.is_sparse else gradient


def values_of(gradients: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors that hold the gradients' numbers, not copied; of a coalesced sparse gradient, its rows."""
    return [gradient.values() if gradient.is_sparse else gradient for gradient in gradients]
