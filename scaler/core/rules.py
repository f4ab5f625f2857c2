"""From the ratio of batch sizes to the learning rate and the optimizer's constants.

Every rule starts from the reference and a ratio; none starts from what another ratio made. So 1 -> k -> 1 gives every
constant back to the last bit, and calling a rule twice changes nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil, floor, isinf, sqrt
from types import MappingProxyType
from typing import Any

from scaler.core.nearest import did_you_mean
from scaler.core.noise_scale import gain
from scaler.core.optimizers import (
    ADAM_FAMILY,
    ADAPTIVE,
    LAYERWISE,
    NO_SDE,
    RMSPROP,
    SELF_TUNED,
    SGD_FAMILY,
    WITH_MOMENTUM,
    WITHOUT_RUNNING_SQUARES,
)
from scaler.core.timescales import decay_form, weight_decay_timescale
from scaler.errors import PlanError

RULES = ("auto", "linear", "sqrt", "power", "adam_sde", "gain", "adascale", "legw", "none")

MOST_DECAY = 0.1  # of the weights, in one step: beyond it weight decay is no longer proportional to the step's samples
NO_MEMORY = 1.0 - 1e-9  # 10 * (1 - 0.9) is 1, and a float makes it a little less

SOURCES: Mapping[str, str] = MappingProxyType(
    {
        "linear": "linear rule (Goyal et al. 2017)",
        "sqrt": "square-root rule (Krizhevsky 2014)",
        "power": "power rule",
        "adam_sde": "square root with betas and eps (Malladi et al. 2022)",
        "gain": "gain at a known noise scale (McCandlish et al. 2018)",
        "adascale": "gain measured in training (Johnson et al. 2020)",
        "legw": "square root, warmup epochs times the ratio (You et al. 2019)",
        "none": "no rule: the reference rate at any batch",
    }
)

# The square root has a paper of its own for Adam and RMSprop. The gain's papers are of SGD; its square root for
# optimizers that divide by a root is AdaptDL's.
SOURCES_IF_ADAPTIVE: Mapping[str, str] = MappingProxyType(
    {
        "sqrt": "square-root rule (Malladi et al. 2022)",
        "gain": "experimental: square root of the gain (AdaptDL) at a known noise scale",
        "adascale": "experimental: square root of the gain of the preconditioned gradient (AdaptDL), measured in "
        "training",
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """A rule and what it is asked to do beside the rate.

    Args:
        name: one of ``RULES`` but ``auto``, which ``choose_rule`` resolves.
        exponent: ``power`` only: ``lr_ratio = batch_ratio ** exponent``.
        noise_scale: ``gain`` only: the gradient noise scale in samples, > 0; infinite is the linear rule.
        betas: ``adam_sde`` only: ``sde`` (the paper's ``1 - batch_ratio * (1 - beta)``) or ``power``
            (``beta ** batch_ratio``, equal to first order and defined for every ratio).
        scale_weight_decay: hold the timescale of weight decay in samples.
        scale_momentum: ``none`` only: raise momentum instead of the rate. It holds the timescale of weight decay too.
    """

    name: str
    exponent: float | None = None
    noise_scale: float | None = None
    betas: str = "sde"
    scale_weight_decay: bool = False
    scale_momentum: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Scaled:
    """What a rule makes of a batch: ``peak_lr = base_lr * lr_ratio``; ``constants`` go over the reference's."""

    batch_ratio: float
    lr_ratio: float
    warmup_ratio: float = 1.0  # what the warmup's length in samples is multiplied by
    weight_decay_ratio: float = 1.0
    constants: Mapping[str, Any] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)  # of each constant that the rule may change


