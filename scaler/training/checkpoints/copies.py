"""The copy of a state in the CPU's memory, from which a checkpoint is written while training continues.

A state is a nested dict. Its tensors are separated from the rest: in the plain part, a tensor of the same shape on the
device ``meta`` stands in the place of each.
"""

from collections import OrderedDict
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import Parameter

ESCAPED = str.maketrans({"%": "%25", "/": "%2F", "[": "%5B"})

Path = tuple[Any, ...]
"""The keys and indices that lead to a value of a state."""


class Piece(NamedTuple):
    """What this worker has of a tensor, on the CPU."""

    tensor: Tensor
    offsets: torch.Size  # of its first element in the whole tensor
    size: torch.Size  # of the whole tensor


class StateCopy(NamedTuple):
    """One worker's copy of a state."""

    plain: Any  # the state with meta tensors; only rank 0's is written
    pieces: dict[str, Piece]  # by ``key_of`` the path of the tensor


def copy_state(state: Any, *, rank: int = 0) -> StateCopy:
    """Return a copy of a state that shares nothing with it, so that training can continue.

    A tensor that is found in several places (tied weights) is copied once. Sparse, quantized and nested tensors, and
    values other than plain containers, are copied in the plain part.

    Args:
        state: its DTensors have a part on each worker; everything else is the same on every worker.
        rank: of this worker; those after 0 copy only their parts of DTensors.
    """
    pieces: dict[str, Piece] = {}
    known: dict[Any, Tensor] = {}

    def copied(value: Any, name: str) -> Any:
        if isinstance(value, Tensor) and is_plain(value):
            return placeholder(value.detach(), name)
        if isinstance(value, Tensor):
            return value.detach().clone().cpu() if rank == 0 else None
        if type(value) in (dict, OrderedDict):
            made = type(value)((key, copied(item, f"{name}/{_part(key)}")) for key, item in value.items())
            if hasattr(value, "_metadata"):  # torch's: the version of each module's state
                made._metadata = value._metadata
            return made
        if type(value) in (list, tuple):
            return type(value)(copied(item, f"{name}/{_part(place)}") for place, item in enumerate(value))
        return deepcopy(value) if rank == 0 else None

    def placeholder(value: Tensor, name: str) -> Tensor:
        local, offsets = _local(value)
        memory = (local.device, local.data_ptr(), local.dtype, local.shape, local.stride(), value.shape)
        if local.numel() and memory in known:
            return known[memory]
        known[memory] = meta = torch.empty_strided(value.shape, _dense_stride(value), dtype=value.dtype, device="meta")
        has_part = isinstance(value, DTensor) and value.numel()
        if local.numel() if has_part else rank == 0:
            whole = local.resolve_conj().resolve_neg()
            pieces[name.removeprefix("/")] = Piece(whole.to("cpu", copy=True), offsets, value.shape)
        return meta

    return StateCopy(copied(state, ""), pieces)


def key_of(path: Path) -> str:
    """Return the name of a tensor in a checkpoint, from its path in the state.

    Example:
        >>> key_of(("optimizer", "state", 0, "exp_avg"))
        'optimizer/state/[0]/exp_avg'
    """
    return "/".join(map(_part, path))


def _part(key: Any) -> str:
    """Return the part of a tensor's name for a key or index: no two keys have the same."""
    return key.translate(ESCAPED) if isinstance(key, str) else f"[{key!r}]"


def bytes_of(tensor: Tensor) -> memoryview:
    """Return the memory of a contiguous tensor on the CPU, as bytes."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else memoryview(b"")


def is_plain(tensor: Tensor) -> bool:
    """Return whether a tensor is stored as its bytes."""
    if isinstance(tensor, DTensor):
        return is_plain(tensor.to_local())
    return type(tensor) in (Tensor, Parameter) and tensor.layout == torch.strided and not tensor.is_quantized


def _local(tensor: Tensor) -> tuple[Tensor, torch.Size]:
    """Return this worker's part of a tensor, and the offsets of the part in it."""
    if not isinstance(tensor, DTensor):
        return tensor, torch.Size([0] * tensor.dim())
    (chunk,) = tensor.__create_chunk_list__()  # type: ignore[no-untyped-call]
    return tensor.to_local(), chunk.offsets


def _dense_stride(tensor: Tensor) -> tuple[int, ...]:
    """Return the strides that torch gives a copy of a tensor: those of the tensor, if it has no gaps."""
    if isinstance(tensor, DTensor) or tensor.is_contiguous():
        return tensor.stride()
    return torch.empty_like(tensor, device="meta").stride()
