"""Build the optimizer of a plan."""

import importlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from scaler.core.optimizers import NAMED_OPTIMIZERS, SELF_TUNED, optimizer_facts
from scaler.errors import JobFileError
from scaler.plan import PlanGroup
from scaler.training.optimizer.settings import Optimizer, own_constants


def build_optimizer(
    parameters: Mapping[str, nn.Parameter], options: Mapping[str, Any], *, groups: Sequence[PlanGroup] = ()
) -> Optimizer:
    """Return the optimizer of a plan.

    Args:
        parameters: name -> parameter, of the whole model. Parameters that do not require a gradient are left out,
            unless a group names them: a frozen group is in the optimizer because it may be unfrozen later.
        options: ``Phase.optimizer``: ``name``, ``lr`` and the optimizer's own keys.
        groups: the plan's; empty: all parameters are one group.

    Raises:
        JobFileError: the optimizer does not exist, does not take these keys, or has one learning rate for all groups.
    """
    name, keys = str(options["name"]), own_constants(options)
    make: Any = optimizer_class(name)
    if name not in NAMED_OPTIMIZERS:  # the job file has checked the keys of the known ones
        _require_named(make, ("lr", *keys), name=name)
    if optimizer_facts(name).family is SELF_TUNED and any(group.lr_ratio != 1.0 for group in groups):
        raise JobFileError(
            f"groups and layer_decay give parameters a lr_ratio, but {name} has one learning rate for all.",
            "Leave lr_ratio and layer_decay out, or use another optimizer.",
        )
    others = [key for key, parameter in parameters.items() if parameter.requires_grad and parameter.ndim != 2]
    if optimizer_facts(name).takes_matrices and others:
        raise JobFileError(
            f"{name} trains matrices only, and {others[0]} has another shape: {list(parameters[others[0]].shape)}.",
            "Train it with another optimizer: reference.optimizer.fallback, or one of the recipe's optimizers.",
        )
    if groups:
        trained: Any = [
            {"params": [parameters[name] for name in group.tensors], "lr_ratio": group.lr_ratio} for group in groups
        ]
    else:
        trained = [parameter for parameter in parameters.values() if parameter.requires_grad]
    try:
        inspect.signature(make).bind(trained, lr=options["lr"], **keys)
        made: Optimizer = make(trained, lr=options["lr"], **keys)
        return made
    except (TypeError, ValueError) as error:
        raise JobFileError(
            f"reference.optimizer: {name} does not take its keys: {error}.",
            f"They are {dict(lr=options['lr'], **keys)}.",
        ) from None


def optimizer_class(name: str) -> type[Optimizer]:
    """Return the class for an optimizer's name in a job, or for ``module:Class``.

    Raises:
        JobFileError: the class cannot be imported, or is not a torch optimizer.
    """
    path = optimizer_facts(name).path
    module_name, _, class_name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name, None)
    except ImportError as error:
        extra = "pip install scaler[optimizers]." if name in NAMED_OPTIMIZERS else "Install it, or correct the name."
        raise JobFileError(f"reference.optimizer: {name} cannot be imported: {error}.", extra) from None
    if not (isinstance(found, type) and issubclass(found, Optimizer)):
        raise JobFileError(
            f"reference.optimizer: {name} is not a torch optimizer.", "Use torch.optim:NAdam or the like."
        )
    return found


def require_momentum(optimizer: Optimizer, *, name: str) -> None:
    """Raise an error if the schedule moves the momentum, but a parameter group has none.

    Raises:
        JobFileError: a group has neither ``betas`` nor ``momentum``.
    """
    if not all("betas" in group or "momentum" in group for group in optimizer.param_groups):
        raise JobFileError(
            f"schedule.low_momentum moves the momentum, but {name} has none.",
            "Leave out low_momentum and high_momentum, or use another optimizer.",
        )


def require_one_point(optimizer: Optimizer, *, name: str) -> None:
    """Raise an error if ``train.ema`` is set, but the optimizer keeps two points (schedule-free).

    Such an optimizer averages the weights itself: the weights in training are not the ones to evaluate.

    Raises:
        JobFileError: the optimizer has two points.
    """
    if hasattr(optimizer, "train") and hasattr(optimizer, "eval"):
        raise JobFileError(
            f"train.ema averages the weights, but {name} already averages them itself.",
            "Leave out train.ema; evaluations and checkpoints use the optimizer's own average.",
        )


def _require_named(make: Any, keys: Sequence[str], *, name: str) -> None:
    """Raise an error for keys that are not named parameters of the class; some classes accept any ``**kwargs``."""
    parameters = list(inspect.signature(make).parameters.values())[1:]
    known = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for key in keys:
        if key not in known:
            raise JobFileError(
                f'reference.optimizer has the key "{key}", which {name} does not take.', f"It takes {', '.join(known)}."
            )