def choose_rule(rule: str, *, optimizer: str) -> tuple[str, str]:
    """Return the rule to use and why.

    ``auto`` looks the optimizer up in a table: linear for the SGD family, whose step is proportional to the gradient;
    square root for optimizers that divide by a running root of its square; LEGW for LARS and LAMB; none for Prodigy,
    which finds its own step. Names are compared whole: a name that is not in the table is refused,
    never guessed at. The reason calls ``gain`` and ``adascale`` experimental for adaptive optimizers.

    Args:
        rule: one of ``RULES``.
        optimizer: the optimizer's name in the job file, or its import path as ``module:Class``.

    Returns:
        ``(rule, reason)``.

    Raises:
        PlanError: an unknown rule; ``auto`` with an optimizer that is not in the table.

    Example:
        >>> choose_rule("auto", optimizer="adamw")
        ('sqrt', 'adamw: square-root rule (Malladi et al. 2022), chosen by auto for adaptive optimizers')
    """
    if rule not in RULES:
        raise not_a_rule(rule)
    if rule != "auto":
        return rule, f"{optimizer}: {_source(rule, optimizer)}, as asked for"
    for names, chosen, why in (
        (SGD_FAMILY, "linear", "the SGD family"),
        (ADAPTIVE, "sqrt", "adaptive optimizers"),
        (LAYERWISE, "legw", "layer-wise rates"),
        (SELF_TUNED, "none", "optimizers that find their own step"),
    ):
        if optimizer in names:
            return chosen, f"{optimizer}: {_source(chosen, optimizer)}, chosen by auto for {why}"
    raise PlanError(
        f"scale.rule = auto does not know the optimizer {optimizer}.",
        "Say which rule it follows: rule: linear, rule: sqrt or rule: none.",
    )


def not_a_rule(word: str) -> PlanError:
    """Return the error of a rule that there is not; offers the one that was probably meant."""
    return PlanError(f"scale.rule = {word} is not a rule.", f"{did_you_mean(word, RULES)}Rules: {', '.join(RULES)}.")


def _source(rule: str, optimizer: str) -> str:
    """What a rule is, with the paper that gives it for this optimizer."""
    if rule == "sqrt" and optimizer in WITHOUT_RUNNING_SQUARES:
        return "square-root rule, by analogy with Adam (Malladi et al. 2022)"
    return SOURCES_IF_ADAPTIVE.get(rule, SOURCES[rule]) if optimizer in ADAPTIVE else SOURCES[rule]


