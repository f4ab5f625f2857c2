"""Write learning rate, momentum and constants into a torch optimizer, for whole and for short steps."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import log
from typing import Any

import torch
from torch import Tensor

from scaler.core.optimizers import optimizer_facts
from scaler.plan import Phase, PlanGroup

Optimizer = torch.optim.Optimizer


def set_lr(optimizer: Optimizer, lr: float, *, momentum: float | None = None) -> None:
    """Write the learning rate of the next step into every parameter group, and the momentum if the schedule moves it.

    Each group's learning rate is ``lr`` times its own ``lr_ratio``. ``momentum`` is the first beta of Adam-like
    optimizers.
    """
    for group in optimizer.param_groups:
        set_group_lr(group, lr * group.get("lr_ratio", 1.0), momentum=momentum)


def set_group_lr(group: dict[str, Any], lr: float, *, momentum: float | None = None) -> None:
    """Write a learning rate, and a momentum unless None, into one parameter group. A tensor keeps its identity."""
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
    """Return a group's learning rate divided by its ``lr_ratio``; of all groups, the value farthest from ``planned``.

    A group with ratio 0 counts as ``planned`` if its learning rate is 0.
    """
    found = [
        float(group["lr"]) / ratio if (ratio := group.get("lr_ratio", 1.0)) else planned + float(group["lr"])
        for group in optimizer.param_groups
    ]
    return max(found, key=lambda lr: abs(lr - planned))


def set_constants(
    optimizer: Optimizer, phase: Phase, groups: Sequence[PlanGroup], *, cycles_momentum: bool = False
) -> None:
    """Write a phase's constants (betas, eps, weight decay, ...) into every group, after a load or a change of batch.

    With ``cycles_momentum`` the schedule moves the first beta. This function does not change it then: ``set_lr`` writes
    it before each step.
    """
    constants = own_constants(phase.optimizer)
    own = [group.weight_decay for group in groups] or [None] * len(optimizer.param_groups)
    # The first beta places schedule-free's training point: leave that point with the old beta, enter it with the new.
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
    """Write constants into one parameter group, and convert the running averages to the new decays.

    Adam divides an average by ``1 - beta ** step``, the total weight of its gradients. When the betas change, one step
    count cannot be right for both averages. The step count becomes the number of steps after which the new decay has
    forgotten as much as the old one, ``beta2_new ** new = beta2_old ** old``. This leaves the corrected average of
    squares unchanged. The average of gradients is then scaled so that its corrected value is unchanged too:

        exp_avg <- exp_avg * (1 - beta1_new ** new) / (1 - beta1_old ** old)

    So each average continues from its value, and the weights of its gradients sum to 1 in every later step.
    """
    before, after = decay_of_steps(optimizer, group), decay_of_steps(optimizer, {**group, **constants})
    first_before, first_after = _corrected_first(optimizer, group), _corrected_first(optimizer, {**group, **constants})
    group.update(constants)
    is_recounted = before != after and all(decay is not None and 0.0 < decay < 1.0 for decay in (before, after))
    if not is_recounted and first_before == first_after:
        return
    states = [optimizer.state.get(parameter, {}) for parameter in group["params"]]
    for state in (*states, group):  # schedule-free AdamW stores its step count in the group
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
    """Let the optimizer take one step, inside a ``with`` block, with a learning rate and the constants of ``step``.

    A whole step uses its phase's constants. The constants of a short step are written before it and replaced by the
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
    """Let SGD's momentum, a sum of gradients, take one step that counts as a share of a whole one.

        a whole step:              u <- m u + g                       w <- w - lr u
        with share s, at lr':      u <- m**s u + (lr' / lr) g         w <- w - lr m (1 - m**s) / (1 - m) u - lr' g

    So every gradient moves the weights by ``lr' / (1 - m)`` times itself in total, with the learning rate of its own
    step. What is left of earlier gradients moves the weights for a share of a step. With ``s = 1`` both lines are the
    same. When a short step took a whole step of momentum instead, training near the largest stable learning rate failed
    (docs/decisions/0025).

    Args:
        optimizer: its next step has the learning rate of the short step.
        name: of the optimizer; only one that sums gradients is changed.
        ratio: learning rate of a whole step over that of this one, ``lr / lr'``.
        share: samples of this step over those of a whole one, in (0, 1].
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
    """Switch an optimizer with two points (schedule-free) to its training or evaluation point; others have one."""
    switch = getattr(optimizer, "train" if training else "eval", None)
    if switch is not None:
        switch()


def decay_of_steps(optimizer: Optimizer, constants: Mapping[str, Any]) -> float | None:
    """Return the decay that the step count corrects: Adam's second beta, Adamax's first, RMSprop's alpha, or None."""
    which = (
        0 if isinstance(optimizer, torch.optim.Adamax) else 1
    )  # its second average is a maximum, which is not corrected
    decay = constants["betas"][which] if "betas" in constants else constants.get("alpha")
    return None if decay is None else float(decay)


def _corrected_first(optimizer: Optimizer, constants: Mapping[str, Any]) -> float | None:
    """Return the decay of the average of gradients if the optimizer corrects this average by the step count, else None.

    NAdam corrects it by a product of decays that it stores. The optimizers of pytorch_optimizer that a job can name do
    not correct it.
    """
    if not isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW | torch.optim.RAdam | torch.optim.SparseAdam):
        return None
    return float(constants["betas"][0])


def own_constants(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the optimizer's own keys of a job; pairs become tuples, which JSON and YAML lack."""
    keys = {key: value for key, value in options.items() if key not in ("name", "lr")}
    if isinstance(keys.get("betas"), list):
        keys["betas"] = tuple(keys["betas"])
    return keys
