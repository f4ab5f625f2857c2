"""The optimizer as the plan says it."""

import importlib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from scaler.errors import JobFileError

_BY_NAME: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
}


def build_optimizer(parameters: Iterable[nn.Parameter], options: Mapping[str, Any]) -> torch.optim.Optimizer:
    """Return the optimizer of a plan.

    Args:
        parameters: what it trains.
        options: ``plan.optimizer``: ``name``, ``lr`` and the optimizer's own keys.

    Raises:
        JobFileError: there is no such optimizer, or it does not take these keys.
    """
    keys = dict(options)
    name = str(keys.pop("name"))
    make = _BY_NAME[name] if name in _BY_NAME else _imported(name)
    if isinstance(keys.get("betas"), list):  # JSON and YAML have no tuples
        keys["betas"] = tuple(keys["betas"])
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    try:
        inspect.signature(make).bind(trained, **keys)
        return make(trained, **keys)
    except (TypeError, ValueError) as error:
        raise JobFileError(f"reference.optimizer: {name} refuses its keys: {error}.", f"They are {keys}.") from None


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Write the rate of the next step into every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def used_lr(optimizer: torch.optim.Optimizer, *, planned: float) -> float:
    """Return the rate that the optimizer has: of its parameter groups', the one farthest from ``planned``."""
    return max((float(group["lr"]) for group in optimizer.param_groups), key=lambda lr: abs(lr - planned))


def _imported(path: str) -> type[torch.optim.Optimizer]:
    module_name, _, class_name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name, None)
    except ImportError as error:
        raise JobFileError(
            f"reference.optimizer: {path} cannot be imported: {error}.", "Install it, or mend the name."
        ) from None
    if not (isinstance(found, type) and issubclass(found, torch.optim.Optimizer)):
        raise JobFileError(
            f"reference.optimizer: {path} is not a torch optimizer.", "Use torch.optim:NAdam or the like."
        )
    return found