def lr_ratio(rule: Rule, *, batch_ratio: float, reference_batch_size: int, optimizer: str) -> float:
    """Return what the rule makes of ``batch_ratio`` (k); ``peak_lr = base_lr * lr_ratio``.

        linear: k                       sqrt, adam_sde, legw: k ** 0.5          power: k ** exponent
        none: 1                         gain: k (phi + m0) / (phi + k m0), its square root for Adam and its kin
        adascale: 1, for the gain is measured in training and multiplies the rate there

    A ratio below 1 scales down by the same formula; at 1 every rule gives 1.

    Args:
        rule: which, with its options.
        batch_ratio: global batch size over the reference's, > 0.
        reference_batch_size: m0, samples per step in the reference.
        optimizer: its name; ``gain`` and ``adascale`` must know its family.

    Raises:
        PlanError: ``gain`` or ``adascale`` with an optimizer of neither family; ``adascale`` with an adaptive one
            that keeps no running squares.

    Sources:
        linear: Goyal et al. 2017, https://arxiv.org/abs/1706.02677, section 2.1.
        sqrt: Krizhevsky 2014, https://arxiv.org/abs/1404.5997, for SGD; Malladi et al. 2022,
        https://arxiv.org/abs/2205.10287, for Adam and RMSprop.
        adam_sde: Malladi et al. 2022, https://arxiv.org/abs/2205.10287.
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
            return sqrt(batch_ratio)
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
    """Return what the gain is raised to: 1 for the SGD family, 0.5 for Adam and its kin.

    Raises:
        PlanError: another optimizer, for nobody has said how its rate follows the gain; ``adascale`` with an adaptive
            one that keeps no running squares to measure it with.

    Example:
        >>> [gain_exponent(name, rule="gain") for name in ("sgd", "adamw")]
        [1.0, 0.5]
    """
    if optimizer in SGD_FAMILY:
        return 1.0
    if optimizer in WITHOUT_RUNNING_SQUARES and rule == "adascale":
        raise PlanError(
            f"scale.rule = adascale finds no running squares in {optimizer}.",
            "It is for sgd, adam, adamw and rmsprop; else use rule: sqrt.",
        )
    if optimizer in ADAPTIVE:
        return 0.5
    raise PlanError(
        f"scale.rule = {rule} does not know how {optimizer} follows the gain.",
        "It is known for sgd, adam, adamw and rmsprop; else use rule: power.",
    )


def scale(
    rule: Rule, *, batch_ratio: float, reference_batch_size: int, optimizer: str, constants: Mapping[str, Any]
) -> Scaled:
    """Return the rate's ratio and the optimizer's constants at a batch.

    Args:
        rule: which, with its options.
        batch_ratio: global batch size over the reference's, > 0.
        reference_batch_size: samples per step in the reference.
        optimizer: its name in the job file, or ``module:Class``.
        constants: the reference's options of the optimizer (``betas``, ``eps``, ``weight_decay``, ...), and its ``lr``,
            without which a weight decay that takes too much in one step is not noticed.

    Raises:
        PlanError: the rule does not hold for this optimizer, or not so far out; names what would.

    Example:
        >>> adam = {"betas": (0.9, 0.999), "eps": 1e-8}
        >>> found = scale(Rule(name="adam_sde"), batch_ratio=4.0, reference_batch_size=16, optimizer="adam",
        ...               constants=adam)
        >>> found.lr_ratio, [round(beta, 6) for beta in found.constants["betas"]], found.constants["eps"]
        (2.0, [0.6, 0.996], 5e-09)
    """
    ratio = lr_ratio(rule, batch_ratio=batch_ratio, reference_batch_size=reference_batch_size, optimizer=optimizer)
    changed: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    if rule.name == "adam_sde":
        changed |= _adam_constants(rule, batch_ratio, reference_batch_size, optimizer, constants)
        form = f"beta ** {batch_ratio:.4g}" if rule.betas == "power" else f"1 - {batch_ratio:.4g} x (1 - beta)"
        reasons |= {name: form for name in changed if name != "eps"}
        reasons["eps"] = f"over the root of {batch_ratio:.4g}"
    if rule.scale_momentum:
        changed["momentum"] = _momentum(rule, batch_ratio, reference_batch_size, optimizer, constants)
        reasons["momentum"] = f"1 - (1 - momentum) / {batch_ratio:.4g}: instead of the rate (Smith et al. 2018)"
    decay_ratio = 1.0
    if rule.scale_weight_decay:
        decay_ratio = _weight_decay_ratio(rule, batch_ratio, ratio, optimizer, constants)
        given = _given(constants, "weight_decay", example="0.01", who="scale.co_scale.weight_decay")
        changed["weight_decay"] = given * decay_ratio
        held = "the momentum holds" if rule.scale_momentum else "holds"
        reasons["weight_decay"] = f"x {decay_ratio:.4g}: {held} its timescale (Wang and Aitchison 2024)"
        if "lr" in constants and batch_ratio > 1.0:
            built = {**constants, **changed}
            lr = float(constants["lr"]) * ratio
            _require_slow_decay(optimizer, built, lr=lr, batch_ratio=batch_ratio, reference=reference_batch_size)
    return Scaled(
        batch_ratio=batch_ratio,
        lr_ratio=ratio,
        warmup_ratio=batch_ratio if rule.name == "legw" else 1.0,
        weight_decay_ratio=decay_ratio,
        constants=changed,
        reasons=reasons,
    )


def scale_beta(beta: float, *, batch_ratio: float, form: str) -> float:
    """Return the decay of a running average per step, so that it forgets as fast per sample as the reference's.

        sde: 1 - batch_ratio * (1 - beta)         power: beta ** batch_ratio

    The two agree to first order; ``power`` holds the half-life exactly and stays in (0, 1) at any ratio.

    Args:
        beta: the reference's, in [0, 1].
        batch_ratio: global batch size over the reference's, > 0.
        form: ``sde`` or ``power``. ``sde`` gives 0 or less when ``batch_ratio * (1 - beta) >= 1``.

    Sources:
        sde: Malladi et al. 2022, https://arxiv.org/abs/2205.10287.
        power: Busbridge et al. 2023, https://arxiv.org/abs/2307.13813, for averages of weights;
        Marek et al. 2025, https://arxiv.org/abs/2507.07101, for Adam's second moment.

    Example:
        >>> [round(scale_beta(0.9, batch_ratio=8.0, form=form), 6) for form in ("sde", "power")]
        [0.2, 0.430467]
        >>> scale_beta(0.9, batch_ratio=1.0, form="sde")
        0.9
    """
    if batch_ratio == 1.0:
        return beta  # to the last bit
    return float(beta**batch_ratio) if form == "power" else 1.0 - batch_ratio * (1.0 - beta)


def _adam_constants(
    rule: Rule, batch_ratio: float, reference_batch_size: int, optimizer: str, constants: Mapping[str, Any]
) -> dict[str, Any]:
    """Betas (RMSprop's alpha) and eps at a batch."""
    who = "scale.rule = adam_sde"
    if optimizer in ADAM_FAMILY and optimizer not in NO_SDE:
        given = _given(constants, "betas", example="[0.9, 0.999]", who=who)
        betas = dict(zip(("beta1", "beta2"), given, strict=True))
    elif optimizer in RMSPROP:
        betas = {"alpha": _given(constants, "alpha", example="0.99", who=who)}
    else:
        raise PlanError(
            f"scale.rule = adam_sde scales the averages of Adam and RMSprop, and the optimizer is {optimizer}.",
            "It is for adam, adamw and rmsprop.",
        )
    if rule.betas == "sde":
        _require_memory(betas, batch_ratio, reference_batch_size)
    scaled = [scale_beta(beta, batch_ratio=batch_ratio, form=rule.betas) for beta in betas.values()]
    named = {"betas": tuple(scaled)} if len(scaled) == 2 else {"alpha": scaled[0]}
    return {**named, "eps": _given(constants, "eps", example="1e-8", who=who) / sqrt(batch_ratio)}


def _given(constants: Mapping[str, Any], name: str, *, example: str, who: str) -> Any:
    """A constant that is to be scaled: a number, or the two of ``betas``. A default that is not ours is not known."""
    value = constants.get(name)
    if value is None:
        raise PlanError(f"{who} scales {name}, and reference.optimizer does not say it.", f"Add {name}: {example}.")
    numbers = value if name == "betas" and isinstance(value, tuple | list) else [value]
    are_numbers = all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers)
    if not are_numbers or len(numbers) != (2 if name == "betas" else 1):
        raise PlanError(
            f"{who} scales reference.optimizer.{name}, and {value} cannot be.", f"Such as {name}: {example}."
        )
    return value


