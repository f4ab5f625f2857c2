"""Gather rows of all workers into one tensor, with gradients, for losses that compare the samples of a batch."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from scaler.errors import RecipeError

MOST_DIMS = 8


@dataclass(kw_only=True)
class GatherScope:
    """How ``all_gather`` behaves inside a ``with`` block, and whether it was called there."""

    is_alone: bool = False  # each worker uses only its own rows
    has_samples: bool = True  # False: the sample that this worker's model ran on does not count
    micro_batches: int = 1
    was_called: bool = False


_current: GatherScope | None = None


def all_gather(tensor: Tensor) -> Tensor:
    """Return the rows of every worker's ``tensor``, in the order of the ranks.

    A loss that compares the samples of a batch (SimCLR, CLIP) becomes the loss of the whole step when it compares
    gathered rows. Compute it from the gathered rows only, the same way on every worker. The step's gradient is then the
    gradient of one worker on the whole batch: each row's gradient is summed over the workers. Call the function equally
    often on every worker.

    On one worker, and in evaluations, it returns the tensor itself. A worker with an empty share of a short step adds
    no rows.

    Args:
        tensor: ``(rows, ...)``; workers may have different numbers of rows, including none.

    Returns:
        ``(rows of all workers, ...)``.

    Raises:
        RecipeError: the tensor has no dimensions; workers differ in shape or dtype; or the step has several
            micro-batches, so that its rows are never in memory together.

    Example:
        >>> all_gather(torch.tensor([1.0, 2.0]))
        tensor([1., 2.])
    """
    if tensor.ndim == 0:
        raise RecipeError(
            "scaler.all_gather was given a tensor without dimensions.", "Give it one row for each sample."
        )
    calls = _current
    if calls is not None:
        calls.was_called = True
        if calls.micro_batches > 1:
            raise several_micro_batches(calls.micro_batches)
        if calls.is_alone:
            return tensor
        if not calls.has_samples:
            tensor = tensor[:0]
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return tensor
    gathered: Tensor = _AllGather.apply(tensor)  # type: ignore[no-untyped-call]
    return gathered


def several_micro_batches(count: int) -> RecipeError:
    """Return the error for a loss over the global batch whose step has several micro-batches."""
    return RecipeError(
        f"the loss is over the global batch, and a step has {count} micro-batches on a worker: their samples are never "
        "compared with each other.",
        "Use scale.grad_accum_steps: 1 and a per_worker_batch_size of at least a worker's share of the step.",
    )


@contextmanager
def gathering(*, is_alone: bool = False, has_samples: bool = True, micro_batches: int = 1) -> Iterator[GatherScope]:
    """Set how ``all_gather`` behaves inside a ``with`` block.

    Args:
        is_alone: every worker uses its own rows only, and nothing is sent.
        has_samples: whether this worker's share of the step has any samples.
        micro_batches: forward/backwards of the step on this worker.
    """
    global _current
    before, _current = _current, GatherScope(is_alone=is_alone, has_samples=has_samples, micro_batches=micro_batches)
    try:
        yield _current
    finally:
        _current = before


class _AllGather(torch.autograd.Function):
    """The rows of all workers; backward sums the gradients that the workers have for them."""

    @staticmethod
    def forward(context: Any, tensor: Tensor) -> Tensor:
        rows = _rows_of_each(tensor)
        context.rows, context.rank = rows, dist.get_rank()
        return torch.cat(_gathered(tensor, rows))

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> Tensor:
        wide = gradient.dtype in (torch.float16, torch.bfloat16)  # sum over workers in float32
        total = gradient.float() if wide else gradient.clone()
        total = total.contiguous()
        dist.all_reduce(torch.view_as_real(total) if total.is_complex() else total)
        start = sum(context.rows[: context.rank])
        return total[start : start + context.rows[context.rank]].to(gradient.dtype)


def _rows_of_each(tensor: Tensor) -> list[int]:
    """Return how many rows each worker has; raises an error on every worker if the tensors do not fit together."""
    if tensor.ndim > MOST_DIMS:
        raise RecipeError(
            f"scaler.all_gather was given a tensor of {tensor.ndim} dimensions.", f"It takes up to {MOST_DIMS}."
        )
    mine = [tensor.ndim, _DTYPES.index(tensor.dtype), *tensor.shape, *[0] * (MOST_DIMS - tensor.ndim)]
    sent = torch.tensor(mine, device=tensor.device)
    received = [torch.empty_like(sent) for _ in range(dist.get_world_size())]
    dist.all_gather(received, sent)
    heads = [head.tolist() for head in received]
    shapes = [tuple(head[2 : 2 + head[0]]) for head in heads]
    if len({shape[1:] for shape in shapes}) > 1:
        raise RecipeError(
            f"scaler.all_gather: workers hold tensors of shapes {', '.join(str(shape) for shape in shapes)}.",
            "They may differ in the first dimension only.",
        )
    if len({head[1] for head in heads}) > 1:
        held = ", ".join(str(_DTYPES[head[1]]).removeprefix("torch.") for head in heads)
        raise RecipeError(f"scaler.all_gather: workers hold tensors of dtypes {held}.", "They must be the same.")
    return [shape[0] for shape in shapes]


def _gathered(tensor: Tensor, rows: list[int]) -> list[Tensor]:
    """Return each worker's rows. They are sent as bytes, padded to the most rows: every backend supports bytes."""
    most = max(rows)
    size = tensor.shape[1:].numel() * tensor.element_size()
    if most * size == 0:
        return [tensor.new_empty((count, *tensor.shape[1:])) for count in rows]
    sent = torch.zeros(most * size, dtype=torch.uint8, device=tensor.device)
    if tensor.numel():
        sent[: len(tensor) * size] = tensor.detach().contiguous().view(-1).view(torch.uint8)
    received = [torch.empty_like(sent) for _ in rows]
    dist.all_gather(received, sent)
    return [
        part[: count * size].view(tensor.dtype).view(count, *tensor.shape[1:])
        for part, count in zip(received, rows, strict=True)
    ]


_DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
]  # fmt: skip
