"""What is known of optimizers by name: their kin, their class, and their own defaults."""

from collections.abc import Mapping
from re import split
from types import MappingProxyType
from typing import Any

from scaler.core.nearest import did_you_mean, nearest

SGD_FAMILY = ("sgd", "schedulefree_sgd", "torch.optim:SGD", "torch.optim:ASGD")
ADAM_FAMILY = ("adam", "adamw", "schedulefree_adamw", "torch.optim:Adam", "torch.optim:AdamW", "torch.optim:NAdam",
               "torch.optim:RAdam", "torch.optim:Adamax")  # fmt: skip
RMSPROP = ("rmsprop", "torch.optim:RMSprop")
ADAPTIVE = (*ADAM_FAMILY, *RMSPROP, "torch.optim:Adagrad")
WITHOUT_RUNNING_SQUARES = ("torch.optim:Adagrad", "torch.optim:Adamax")  # of the adaptive ones
LAYERWISE = ("lars", "lamb")
SELF_TUNED = ("prodigy",)
# Whose weight decay shrinks weights by lr * weight_decay a step, so that a timescale can be held (core/timescales.py).
DECOUPLED_DECAY = ("adamw", "lion", "schedulefree_adamw", "torch.optim:AdamW", "torch.optim:Muon")
COUPLED_DECAY = ("sgd", "torch.optim:SGD")
DECAY_BY_RATE = (*COUPLED_DECAY, *DECOUPLED_DECAY)
NO_SDE = ("schedulefree_adamw", "torch.optim:Adamax")  # of Adam's kin, with betas that mean something else
WITH_MOMENTUM = ("sgd", "torch.optim:SGD")

# Constants that are decays of running averages, which weigh a gradient by 1 - decay. Not here: schedule-free, whose
# first beta places a point between two others, and prodigy, whose averages find its learning rate.
AVERAGES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {name: ("betas",) for name in (*ADAM_FAMILY, "lamb", "lion") if not name.startswith("schedulefree")}
    | dict.fromkeys(RMSPROP, ("alpha",))
    | {"torch.optim:Adadelta": ("rho",), "torch.optim:Muon": ("momentum",)}
)
# Whose momentum adds gradients up, each with the weight 1, in the state ``momentum_buffer``.
SUMS_GRADIENTS = ("sgd", "lars", "torch.optim:SGD", *RMSPROP)

# What a job names in one word -> its class. Those that torch lacks are in the extra ``scaler[optimizers]``.
OPTIMIZER_CLASSES: Mapping[str, str] = MappingProxyType(
    {
        "sgd": "torch.optim:SGD",
        "adam": "torch.optim:Adam",
        "adamw": "torch.optim:AdamW",
        "rmsprop": "torch.optim:RMSprop",
        "lars": "pytorch_optimizer:LARS",
        "lamb": "pytorch_optimizer:Lamb",
        "lion": "pytorch_optimizer:Lion",
        "prodigy": "pytorch_optimizer:Prodigy",
        "schedulefree_sgd": "pytorch_optimizer:ScheduleFreeSGD",
        "schedulefree_adamw": "pytorch_optimizer:ScheduleFreeAdamW",
    }
)

# Options of the optimizers that a job names in one word, with their own defaults (a test compares them).
OPTIMIZER_OPTIONS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "sgd": {"momentum": 0, "dampening": 0, "weight_decay": 0, "nesterov": False},
        "adam": {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "amsgrad": False},
        "adamw": {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-2, "amsgrad": False},
        "rmsprop": {"alpha": 0.99, "eps": 1e-8, "weight_decay": 0, "momentum": 0, "centered": False},
        "lars": {"momentum": 0.9, "weight_decay": 0, "trust_coefficient": 1e-3, "nesterov": False},
        # Weight decay inside the trust ratio, as published (You et al. 2020). The library does not correct moments for
        # their start, which the trust ratio cancels but beside weight decay; adam_debias: nor does it raise the rate.
        "lamb": {
            "betas": (0.9, 0.999),
            "eps": 1e-6,
            "weight_decay": 0,
            "weight_decouple": False,
            "adam_debias": True,
        },
        "lion": {"betas": (0.9, 0.99), "weight_decay": 0},
        "prodigy": {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "d0": 1e-6, "d_coef": 1.0},
        "schedulefree_sgd": {"momentum": 0.9, "weight_decay": 0},
        "schedulefree_adamw": {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0},
    }
)


def optimizer_hint(name: str) -> str:
    """Return ``Did you mean "sgd"? `` for a name that is not an optimizer's, or nothing where none is near.

    Example:
        >>> [optimizer_hint(name) for name in ("SGD", "torch.optim.NAdam", "abc")]
        ['Did you mean "sgd"? ', 'Did you mean "torch.optim:NAdam"? ', '']
    """
    paths = [path for path in (*SGD_FAMILY, *ADAM_FAMILY, *RMSPROP, *ADAPTIVE) if ":" in path]
    known = {name: name for name in OPTIMIZER_OPTIONS} | {path.rpartition(":")[2]: path for path in paths}
    near = nearest(split("[.:]", name)[-1], known)
    return f'Did you mean "{known[near]}"? ' if near is not None else ""


def option_hint(option: str, *, optimizer: str) -> str:
    """Return ``Did you mean "momentum"? `` for an option that the optimizer does not take, or nothing.

    Example:
        >>> option_hint("momentun", optimizer="sgd"), option_hint("foo", optimizer="sgd")
        ('Did you mean "momentum"? ', '')
    """
    return did_you_mean(option, OPTIMIZER_OPTIONS.get(optimizer, ()))
