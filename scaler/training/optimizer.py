"""The optimizer as the plan says it: built, and written to before each step."""

import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import inf, log
from typing import Any

import torch
from torch import Tensor, nn

from scaler.core.optimizers import NAMED_OPTIMIZERS, SELF_TUNED, optimizer_facts
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
        JobFileError: there is no such optimizer, it does not take these keys, or has one rate for all groups.
    """
    name, keys = str(options["name"]), _constants(options)
    make: Any = optimizer_class(name)
    if name not in NAMED_OPTIMIZERS:  # the job checks the keys of those
        _require_named(make, ("lr", *keys), name=name)
    if optimizer_facts(name).family is SELF_TUNED and any(group.lr_ratio != 1.0 for group in groups):
        raise JobFileError(
            f"groups and layer_decay give parameters a lr_ratio, and {name} has one rate for all.",
            "Leave lr_ratio and layer_decay out, or use another optimizer.",
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
            f"reference.optimizer: {name} refuses its keys: {error}.",
            f"They are {dict(lr=options['lr'], **keys)}.",
        ) from None


def optimizer_class(name: str) -> type[Optimizer]:
    """Return the class of an optimizer's name in a job, or of ``module:Class``.

    Raises:
        JobFileError: it cannot be imported, or is not a torch optimizer.
    """
    path = optimizer_facts(name).path
    module_name, _, class_name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name, None)
    except ImportError as error:
        extra = "pip install scaler[optimizers]." if name in NAMED_OPTIMIZERS else "Install it, or mend the name."
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
        set_group_rate(group, lr * group.get("lr_ratio", 1.0), momentum=momentum)


def set_group_rate(group: dict[str, Any], lr: float, *, momentum: float | None = None) -> None:
    """Write a rate, and a momentum unless None, into one parameter group; a rate that is a tensor stays one."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(lr)
    else:
        group["lr"] = lr
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


def set_constants(
    optimizer: Optimizer, phase: Phase, groups: Sequence[PlanGroup], *, cycles_momentum: bool = False
) -> None:
    """Write a phase's constants (betas, eps, weight decay, ...) into every group, after a load or a change of batch.

    With ``cycles_momentum``, the schedule moves the first beta: it stays, for ``set_rate`` writes it before each step.
    """
    constants = _constants(phase.optimizer)
    own = [group.weight_decay for group in groups] or [None] * len(optimizer.param_groups)
    # Schedule-free's training point lies between its two others by the first beta: move it by the old, then the new.
    moves = any(group.get("betas") != constants.get("betas", group.get("betas")) for group in optimizer.param_groups)
    if moves:
        set_mode(optimizer, training=False)
    for group, weight_decay in zip(optimizer.param_groups, own, strict=True):
        decay = {} if weight_decay is None else {"weight_decay": weight_decay * phase.weight_decay_ratio}
        first = (
            {"betas": (group["betas"][0], constants["betas"][1])} if cycles_momentum and "betas" in constants else {}
        )
        set_group_constants(optimizer, group, {**constants, **decay, **first})
    if moves:
        set_mode(optimizer, training=True)


def set_group_constants(optimizer: Optimizer, group: dict[str, Any], constants: Mapping[str, Any]) -> None:
    """Write constants into one parameter group, and let running averages continue from what they stand for.

    Adam divides an average by ``1 - beta ** step``, the weight of all gradients in it. When betas change, one count of
    steps cannot be right for both averages. The count is changed to as many steps of the new decay as forget what the
    old ones forgot, ``beta2_new ** new = beta2_old ** old``, which leaves the corrected average of squares as it was.
    The average of gradients is then multiplied by what leaves its corrected value as it was:

        exp_avg <- exp_avg * (1 - beta1_new ** new) / (1 - beta1_old ** old)

    So each average continues from its value, and its gradients' weights sum to 1 in every later step.
    """
    before, after = _memory(optimizer, group), _memory(optimizer, {**group, **constants})
    first_before, first_after = _corrected_first(optimizer, group), _corrected_first(optimizer, {**group, **constants})
    group.update(constants)
    is_recounted = before != after and all(decay is not None and 0.0 < decay < 1.0 for decay in (before, after))
    if not is_recounted and first_before == first_after:
        return
    states = [optimizer.state.get(parameter, {}) for parameter in group["params"]]
    for state in (*states, group):  # schedule-free AdamW counts in the group
        if "step" not in state:
            continue
        old = float(state["step"])
        if is_recounted:
            assert before is not None
            assert after is not None
            state["step"] = state["step"] * (log(before) / log(after))
        new = float(state["step"])
        if first_before is not None and first_after is not None and "exp_avg" in state and old > 0.0:
            state["exp_avg"].mul_((1.0 - first_after**new) / (1.0 - first_before**old))


