"""The optimizer as the plan says it: built, and written to before each step."""

import importlib
import inspect
from collections.abc import Mapping, Sequence
from math import log
from typing import Any

import torch
from torch import Tensor, nn

from scaler.core.rules import OPTIMIZER_CLASSES
from scaler.errors import JobFileError
from scaler.plan import Phase, PlanGroup

Optimizer = torch.optim.Optimizer


def build_optimizer(
    parameters: Mapping[str, nn.Parameter], options: Mapping[str, Any], *, groups: Sequence[PlanGroup] = ()
) -> Optimizer:
    """Return the optimizer of a plan.

    Args:
        parameters: name -> parameter, of the whole model. Those that do not require a gradient are left out, unless a
            group names them: a frozen group is there for when it is unfrozen.
        options: ``Phase.optimizer``: ``name``, ``lr`` and the optimizer's own keys.
        groups: the plan's; none: all parameters alike.

    Raises:
        JobFileError: there is no such optimizer, or it does not take these keys.
    """
    keys = _constants(options)
    make: Any = optimizer_class(str(options["name"]))
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
            f"reference.optimizer: {options['name']} refuses its keys: {error}.",
            f"They are {dict(lr=options['lr'], **keys)}.",
        ) from None


def optimizer_class(name: str) -> type[Optimizer]:
    """Return the class of an optimizer's name in a job, or of ``module:Class``.

    Raises:
        JobFileError: it cannot be imported, or is not a torch optimizer.
    """
    path = OPTIMIZER_CLASSES.get(name, name)
    module_name, _, class_name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name, None)
    except ImportError as error:
        extra = "pip install scaler[optimizers]." if name in OPTIMIZER_CLASSES else "Install it, or mend the name."
        raise JobFileError(f"reference.optimizer: {name} cannot be imported: {error}.", extra) from None
    if not (isinstance(found, type) and issubclass(found, Optimizer)):
        raise JobFileError(
            f"reference.optimizer: {name} is not a torch optimizer.", "Use torch.optim:NAdam or the like."
        )
    return found


def set_rate(optimizer: Optimizer, lr: float, *, momentum: float | None = None) -> None:
    """Write the rate of the next step into every parameter group, and the momentum where the schedule moves it.

    A group's own ``lr_ratio`` multiplies the rate. ``momentum`` is Adam's first beta where there are betas.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_ratio", 1.0)
        if momentum is not None:
            if "betas" in group:
                group["betas"] = (momentum, *group["betas"][1:])
            else:
                group["momentum"] = momentum


def used_rate(optimizer: Optimizer, *, planned: float) -> float:
    """Return the rate that the optimizer has, as of a group of ratio 1: of all groups', that farthest from ``planned``.

    A group of ratio 0 counts as the planned rate if its rate is 0.
    """
    rates = [
        float(group["lr"]) / ratio if (ratio := group.get("lr_ratio", 1.0)) else planned + float(group["lr"])
        for group in optimizer.param_groups
    ]
    return max(rates, key=lambda lr: abs(lr - planned))


def set_constants(optimizer: Optimizer, phase: Phase, groups: Sequence[PlanGroup]) -> None:
    """Write a phase's constants (betas, eps, weight decay, ...) into every group, after a load or a change of batch.

    Where an average's decay changes, the optimizer's count of steps, from which Adam corrects its averages' start, is
    changed to as many steps of the new decay as forget what the old ones forgot: ``beta_new ** new = beta_old ** old``.
    """
    constants = _constants(phase.optimizer)
    own = [group.weight_decay for group in groups] or [None] * len(optimizer.param_groups)
    for group, weight_decay in zip(optimizer.param_groups, own, strict=True):
        before, after = _memory(group), _memory(constants)
        group.update(constants)
        if weight_decay is not None:
            group["weight_decay"] = weight_decay * phase.weight_decay_ratio
        if before is not None and after is not None and before != after and 0.0 < before < 1.0 and 0.0 < after < 1.0:
            for parameter in group["params"]:
                state = optimizer.state.get(parameter, {})
                if "step" in state:
                    state["step"] = state["step"] * (log(before) / log(after))


def set_mode(optimizer: Optimizer, *, training: bool) -> None:
    """Tell an optimizer that keeps two points (schedule-free) which one the model shall hold; others have one."""
    switch = getattr(optimizer, "train" if training else "eval", None)
    if switch is not None:
        switch()


class Preconditioner:
    """Divides gradients as Adam and RMSprop will: by the root of their running squares.

    The running squares are those before the step, on every worker the same.

    Args:
        optimizer: keeps ``exp_avg_sq`` or ``square_avg``.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._eps = {id(p): float(group["eps"]) for group in optimizer.param_groups for p in group["params"]}

    def is_ready(self) -> bool:
        """Whether the optimizer has taken a step."""
        return len(self._optimizer.state) > 0

    def __call__(self, parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return what the gradients become; the gradients stay as they are."""
        return [
            gradient / (self._squares(parameter).sqrt() + self._eps[id(parameter)])
            for parameter, gradient in zip(parameters, gradients, strict=True)
        ]

    def _squares(self, parameter: nn.Parameter) -> Tensor:
        state = self._optimizer.state[parameter]
        found = state.get("exp_avg_sq", state.get("square_avg"))
        if not isinstance(found, Tensor):
            raise JobFileError(
                f"scale.rule = adascale finds no running squares in {type(self._optimizer).__name__}.",
                "It is for sgd, adam, adamw and rmsprop.",
            )
        return found


def _memory(constants: Mapping[str, Any]) -> float | None:
    """The decay of the longest average: Adam's second beta, RMSprop's alpha."""
    decay = constants["betas"][1] if "betas" in constants else constants.get("alpha")
    return None if decay is None else float(decay)


def _constants(options: Mapping[str, Any]) -> dict[str, Any]:
    """The optimizer's own keys; JSON and YAML have no tuples."""
    keys = {key: value for key, value in options.items() if key not in ("name", "lr")}
    if isinstance(keys.get("betas"), list):
        keys["betas"] = tuple(keys["betas"])
    return keys
