"""Keep a model's buffers (BatchNorm's statistics, for example) the same on every worker."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

CHUNK_BYTES = 250 * 2**20  # of one broadcast, as in DDP
_PLAIN = {
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int8, torch.uint8,
    torch.bool,
}  # fmt: skip


class Buffers:
    """Gives every worker rank 0's buffers before each step, as ``DistributedDataParallel`` does.

    Collectives do not support sparse and quantized buffers; only ``broadcast_all`` sends those.

    Args:
        model: not wrapped.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._slots = [(module._buffers, name) for module in model.modules() for name in module._buffers]

    def broadcast(self) -> None:
        """Give every worker rank 0's dense buffers; a collective if the model has buffers."""
        if self._slots:
            _broadcast([buffer for buffers, name in self._slots if (buffer := buffers.get(name)) is not None])

    def broadcast_all(self) -> None:
        """Give every worker rank 0's buffers of all kinds."""
        broadcast_tensors(list(self._model.buffers()))


@torch.no_grad()
def broadcast_tensors(tensors: Sequence[Tensor]) -> None:
    """Overwrite tensors with rank 0's; a collective."""
    _broadcast(tensors)
    others = [tensor for tensor in tensors if not _is_plain(tensor)]
    if not others:
        return
    sent = [tensor.detach().cpu() for tensor in others] if dist.get_rank() == 0 else [None] * len(others)
    dist.broadcast_object_list(sent, 0)
    for tensor, theirs in zip(others, sent, strict=True):
        assert theirs is not None
        tensor.data = theirs.to(tensor.device)


def _broadcast(tensors: Sequence[Tensor]) -> None:
    plain = [tensor.detach() for tensor in tensors if _is_plain(tensor)]
    if plain:
        group = dist.group.WORLD
        assert group is not None
        dist._broadcast_coalesced(group, plain, CHUNK_BYTES, 0)  # type: ignore[attr-defined]


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and tensor.dtype in _PLAIN and not tensor.is_quantized
