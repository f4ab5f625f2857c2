"""How many samples an optimizer remembers, through its weight decay, its momentum and its running averages.

A rule that holds a timescale holds it in samples, not in steps. The timescales are defined here once: for the rules
that hold them, for the plan's warnings, and for the tests that simulate them.
"""

from collections.abc import Mapping
from math import inf, log
from typing import Any, Literal

from scaler.core.optimizers import optimizer_facts

DecayForm = Literal["decoupled", "coupled"]


def decay_form(optimizer: str, constants: Mapping[str, Any]) -> DecayForm | None:
    """Return how an optimizer's weight decay shrinks a weight whose gradient is 0; None: its speed is not known.

        decoupled: w <- w - lr * weight_decay * w, beside the gradient's step (AdamW, Lion, Muon)
        coupled:   the gradient is increased by weight_decay * w, and momentum averages it (SGD)

    Adam, RMSprop and Adagrad divide a coupled decay by the gradient's size, LARS and LAMB divide it by the norm, and
    Prodigy multiplies it by a step that it estimates: for these, lr and weight_decay alone do not tell how fast weights
    shrink.

    Args:
        optimizer: its name in the job file, or ``module:Class``.
        constants: its options; ``decoupled_weight_decay`` (torch), and ``weight_decouple`` and ``fixed_decay`` (Lion of
            pytorch_optimizer), decide where they are given.

    Example:
        >>> [decay_form(name, {}) for name in ("adamw", "sgd", "adam")]
        ['decoupled', 'coupled', None]
        >>> decay_form("torch.optim:NAdam", {"decoupled_weight_decay": True})
        'decoupled'
    """
    match optimizer_facts(optimizer).weight_decay:
        case "coupled":
            return "coupled"
        case "decoupled":
            by_lr = constants.get("weight_decouple", True) and not constants.get("fixed_decay", False)
            return "decoupled" if by_lr else None
        case "by_option" if constants.get("decoupled_weight_decay", False):
            return "decoupled"
    return None


def weight_decay_timescale(
    optimizer: str, *, constants: Mapping[str, Any], lr: float, global_batch_size: float
) -> float | None:
    """Return over how many samples weight decay alone shrinks a weight to 1/e of itself.

        decoupled: batch / (lr * weight_decay)
        coupled:   batch * (1 - momentum) / (lr * weight_decay * (1 - dampening))

    Both are exact to first order in ``batch / timescale``, and hold once momentum has built up.

    Args:
        optimizer: its name in the job file, or ``module:Class``.
        constants: its options: ``weight_decay``; with a coupled decay also ``momentum`` and ``dampening``. A missing
            option counts as 0.
        lr: the learning rate, > 0.
        global_batch_size: samples per optimizer step.

    Returns:
        Samples; infinite without weight decay; None for an optimizer whose decay has no timescale (``decay_form``).

    Sources:
        Wang and Aitchison 2024, https://arxiv.org/abs/2405.13698, for AdamW.

    Example:
        >>> weight_decay_timescale("adamw", constants={"weight_decay": 0.1}, lr=1e-3, global_batch_size=64)
        640000.0
        >>> sgd = {"weight_decay": 1e-3, "momentum": 0.9}
        >>> round(weight_decay_timescale("sgd", constants=sgd, lr=0.1, global_batch_size=16))
        16000
    """
    form = decay_form(optimizer, constants)
    if form is None:
        return None
    per_step = lr * constants.get("weight_decay", 0.0)
    if form == "coupled":
        per_step *= step_gain(constants)
    return float(global_batch_size / per_step) if per_step else inf


def step_gain(constants: Mapping[str, Any]) -> float:
    """Return SGD's step divided by ``lr * gradient``, once momentum has built up under a constant gradient.

        (1 - dampening) / (1 - momentum); 1 without momentum, where torch ignores the dampening

    Example:
        >>> [round(step_gain({"momentum": momentum}), 6) for momentum in (0.0, 0.9)]
        [1.0, 10.0]
    """
    momentum = constants.get("momentum", 0.0)
    return float((1.0 - constants.get("dampening", 0.0)) / (1.0 - momentum)) if momentum else 1.0


def average_memory(beta: float, *, global_batch_size: float) -> float:
    """Return after how many samples 1/e of a running average is left, when each step keeps ``beta`` of it.

    Example:
        >>> [round(average_memory(beta, global_batch_size=64)) for beta in (0.0, 0.9, 0.999)]
        [0, 607, 63968]
    """
    return global_batch_size / -log(beta) if beta > 0.0 else 0.0
