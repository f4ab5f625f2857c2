"""The scaling rules: from the ratio of batch sizes to the ratio of learning rates.

Every rule starts from the reference, never from a value that was scaled before. So a change of batch size and back
restores every number to the last bit, and a rule that is applied twice changes nothing. ``scaler.core.scale`` applies
a rule to the optimizer's constants too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from types import MappingProxyType
from typing import Literal

from scaler.core.nearest import did_you_mean
from scaler.core.noise_scale import gain
from scaler.core.optimizers import ADAPTIVE, ORTHOGONAL, names_where, optimizer_facts
from scaler.errors import PlanError

RULES = ("auto", "linear", "sqrt", "power", "adam_sde", "gain", "adascale", "legw", "none")

SOURCES: Mapping[str, str] = MappingProxyType(
    {
        "linear": "linear rule (Goyal et al. 2017)",
        "sqrt": "square-root rule (Krizhevsky 2014)",
        "power": "power rule",
        "adam_sde": "square root with betas and eps (Malladi et al. 2022)",
        "gain": "gain at a known noise scale (McCandlish et al. 2018)",
        "adascale": "gain measured in training (Johnson et al. 2020)",
        "legw": "square root, warmup epochs times the ratio (You et al. 2019)",
        "none": "no rule: the reference's learning rate at any batch",
    }
)

HORIZON_RULES = ("auto", "adam_sde")
HORIZON_SOURCE = "square root of the batch over the length of the training (Mlodozeniec et al. 2025)"

# For Adam and RMSprop the square root has a paper of its own. The papers on the gain are about SGD; AdaptDL
# takes the square root of the gain for optimizers that divide by a running root.
SOURCES_IF_ADAPTIVE: Mapping[str, str] = MappingProxyType(
    {
        "sqrt": "square-root rule (Malladi et al. 2022)",
        "gain": "experimental: square root of the gain (AdaptDL) at a known noise scale",
        "adascale": "experimental: square root of the gain of the preconditioned gradient (AdaptDL), measured in "
        "training",
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class CoScale:
    """What else is scaled with the learning rate: ``scale.co_scale`` of the job file.

    Args:
        weight_decay: hold the timescale of weight decay in samples.
        ema: hold the memory of the average of the weights (``train.ema``) in samples.
        momentum: with the rule ``none`` only: raise the momentum instead of the learning rate. This holds the timescale
            of weight decay too.
        beta2: ``half_life`` holds the half-life of the running mean of squares in samples; None: as in the reference.
    """

    weight_decay: bool = False
    ema: bool = False
    momentum: bool = False
    beta2: Literal["half_life"] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """A rule with its options, and what it scales besides the learning rate.

    Args:
        name: one of ``RULES``, but not ``auto``, which ``choose_rule`` resolves.
        exponent: ``power`` only: ``lr_ratio = batch_ratio ** exponent``.
        noise_scale: ``gain`` only: the gradient noise scale in samples, > 0; infinite is the linear rule.
        betas: ``adam_sde`` only: ``sde`` (the paper's ``1 - batch_ratio * (1 - beta)``) or ``power``
            (``beta ** batch_ratio``, equal to first order and defined for every ratio).
        horizon_ratio: ``adam_sde`` only: samples of the whole training over those of the reference's training. The rule
            follows the length of the training too: see ``kappa``. None: it follows the batch only.
        beta2_range: floor and ceiling of a scaled beta2 (RMSprop: alpha); None: no bounds.
        co_scale: what else is scaled.
    """

    name: str
    exponent: float | None = None
    noise_scale: float | None = None
    betas: str = "sde"
    horizon_ratio: float | None = None
    beta2_range: tuple[float, float] | None = None
    co_scale: CoScale = CoScale()

    def kappa(self, batch_ratio: float) -> float:
        """Return the ratio that the rule scales with: ``batch_ratio``, over ``horizon_ratio`` if the rule has one.

        With both, it is the share of the whole training that one step takes, over that share in the reference.
        """
        return batch_ratio if self.horizon_ratio is None else batch_ratio / self.horizon_ratio


def choose_rule(rule: str, *, optimizer: str, horizon: bool = False) -> tuple[str, str]:
    """Return the rule to use and why.

    ``auto`` chooses by the optimizer's family (``scaler.core.optimizers``): linear for the SGD family, whose step is
    proportional to the gradient; square root for optimizers that divide by a running root of its square, and for Muon;
    LEGW for LARS and LAMB; none for Prodigy, which finds its own step. Names are compared as a whole, and an optimizer
    whose family is not known, or not measured (Lion), is refused. The reason calls ``gain`` and ``adascale``
    experimental for adaptive optimizers.

    Args:
        rule: one of ``RULES``.
        optimizer: the optimizer's name in the job file, or its import path as ``module:Class``.
        horizon: whether the rule follows the length of the training too; ``auto`` is ``adam_sde`` then.

    Returns:
        ``(rule, reason)``.

    Raises:
        PlanError: an unknown rule; ``auto`` with an optimizer of no known family; ``horizon`` with another rule than
            ``auto`` and ``adam_sde``.

    Example:
        >>> choose_rule("auto", optimizer="adamw")
        ('sqrt', 'adamw: square-root rule (Malladi et al. 2022), chosen by auto for adaptive optimizers')
    """
    if rule not in RULES:
        raise not_a_rule(rule)
    if horizon:
        if rule not in HORIZON_RULES:
            raise no_horizon(rule)
        return "adam_sde", f"{optimizer}: {HORIZON_SOURCE}, chosen by scale.horizon"
    if rule != "auto":
        return rule, f"{optimizer}: {_source(rule, optimizer)}, as requested"
    facts = optimizer_facts(optimizer)
    family = facts.family
    if family is None or family.auto_rule is None:
        raise PlanError(
            f"scale.rule = auto has no rule for {optimizer}: {facts.no_auto}."
            if facts.no_auto
            else f"scale.rule = auto does not know the optimizer {optimizer}.",
            "Choose a rule for it: rule: linear, rule: sqrt or rule: none.",
        )
    chosen = family.auto_rule
    return chosen, f"{optimizer}: {_source(chosen, optimizer)}, chosen by auto for {family.text}"


def no_horizon(rule: str) -> PlanError:
    """Return the error for a rule that does not follow the length of the training."""
    return PlanError(
        f"scale.horizon = true scales AdamW's learning rate, weight decay, betas and eps together, and rule: {rule} "
        "gives another learning rate.",
        "Use rule: auto, or leave scale.horizon out.",
    )


def not_a_rule(word: str) -> PlanError:
    """Return the error for a rule that does not exist; it offers the nearest one."""
    return PlanError(f"scale.rule = {word} is not a rule.", f"{did_you_mean(word, RULES)}Rules: {', '.join(RULES)}.")


def _source(rule: str, optimizer: str) -> str:
    """Return what a rule is, with the paper that gives it for this optimizer."""
    facts = optimizer_facts(optimizer)
    if rule == "sqrt" and facts.family is ORTHOGONAL:
        return "square-root rule, by convergence bounds of steepest descent (Cesista 2025)"
    if facts.family is not ADAPTIVE:
        return SOURCES[rule]
    if rule == "sqrt" and not facts.has_running_squares:
        return "square-root rule, by analogy with Adam (Malladi et al. 2022)"
    return SOURCES_IF_ADAPTIVE.get(rule, SOURCES[rule])


def lr_ratio(rule: Rule, *, batch_ratio: float, reference_batch_size: int, optimizer: str) -> float:
    """Return the ratio of learning rates that the rule gives for ``batch_ratio`` (k); ``peak_lr = base_lr * lr_ratio``.

        linear: k                       sqrt, adam_sde, legw: k ** 0.5          power: k ** exponent
        adam_sde with a horizon: kappa ** 0.5, with kappa = k / horizon_ratio
        none: 1                         gain: k (phi + m0) / (phi + k m0); its square root for adaptive optimizers
        adascale: 1, because the gain is measured in training and multiplies the learning rate there

    A ratio below 1 scales down by the same formula; at 1 every rule gives 1.

    Args:
        rule: the rule with its options.
        batch_ratio: global batch size over the reference's, > 0.
        reference_batch_size: m0, samples per step in the reference.
        optimizer: its name; ``gain`` and ``adascale`` need a known family.

    Raises:
        PlanError: ``gain`` or ``adascale`` with an optimizer that is neither in the SGD family nor adaptive;
            ``adascale`` with an adaptive optimizer that keeps no running squares.

    Sources:
        linear: Goyal et al. 2017, https://arxiv.org/abs/1706.02677, section 2.1.
        sqrt: Krizhevsky 2014, https://arxiv.org/abs/1404.5997, for SGD; Malladi et al. 2022,
        https://arxiv.org/abs/2205.10287, for Adam and RMSprop; Cesista 2025,
        https://leloykun.github.io/ponder/steepest-descent-crit-bz/, for Muon, which is steepest descent under the
        spectral norm.
        adam_sde: Malladi et al. 2022, https://arxiv.org/abs/2205.10287; with a horizon Mlodozeniec et al. 2025,
        https://arxiv.org/abs/2512.22382.
        gain: McCandlish et al. 2018, https://arxiv.org/abs/1812.06162; the square root for Adam is that of
        AdaptDL's ``AdamScale``.
        legw: You et al. 2019, https://arxiv.org/abs/1901.08256.

    Example:
        >>> [lr_ratio(Rule(name=name), batch_ratio=16.0, reference_batch_size=16, optimizer="sgd")
        ...  for name in ("linear", "sqrt", "none")]
        [16.0, 4.0, 1.0]
        >>> round(lr_ratio(Rule(name="gain", noise_scale=240.0), batch_ratio=16.0, reference_batch_size=16,
        ...                optimizer="sgd"), 3)
        8.258
    """
    match rule.name:
        case "linear":
            return batch_ratio
        case "sqrt" | "adam_sde" | "legw":
            return sqrt(rule.kappa(batch_ratio))
        case "power":
            assert rule.exponent is not None
            return float(batch_ratio**rule.exponent)
        case "gain":
            assert rule.noise_scale is not None
            found = gain(batch_ratio, noise_scale=rule.noise_scale, reference_batch_size=reference_batch_size)
            return float(found ** gain_exponent(optimizer, rule=rule.name))
        case "adascale":
            gain_exponent(optimizer, rule=rule.name)
            return 1.0
        case "none":
            return 1.0
        case unknown:
            raise not_a_rule(unknown)


def gain_exponent(optimizer: str, *, rule: str) -> float:
    """Return the power of the gain that the learning rate is multiplied by.

    It is 1 for the SGD family and 0.5 for adaptive optimizers.

    Raises:
        PlanError: an optimizer of another family, for which no source says how the learning rate follows the gain;
            ``adascale`` with an adaptive optimizer that keeps no running squares to measure the gain with.

    Example:
        >>> [gain_exponent(name, rule="gain") for name in ("sgd", "adamw")]
        [1.0, 0.5]
    """
    facts = optimizer_facts(optimizer)
    if facts.family is None or facts.family.gain_exponent is None:
        known = names_where(lambda row: row.family is not None and row.family.gain_exponent is not None)
        raise PlanError(
            f"scale.rule = {rule}: it is not known how {optimizer} follows the gain.",
            f"It is known for {known}; for others use rule: power.",
        )
    if rule == "adascale" and not facts.can_measure_gain:
        raise PlanError(
            f"scale.rule = adascale finds no running squares in {optimizer}.",
            f"It is for {names_where(lambda row: row.can_measure_gain)}; for others use rule: sqrt.",
        )
    return facts.family.gain_exponent