@contextmanager
def step_of(
    optimizer: Optimizer,
    step: Phase,
    phase: Phase,
    groups: Sequence[PlanGroup],
    *,
    lr: float,
    momentum: float | None,
    cycles_momentum: bool,
) -> Iterator[None]:
    """Let the optimizer take one step with a learning rate and the constants of ``step``.

    A step of a whole batch has its phase's constants. Those of a short one are written before it and replaced by the
    phase's after it, and momentum moves the weights for its share of a step: see ``short_momentum``.
    """
    if step is phase:
        set_rate(optimizer, lr, momentum=momentum)
        yield
        return
    set_constants(optimizer, step, groups, cycles_momentum=cycles_momentum)
    set_rate(optimizer, lr, momentum=momentum)
    with short_momentum(
        optimizer,
        name=phase.optimizer["name"],
        ratio=phase.lr_ratio / step.lr_ratio,
        share=step.global_batch_size / phase.global_batch_size,
    ):
        yield
    set_constants(optimizer, phase, groups, cycles_momentum=cycles_momentum)


@contextmanager
def short_momentum(optimizer: Optimizer, *, name: str, ratio: float, share: float) -> Iterator[None]:
    """Let momentum that adds gradients up (SGD's) take one step for its share of a whole one.

        a whole step:            u <- m u + g                       w <- w - lr u
        of the share s, at lr':  u <- m**s u + (lr' / lr) g         w <- w - lr m (1 - m**s) / (1 - m) u - lr' g

    So every gradient moves the weights by ``lr' / (1 - m)`` times itself in all, with the learning rate of its own
    step, and what is left of earlier ones moves them for the share of a step, not for a whole one. With ``s = 1`` both
    are the same. Where a whole step of momentum was taken instead, training near the largest stable learning rate
    broke (docs/decisions/0025).

    Args:
        optimizer: about to step, at the learning rate of the short step.
        name: of the optimizer; one that does not sum gradients is left alone.
        ratio: of the learning rates of a whole step and of this one, ``lr / lr'``.
        share: of the samples of a whole step, in (0, 1].
    """
    if not optimizer_facts(name).sums_gradients:
        yield
        return
    before: list[tuple[Tensor, Tensor, float]] = []
    with torch.no_grad():
        for group in optimizer.param_groups:
            m = float(group.get("momentum", 0.0))
            for parameter in group["params"] if m else ():
                buffer = optimizer.state.get(parameter, {}).get("momentum_buffer")
                if isinstance(buffer, Tensor):
                    before.append((buffer, buffer.clone(), (m**share - m) / (1.0 - m)))
                    buffer.mul_(ratio * (1.0 - m**share) / (1.0 - m))
    yield
    with torch.no_grad():
        for state in optimizer.state.values():
            if isinstance(buffer := state.get("momentum_buffer"), Tensor):
                buffer.div_(ratio)
        for buffer, old, left in before:
            buffer.add_(old, alpha=left)


def set_mode(optimizer: Optimizer, *, training: bool) -> None:
    """Tell an optimizer that keeps two points (schedule-free) which one the model shall hold; others have one."""
    switch = getattr(optimizer, "train" if training else "eval", None)
    if switch is not None:
        switch()


def require_momentum(optimizer: Optimizer, *, name: str) -> None:
    """Refuse a cycle of momentum where a parameter group has none.

    Raises:
        JobFileError: a group has neither ``betas`` nor ``momentum``.
    """
    if not all("betas" in group or "momentum" in group for group in optimizer.param_groups):
        raise JobFileError(
            f"schedule.low_momentum moves a momentum, and {name} has none.",
            "Leave out low_momentum and high_momentum, or use another optimizer.",
        )


