"""When a worker with a sharded model waits for the others inside forward and backward.

A slow worker makes every worker slow: the others wait for it where weights are gathered and gradients are summed. Only
without these waits does the time of a step say which worker is slow.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.utils.hooks import RemovableHandle

from scaler.training.clock import Clock, Mark

Hook = TypeVar("Hook", bound=Callable[..., None])


def _not_compiled(hook: Hook) -> Hook:
    """Return a hook that ``torch.compile`` calls and does not compile."""
    disabled: Hook = torch.compiler.disable(hook)  # type: ignore[no-untyped-call]
    return disabled


class Waits:
    """Marks the begin and the end of each wait for gathered weights, and on the CPU for summed gradients.

    On a GPU the marks are points in its work, and sums run beside backward. A hook of ours stands before and after each
    hook with which torch gathers a block's weights.

    Args:
        blocks: the sharded modules.
        clock: of the device.
        device: of this worker.
    """

    def __init__(self, blocks: Sequence[FSDPModule], clock: Clock, *, device: torch.device) -> None:
        self._clock = clock
        self._found: list[tuple[Mark, Mark]] = []
        self._began: Mark | None = None
        self._hooks: list[RemovableHandle] = []
        for block in blocks:
            assert isinstance(block, nn.Module)
            self._hooks += [
                block.register_forward_pre_hook(self._begin_before_forward, prepend=True),
                block.register_forward_pre_hook(self._end),
                block.register_forward_hook(self._begin_before_backward, prepend=True),
                block.register_forward_hook(self._end_before_backward),
            ]
            if device.type == "cpu":
                block.set_custom_reduce_scatter(_TimedReduceScatter(self))  # type: ignore[arg-type]  # its base is private

    def take(self) -> tuple[tuple[Mark, Mark], ...]:
        """Return the waits since the last call."""
        found, self._found, self._began = self._found, [], None
        return tuple(found)

    def close(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()

    @_not_compiled
    def _begin_before_forward(self, *_: Any) -> None:
        if torch.is_grad_enabled():  # no evaluation
            self._began = self._clock.mark()

    @_not_compiled
    def _begin(self, *_: Any) -> None:
        self._began = self._clock.mark()

    @_not_compiled
    def _end(self, *_: Any) -> None:
        if self._began is not None:
            self._found.append((self._began, self._clock.mark()))
            self._began = None

    @_not_compiled
    def _begin_before_backward(self, _: nn.Module, __: Any, output: Any) -> None:
        for tensor in _with_gradient(output):
            tensor.register_hook(self._begin)  # type: ignore[no-untyped-call]

    @_not_compiled
    def _end_before_backward(self, _: nn.Module, __: Any, output: Any) -> None:
        for tensor in _with_gradient(output):
            tensor.register_hook(self._end)  # type: ignore[no-untyped-call]


class _TimedReduceScatter:
    """The reduce-scatter that torch uses too, with a mark before and after it."""

    def __init__(self, waits: Waits) -> None:
        self._waits = waits

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, op: Any, async_op: bool = False
    ) -> dist.Work | None:
        self._waits._begin()
        work: dist.Work | None = dist.reduce_scatter_single(
            output=output_tensor, input=input_tensor, group=group, op=op, async_op=async_op
        )
        self._waits._end()
        return work


def _with_gradient(output: Any) -> Iterator[Tensor]:
    """Yield the tensors in a module's output through which backward goes."""
    if isinstance(output, Tensor):
        if output.requires_grad:
            yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from _with_gradient(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _with_gradient(value)
