"""The optimizer as the plan says it: built, and written to before each step."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import log
from typing import Any

import torch
from torch import Tensor

from scaler.core.optimizers import SUMS_GRADIENTS
from scaler.plan import Phase, PlanGroup

Optimizer = torch.optim.Optimizer


def set_lr(optimizer: Optimizer, lr: float, *, momentum: float | None = None) -> None:
    """Write the rate of the next step into every parameter group, and the momentum where the schedule moves it.

    A group's own ``lr_ratio`` multiplies the rate. ``momentum`` is Adam's first beta where there are betas.
    """
    for group in optimizer.param_groups:
        set_group_lr(group, lr * group.get("lr_ratio", 1.0), momentum=momentum)


def set_group_lr(group: dict[str, Any], lr: float, *, momentum: float | None = None) -> None:
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


def used_lr(optimizer: Optimizer, *, planned: float) -> float:
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
    constants = own_constants(phase.optimizer)
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
    before, after = decay_of_steps(optimizer, group), decay_of_steps(optimizer, {**group, **constants})
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
def step_settings(
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
        set_lr(optimizer, lr, momentum=momentum)
        yield
        return
    set_constants(optimizer, step, groups, cycles_momentum=cycles_momentum)
    set_lr(optimizer, lr, momentum=momentum)
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
        name: of the optimizer; others than ``SUMS_GRADIENTS`` are left alone.
        ratio: of the learning rates of a whole step and of this one, ``lr / lr'``.
        share: of the samples of a whole step, in (0, 1].
    """
    if name not in SUMS_GRADIENTS:
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


def decay_of_steps(optimizer: Optimizer, constants: Mapping[str, Any]) -> float | None:
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


def own_constants(options: Mapping[str, Any]) -> dict[str, Any]:
    """The optimizer's own keys; JSON and YAML have no tuples."""
    keys = {key: value for key, value in options.items() if key not in ("name", "lr")}
    if isinstance(keys.get("betas"), list):
        keys["betas"] = tuple(keys["betas"])
    return keys