def _require_memory(betas: Mapping[str, float], batch_ratio: float, reference_batch_size: int) -> None:
    """Refuse a batch that is longer than what the running averages remember."""
    name, beta = min(betas.items(), key=lambda item: item[1])  # what forgets first decides
    if batch_ratio == 1.0 or batch_ratio * (1.0 - beta) < NO_MEMORY:
        return
    largest = ceil(reference_batch_size / (1.0 - beta))
    while largest > reference_batch_size and largest / reference_batch_size * (1.0 - beta) >= NO_MEMORY:
        largest -= 1
    raise PlanError(
        f"scale.rule = adam_sde needs batch_ratio * (1 - {name}) < 1, "
        f"but {batch_ratio:g} * (1 - {beta:g}) = {batch_ratio * (1.0 - beta):.4g}.",
        f"Use betas: power, rule: sqrt, or a global batch of at most {largest} (reference {reference_batch_size}).",
    )


def _weight_decay_ratio(
    rule: Rule, batch_ratio: float, ratio: float, optimizer: str, constants: Mapping[str, Any]
) -> float:
    """What weight decay is multiplied by, so that its timescale in samples stays: see ``weight_decay_timescale``.

    A momentum that rises with the batch holds it already: batch * (1 - momentum) / lr stays.
    """
    if decay_form(optimizer, constants) is None:
        raise PlanError(
            f"scale.co_scale.weight_decay holds a timescale that {optimizer}'s weight decay does not have.",
            "It is for optimizers that shrink weights by lr * weight_decay a step: adamw, lion, sgd.",
        )
    if rule.name == "adascale":
        raise PlanError(
            "scale.co_scale.weight_decay needs the rate's ratio before the run, and adascale measures it.",
            "Leave it out, or choose another rule.",
        )
    return 1.0 if rule.scale_momentum else batch_ratio / ratio