def require_one_point(optimizer: Optimizer, *, name: str) -> None:
    """Refuse an average of the weights where the optimizer keeps one: what it trains at is not what it has learnt.

    Raises:
        JobFileError: the optimizer has two points (schedule-free).
    """
    if hasattr(optimizer, "train") and hasattr(optimizer, "eval"):
        raise JobFileError(
            f"train.ema averages the weights, and {name} does so itself: in training it holds another point.",
            "Leave out train.ema; evaluations and checkpoints have the optimizer's own average.",
        )


class Preconditioner:
    """Divides gradients as Adam and RMSprop will: by the root of their running squares.

        squares = beta2 * v + (1 - beta2) * mean(v) / (1 - beta2 ** t)     and with Adam, / (1 - beta2 ** (t + 1))

    with ``v`` the running squares after ``t`` steps, and the mean over the parameter. The optimizer itself has this
    step's squared gradient where the mean stands, which bounds what it makes of a coordinate that was dead (a ReLU's):
    here the mean of the parameter's squares does, for one divisor must serve every part of the step and the whole, or
    the estimates are biased. It is known before the step, and on every worker the same. Without it, one coordinate that
    wakes outweighs all others for good; and so do the first steps, whose ``v`` is that of a gradient or two.

    Args:
        optimizer: keeps ``exp_avg_sq`` or ``square_avg``.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}

    def is_ready(self) -> bool:
        """Whether the optimizer has taken a step."""
        return len(self._optimizer.state) > 0

    def __call__(self, parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return what the gradients become; the gradients stay as they are.

        Those of parameters that have not taken a step yet, just unfrozen, are left out; of those that had no gradient
        but 0 so far, nothing remains.
        """
        return [
            gradient / (self._squares(parameter, state).sqrt() + self._groups[id(parameter)]["eps"])
            for parameter, gradient in zip(parameters, gradients, strict=True)
            if (state := self._optimizer.state.get(parameter))
        ]

    def _squares(self, parameter: nn.Parameter, state: Mapping[str, Any]) -> Tensor:
        group = self._groups[id(parameter)]
        found = state.get("exp_avg_sq", state.get("square_avg"))
        decay = _memory(self._optimizer, group)
        if not isinstance(found, Tensor) or decay is None:
            raise JobFileError(
                f"scale.rule = adascale finds no running squares in {type(self._optimizer).__name__}.",
                "It is for sgd, adam, adamw and rmsprop.",
            )
        steps = float(state["step"] if "step" in state else group["step"])
        usual = found.mean() / (1.0 - decay**steps)
        usual = usual.where(usual > 0.0, inf)  # of all 0, nothing can be said
        squares: Tensor = decay * found + (1.0 - decay) * usual
        return squares / (1.0 - decay ** (steps + 1.0)) if "exp_avg_sq" in state else squares


def _require_named(make: Any, keys: Sequence[str], *, name: str) -> None:
    """Refuse keys that are not parameters of the class by name: some classes swallow all others in ``**kwargs``."""
    parameters = list(inspect.signature(make).parameters.values())[1:]
    known = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for key in keys:
        if key not in known:
            raise JobFileError(
                f'reference.optimizer has the key "{key}", which {name} does not take.', f"It takes {', '.join(known)}."
            )


def _memory(optimizer: Optimizer, constants: Mapping[str, Any]) -> float | None:
    """The decay that the count of steps belongs to: Adam's second beta, Adamax's first, RMSprop's alpha."""
    which = 0 if isinstance(optimizer, torch.optim.Adamax) else 1  # whose second average is a maximum, not corrected
    decay = constants["betas"][which] if "betas" in constants else constants.get("alpha")
    return None if decay is None else float(decay)


def _corrected_first(optimizer: Optimizer, constants: Mapping[str, Any]) -> float | None:
    """The decay of an average of gradients that the optimizer corrects by the count of steps, too; None: it has none.

    NAdam corrects by a product of decays that it keeps, and the optimizers of pytorch_optimizer that a job names not
    at all.
    """
    if not isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW | torch.optim.RAdam | torch.optim.SparseAdam):
        return None
    return float(constants["betas"][0])


def _constants(options: Mapping[str, Any]) -> dict[str, Any]:
    """The optimizer's own keys; JSON and YAML have no tuples."""
    keys = {key: value for key, value in options.items() if key not in ("name", "lr")}
    if isinstance(keys.get("betas"), list):
        keys["betas"] = tuple(keys["betas"])
    return keys
