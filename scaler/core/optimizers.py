"""What scaler knows about each optimizer, as a table. To add an optimizer, add a row to ``_TABLE``."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from re import split
from types import MappingProxyType
from typing import Any, Literal

from scaler.core.nearest import did_you_mean, nearest

_TORCH = "torch.optim:"


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """Optimizers whose learning rate follows the batch size in the same way.

    Args:
        text: the family's name in messages.
        auto_rule: the rule that ``scale.rule: auto`` chooses for it; None: no rule held for it, and it is refused.
        gain_exponent: the learning rate is multiplied by the gain to this power (rules ``gain`` and ``adascale``);
            None: no source says how it follows the gain, and these rules are refused.
    """

    text: str
    auto_rule: str | None
    gain_exponent: float | None = None


# The step is proportional to the gradient.
SGD_FAMILY = Family(text="the SGD family", auto_rule="linear", gain_exponent=1.0)
# The step is the gradient divided by the root of a running mean of its square.
ADAPTIVE = Family(text="adaptive optimizers", auto_rule="sqrt", gain_exponent=0.5)
# Each layer has a learning rate of its own: the ratio of the norms of its weights and of its step.
LAYERWISE = Family(text="layer-wise learning rates", auto_rule="legw")
# The step is the gradient's nearest orthogonal matrix: its size does not depend on that of the gradient.
ORTHOGONAL = Family(text="optimizers that orthogonalize the step", auto_rule="sqrt")
# The step is the sign of an average of gradients: its size does not depend on that of the gradient.
SIGN = Family(text="sign methods", auto_rule=None)
# The optimizer estimates its learning rate in training.
SELF_TUNED = Family(text="optimizers that find their own step", auto_rule="none")


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerFacts:
    """One row of the table: what scaler knows about one optimizer. The defaults are those of an unknown optimizer.

    Args:
        name: its name in the job file: one word, or ``module:Class``.
        path: the class, as ``module:Class``.
        options: the options that a job may give, with the optimizer's own defaults (a test compares them with the
            class); None: scaler does not know them, and any option of the class is accepted.
        family: how its learning rate follows the batch size; None: unknown, and ``rule: auto`` is refused.
        weight_decay: how weight decay shrinks a weight: ``decoupled`` (``w <- w - lr * weight_decay * w``),
            ``coupled`` (added to the gradient, and the step is proportional to it) or ``by_option`` (decoupled if the
            option ``decoupled_weight_decay`` is set). None: ``lr`` and ``weight_decay`` alone do not tell how fast.
        averages: options that are decays of running averages: one step of a running average weighs its gradient by
            ``1 - decay``.
        sde_constant: the option whose decays ``rule: adam_sde`` scales; None: the rule is refused.
        has_running_squares: whether it keeps a running mean of squared gradients, which ``rule: adascale`` needs of an
            adaptive optimizer.
        sums_gradients: whether momentum adds gradients up, each with the weight 1, in the state ``momentum_buffer``.
        scales_momentum: whether ``scale.co_scale.momentum`` applies to it (holds its noise).
        has_momentum: whether it has a momentum that a schedule can cycle; True also where only the class can tell.
        averages_weights: whether the optimizer averages the weights itself (schedule-free); its momentum or first beta
            is the share of this average in the weights that are trained.
        takes_matrices: whether it trains parameters with two dimensions only, and needs another optimizer beside it.
        no_auto: why ``rule: auto`` chooses nothing for it, as the end of a sentence; empty: it chooses by the family.
        state_tensors: tensors of the size of a weight that it keeps for each, besides momentum that adds gradients up
            and those of the options ``amsgrad`` and ``centered``; None: not known, or not of this size.
        works_sharded: whether its step on sharded weights (``strategy: fsdp``) is that on whole weights; True also for
            an unknown class.
    """

    name: str
    path: str
    options: Mapping[str, Any] | None = None
    family: Family | None = None
    weight_decay: Literal["decoupled", "coupled", "by_option"] | None = None
    averages: tuple[str, ...] = ()
    sde_constant: str | None = None
    has_running_squares: bool = False
    sums_gradients: bool = False
    scales_momentum: bool = False
    has_momentum: bool = True
    averages_weights: bool = False
    takes_matrices: bool = False
    no_auto: str = ""
    state_tensors: int | None = None
    works_sharded: bool = True

    @property
    def defaults(self) -> Mapping[str, Any]:
        """The defaults of the options that scaler knows."""
        return self.options or {}

    def states(self, options: Mapping[str, Any]) -> int | None:
        """Return how many tensors of its size the optimizer keeps for each weight; None: not known.

        Example:
            >>> optimizer_facts("adamw").states({"amsgrad": True}), optimizer_facts("sgd").states({"momentum": 0.9})
            (3, 1)
        """
        if self.state_tensors is None:
            return None
        names = ("amsgrad", "centered", *(["momentum"] if self.sums_gradients else []))
        return self.state_tensors + sum(bool(options.get(name)) for name in names)

    @property
    def can_measure_gain(self) -> bool:
        """Whether ``rule: adascale`` can measure the gain, of the gradient or of the preconditioned gradient."""
        return self.family is SGD_FAMILY or self.has_running_squares


_TABLE = (
    OptimizerFacts(
        name="sgd",
        path="torch.optim:SGD",
        options={"momentum": 0, "dampening": 0, "weight_decay": 0, "nesterov": False},
        family=SGD_FAMILY,
        weight_decay="coupled",
        sums_gradients=True,
        scales_momentum=True,
        state_tensors=0,
    ),
    OptimizerFacts(
        name="adam",
        path="torch.optim:Adam",
        options={"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "amsgrad": False},
        family=ADAPTIVE,
        weight_decay="by_option",
        averages=("betas",),
        sde_constant="betas",
        has_running_squares=True,
        state_tensors=2,
    ),
    OptimizerFacts(
        name="adamw",
        path="torch.optim:AdamW",
        options={"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-2, "amsgrad": False},
        family=ADAPTIVE,
        weight_decay="decoupled",
        averages=("betas",),
        sde_constant="betas",
        has_running_squares=True,
        state_tensors=2,
    ),
    OptimizerFacts(
        name="rmsprop",
        path="torch.optim:RMSprop",
        options={"alpha": 0.99, "eps": 1e-8, "weight_decay": 0, "momentum": 0, "centered": False},
        family=ADAPTIVE,
        averages=("alpha",),
        sde_constant="alpha",
        has_running_squares=True,
        sums_gradients=True,
        state_tensors=1,
    ),
    OptimizerFacts(
        name="muon",
        path="torch.optim:Muon",
        # adjust_lr_fn: original (also None) multiplies the learning rate by sqrt(max(1, rows / columns)),
        # match_rms_adamw by 0.2 sqrt(max(rows, columns)).
        options={
            "weight_decay": 0.1,
            "momentum": 0.95,
            "nesterov": True,
            "ns_coefficients": (3.4445, -4.775, 2.0315),
            "eps": 1e-7,
            "ns_steps": 5,
            "adjust_lr_fn": None,
        },
        family=ORTHOGONAL,
        weight_decay="decoupled",
        averages=("momentum",),
        takes_matrices=True,
        state_tensors=1,
    ),
    OptimizerFacts(
        name="lars",
        path="pytorch_optimizer:LARS",
        options={"momentum": 0.9, "weight_decay": 0, "trust_coefficient": 1e-3, "nesterov": False},
        family=LAYERWISE,
        sums_gradients=True,
        works_sharded=False,
        state_tensors=0,
    ),
    OptimizerFacts(
        name="lamb",
        path="pytorch_optimizer:Lamb",
        # As published (You et al. 2020), weight decay is inside the trust ratio. The library does not correct the bias
        # of the moments at the start; the trust ratio cancels this bias, except where weight decay is added. With
        # adam_debias the library does not raise the learning rate to correct the bias either.
        options={
            "betas": (0.9, 0.999),
            "eps": 1e-6,
            "weight_decay": 0,
            "weight_decouple": False,
            "adam_debias": True,
        },
        family=LAYERWISE,
        averages=("betas",),
        works_sharded=False,
        state_tensors=2,
    ),
    OptimizerFacts(
        name="lion",
        path="pytorch_optimizer:Lion",
        options={"betas": (0.9, 0.99), "weight_decay": 0},
        family=SIGN,
        weight_decay="decoupled",
        averages=("betas",),
        no_auto="sqrt, linear and none all lost at 8 times the batch, linear the least (docs/rules-experiments.md)",
        state_tensors=1,
    ),
    OptimizerFacts(
        name="prodigy",  # its averages estimate its learning rate: they are not in ``averages``
        path="pytorch_optimizer:Prodigy",
        options={"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "d0": 1e-6, "d_coef": 1.0},
        family=SELF_TUNED,
        works_sharded=False,
        state_tensors=4,
    ),
    OptimizerFacts(
        name="schedulefree_sgd",
        path="pytorch_optimizer:ScheduleFreeSGD",
        options={"momentum": 0.9, "weight_decay": 0},
        family=SGD_FAMILY,
        averages_weights=True,
        state_tensors=1,
    ),
    OptimizerFacts(
        name="schedulefree_adamw",  # its first beta places a point between two others: it is not in ``averages``
        path="pytorch_optimizer:ScheduleFreeAdamW",
        options={"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0},
        family=ADAPTIVE,
        weight_decay="decoupled",
        has_running_squares=True,
        averages_weights=True,
        state_tensors=2,
    ),
    # Optimizers that a job names by their class: any option of the class is accepted.
    OptimizerFacts(
        name="torch.optim:ASGD", path="torch.optim:ASGD", family=SGD_FAMILY, has_momentum=False, state_tensors=1
    ),
    OptimizerFacts(
        name="torch.optim:NAdam",
        path="torch.optim:NAdam",
        family=ADAPTIVE,
        weight_decay="by_option",
        averages=("betas",),
        sde_constant="betas",
        has_running_squares=True,
        state_tensors=2,
    ),
    OptimizerFacts(
        name="torch.optim:RAdam",
        path="torch.optim:RAdam",
        family=ADAPTIVE,
        weight_decay="by_option",
        averages=("betas",),
        sde_constant="betas",
        has_running_squares=True,
        state_tensors=2,
    ),
    OptimizerFacts(
        name="torch.optim:Adamax",  # its second beta is the decay of a maximum, not of a mean
        path="torch.optim:Adamax",
        family=ADAPTIVE,
        weight_decay="by_option",
        averages=("betas",),
        state_tensors=2,
    ),
    OptimizerFacts(
        name="torch.optim:Adagrad", path="torch.optim:Adagrad", family=ADAPTIVE, has_momentum=False, state_tensors=1
    ),
    OptimizerFacts(
        name="torch.optim:Adadelta",
        path="torch.optim:Adadelta",
        averages=("rho",),
        has_momentum=False,
        no_auto="the size of its step comes from its earlier steps, and no source says how it follows the batch",
        state_tensors=2,
    ),
    OptimizerFacts(
        name="torch.optim:SparseAdam",  # Adam that leaves rows without a gradient as they are
        path="torch.optim:SparseAdam",
        family=ADAPTIVE,
        averages=("betas",),
        works_sharded=False,
        state_tensors=2,
    ),
    OptimizerFacts(
        name="torch.optim:Adafactor",
        path="torch.optim:Adafactor",
        has_momentum=False,
        no_auto="its step is min(lr, 1 / sqrt(steps)) times the size of the weights, which counts steps, not samples",
        works_sharded=False,
    ),
    OptimizerFacts(
        name="torch.optim:Rprop",
        path="torch.optim:Rprop",
        has_momentum=False,
        no_auto="it compares the signs of two gradients in a row, which must be those of all samples, not of a batch",
        works_sharded=False,
        state_tensors=2,
    ),
    OptimizerFacts(
        name="torch.optim:LBFGS",
        path="torch.optim:LBFGS",
        has_momentum=False,
        no_auto="it measures the curvature along its steps, which needs the gradient of all samples, not of a batch",
        works_sharded=False,
    ),
)

OPTIMIZERS: Mapping[str, OptimizerFacts] = MappingProxyType({row.name: row for row in _TABLE})
# The optimizers that a job names in one word. Those that torch lacks are in the extra ``scaler[optimizers]``.
NAMED_OPTIMIZERS: Mapping[str, OptimizerFacts] = MappingProxyType(
    {row.name: row for row in _TABLE if row.options is not None}
)
_BY_PATH = {row.path: replace(row, name=row.path, options=None) for row in _TABLE}


def optimizer_facts(name: str) -> OptimizerFacts:
    """Return the row of an optimizer; an optimizer that is not in the table gets the defaults of ``OptimizerFacts``.

    A class has the same facts under its one-word name and under its path. Under its path, any option is accepted and no
    default is known.

    Args:
        name: its name in the job file, or ``module:Class``. Names are compared as a whole.

    Example:
        >>> [optimizer_facts(name).weight_decay for name in ("adamw", "torch.optim:AdamW", "my_pkg:Mine")]
        ['decoupled', 'decoupled', None]
    """
    found = OPTIMIZERS.get(name) or _BY_PATH.get(name)
    return found if found is not None else OptimizerFacts(name=name, path=name)


def names_where(holds: Callable[[OptimizerFacts], bool]) -> str:
    """Return the one-word names of the optimizers for which ``holds`` is true, as a message lists them.

    Example:
        >>> names_where(lambda facts: facts.sde_constant is not None)
        'adam, adamw and rmsprop'
    """
    *others, last = [name for name, facts in NAMED_OPTIMIZERS.items() if holds(facts)]
    return f"{', '.join(others)} and {last}" if others else last


def optimizer_hint(name: str) -> str:
    """Return ``Did you mean "sgd"? `` for a name that is not an optimizer's, or nothing if no name is near.

    Example:
        >>> [optimizer_hint(name) for name in ("SGD", "torch.optim.NAdam", "abc")]
        ['Did you mean "sgd"? ', 'Did you mean "torch.optim:NAdam"? ', '']
    """
    torch_classes = {row.path.removeprefix(_TORCH): row.path for row in _TABLE if _TORCH in row.path}
    known = {name: name for name in NAMED_OPTIMIZERS} | torch_classes
    near = nearest(split("[.:]", name)[-1], known)
    return f'Did you mean "{known[near]}"? ' if near is not None else ""


def option_hint(option: str, *, optimizer: str) -> str:
    """Return ``Did you mean "momentum"? `` for an option that the optimizer does not take, or nothing.

    Example:
        >>> option_hint("momentun", optimizer="sgd"), option_hint("foo", optimizer="sgd")
        ('Did you mean "momentum"? ', '')
    """
    return did_you_mean(option, optimizer_facts(optimizer).defaults)
