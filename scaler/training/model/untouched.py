"""Run a model before the training begins, and restore everything afterwards."""

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from scaler.training.model.sharding import shard_again
from scaler.training.randomness import random_state, set_random_state

_KEPT = ("_state_dict_pre_hooks", "_load_state_dict_pre_hooks")  # torch adds its own in the first forward of a shard


@contextmanager
def untouched(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Restore what a ``with`` block changes in a model and in the random numbers.

    Restored are weights, buffers, gradients, modes and other attributes of every module, and the random states of
    torch, numpy and Python. State that a recipe keeps outside its model is not restored. Until the block ends, a copy
    of this worker's weights exists: as much memory as the gradients of a step need.

    Args:
        model: not wrapped; it may be sharded.
        device: its random state is restored too, beside the CPU's.
    """
    random_numbers = random_state(device)
    modules = list(model.modules())
    attributes = [_attributes(module) for module in modules]
    tensors = [*model.parameters(), *model.buffers()]
    held = [(tensor, tensor._version, tensor.detach().clone(), tensor.grad) for tensor in tensors]
    gradients = [None if grad is None else grad.detach().clone() for *_, grad in held]
    try:
        yield
    finally:
        shard_again(model)
        for module, before in zip(modules, attributes, strict=True):
            _put_back(module, before)
        with torch.no_grad():
            for (tensor, version, value, grad), gradient in zip(held, gradients, strict=True):
                if tensor._version != version:
                    tensor.copy_(value)
                tensor.grad = grad
                if grad is not None and gradient is not None:
                    grad.copy_(gradient)
        set_random_state(random_numbers, device)


def _attributes(module: nn.Module) -> dict[str, tuple[Any, Any]]:
    """Return each attribute of a module, with a copy of its value if the value can change in place."""
    return {name: (value, _copied(value)) for name, value in vars(module).items() if name not in _KEPT}


def _copied(value: object) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict | list | set | deque):  # a module keeps parameters, buffers and submodules in dicts
        return value.copy()
    return None


def _put_back(module: nn.Module, before: Mapping[str, tuple[Any, Any]]) -> None:
    now = vars(module)
    for name in now.keys() - before.keys() - set(_KEPT):
        del now[name]
    for name, (value, copy) in before.items():
        now[name] = value
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            with torch.no_grad():
                value.copy_(copy)
        elif isinstance(value, dict | set):
            value.clear()
            value.update(copy)
        elif isinstance(value, list | deque):
            value.clear()
            value.extend(copy)