def _require_slow_decay(
    optimizer: str, constants: Mapping[str, Any], *, lr: float, batch_ratio: float, reference: int
) -> None:
    """Refuse a step that is so long that its weight decay is not what its samples would bring one batch at a time."""
    batch = batch_ratio * reference
    timescale = weight_decay_timescale(optimizer, constants=constants, lr=lr, global_batch_size=batch)
    if timescale is None or isinf(timescale):
        return
    most = MOST_DECAY * timescale * (1.0 + 1e-9)  # the timescale is rounded
    if batch <= most:
        return
    largest = max(floor(most), reference)
    raise PlanError(
        f"scale.co_scale.weight_decay holds a timescale of {timescale:.4g} samples, and a step of {batch:g} would take "
        f"{batch / timescale:.0%} of the weights.",
        f"Lower weight_decay, or use a global batch of at most {largest} (reference {reference}).",
    )


def _momentum(
    rule: Rule, batch_ratio: float, reference_batch_size: int, optimizer: str, constants: Mapping[str, Any]
) -> float:
    """The momentum that holds the noise of SGD when the rate stays: batch * (1 - momentum) stays."""
    if rule.name != "none":
        raise PlanError(
            f"scale.co_scale.momentum holds the noise instead of the rate, and rule: {rule.name} changes the rate.",
            "Use it with rule: none.",
        )
    if optimizer not in WITH_MOMENTUM:
        raise PlanError(
            f"scale.co_scale.momentum holds SGD's noise, and the optimizer is {optimizer}.", "It is for sgd."
        )
    momentum = _given(constants, "momentum", example="0.9", who="scale.co_scale.momentum")
    if batch_ratio == 1.0:
        return float(momentum)
    smallest = ceil(reference_batch_size * (1.0 - momentum))
    scaled = 1.0 - (1.0 - float(momentum)) / batch_ratio
    if scaled < 0.0:
        raise PlanError(
            f"scale.co_scale.momentum: 1 - (1 - {momentum:g}) / {batch_ratio:g} is below 0.",
            f"Use a global batch of at least {smallest} (reference {reference_batch_size}).",
        )
    for option in ("dampening", "nesterov"):  # which torch ignores or refuses without momentum
        if constants.get(option) and (momentum == 0.0 or scaled == 0.0):
            raise PlanError(
                f"scale.co_scale.momentum changes a momentum of {momentum:g} to {scaled:g}, and {option} = "
                f"{str(constants[option]).lower()} has no effect without momentum: the step would change by it.",
                f"Leave {option} out of reference.optimizer.",
            )
    return scaled
