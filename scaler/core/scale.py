"""A batch size applied to the reference: the ratio of the learning rate, and the optimizer's constants."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil, floor, isinf, sqrt
from types import MappingProxyType
from typing import Any

from scaler.core.optimizers import names_where, optimizer_facts
from scaler.core.rules import Rule, lr_ratio
from scaler.core.timescales import decay_form, weight_decay_timescale
from scaler.errors import PlanError

MOST_DECAY = 0.1  # of the weights, in one step: above it, weight decay is not proportional to the step's samples
NO_MEMORY = 1.0 - 1e-9  # 10 * (1 - 0.9) is 1, and rounding makes it a little less

_EXAMPLES: Mapping[str, str] = MappingProxyType(
    {"betas": "[0.9, 0.999]", "eps": "1e-8", "momentum": "0.9", "weight_decay": "0.01"}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scaled:
    """The ratios and constants that a rule gives for a batch size.

    Attributes:
        batch_ratio: the batch size over the reference's.
        lr_ratio: ``peak_lr = base_lr * lr_ratio``.
        warmup_ratio: multiplies the length of the reference's warmup in samples.
        weight_decay_ratio: multiplies every weight decay of the reference.
        constants: the optimizer's constants that the rule changes, with their new values.
        reasons: constant -> how it is scaled.
    """

    batch_ratio: float
    lr_ratio: float
    warmup_ratio: float = 1.0
    weight_decay_ratio: float = 1.0
    constants: Mapping[str, Any] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)


def scale(
    rule: Rule, *, batch_ratio: float, reference_batch_size: int, optimizer: str, constants: Mapping[str, Any]
) -> Scaled:
    """Return the ratio of the learning rate and the optimizer's constants at a batch size.

    Args:
        rule: the rule with its options.
        batch_ratio: global batch size over the reference's, > 0.
        reference_batch_size: samples per step in the reference.
        optimizer: its name in the job file, or ``module:Class``.
        constants: the reference's options of the optimizer (``betas``, ``eps``, ``weight_decay``, ...), and its ``lr``.
            Without ``lr``, a weight decay that takes too much of the weights in one step is not refused.

    Raises:
        PlanError: the rule does not hold for this optimizer, or not at this batch size; names where it holds.

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
    if rule.co_scale.momentum:
        changed["momentum"] = _momentum(rule, batch_ratio, reference_batch_size, optimizer, constants)
        reasons["momentum"] = (
            f"1 - (1 - momentum) / {batch_ratio:.4g}: instead of the learning rate (Smith et al. 2018)"
        )
    decay_ratio = 1.0
    if rule.co_scale.weight_decay:
        decay_ratio = _weight_decay_ratio(rule, batch_ratio, ratio, optimizer, constants)
        given = _given(constants, "weight_decay", who="scale.co_scale.weight_decay")
        changed["weight_decay"] = given * decay_ratio
        held = "the momentum holds" if rule.co_scale.momentum else "holds"
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
    """Return the decay per step with which a running average forgets as fast per sample as in the reference.

        sde: 1 - batch_ratio * (1 - beta)         power: beta ** batch_ratio

    The two agree to first order. ``power`` holds the half-life exactly and stays in (0, 1) at any ratio.

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
    """Return the decays of the running averages (Adam's betas, RMSprop's alpha) and eps at a batch size."""
    who = "scale.rule = adam_sde"
    name = optimizer_facts(optimizer).sde_constant
    if name is None:
        raise PlanError(
            f"scale.rule = adam_sde scales the averages of Adam and RMSprop, and the optimizer is {optimizer}.",
            f"It is for {names_where(lambda row: row.sde_constant is not None)}.",
        )
    given = _given(constants, name, who=who)
    betas = dict(zip(("beta1", "beta2"), given, strict=True)) if name == "betas" else {name: given}
    if rule.betas == "sde":
        _require_memory(betas, batch_ratio, reference_batch_size)
    scaled = [scale_beta(beta, batch_ratio=batch_ratio, form=rule.betas) for beta in betas.values()]
    eps = _given(constants, "eps", who=who) / sqrt(batch_ratio)
    return {name: tuple(scaled) if name == "betas" else scaled[0], "eps": eps}


def _given(constants: Mapping[str, Any], name: str, *, who: str) -> Any:
    """Return a constant that is to be scaled: a number, or the two of ``betas``.

    A constant that neither the job nor scaler's table of optimizers gives is not known, and is refused.
    """
    value, example = constants.get(name), _EXAMPLES.get(name, "0.99")
    if value is None:
        raise PlanError(f"{who} scales {name}, and reference.optimizer does not give it.", f"Add {name}: {example}.")
    numbers = value if name == "betas" and isinstance(value, tuple | list) else [value]
    are_numbers = all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers)
    wanted = "two numbers" if name == "betas" else "a number"
    if not are_numbers or len(numbers) != (2 if name == "betas" else 1):
        raise PlanError(
            f"{who} scales reference.optimizer.{name}, and {value} is not {wanted}.",
            f"Such as {name}: {example}.",
        )
    return value


def _require_memory(betas: Mapping[str, float], batch_ratio: float, reference_batch_size: int) -> None:
    """Refuse a batch that has more samples than the running averages remember."""
    name, beta = min(betas.items(), key=lambda item: item[1])  # the average that forgets first sets the limit
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
    """Return what multiplies weight decay so that its timescale in samples stays (``weight_decay_timescale``).

    A momentum that rises with the batch holds the timescale already: batch * (1 - momentum) / lr stays.
    """
    if decay_form(optimizer, constants) is None:
        known = names_where(lambda row: decay_form(row.name, row.defaults) is not None)
        raise PlanError(
            f"scale.co_scale.weight_decay holds a timescale that {optimizer}'s weight decay does not have.",
            f"It is for optimizers that shrink weights by lr * weight_decay a step: {known}.",
        )
    if rule.name == "adascale":
        raise PlanError(
            "scale.co_scale.weight_decay needs the learning rate's ratio before the run, and adascale measures it.",
            "Leave it out, or choose another rule.",
        )
    return 1.0 if rule.co_scale.momentum else batch_ratio / ratio


def _require_slow_decay(
    optimizer: str, constants: Mapping[str, Any], *, lr: float, batch_ratio: float, reference: int
) -> None:
    """Refuse a step whose weight decay shrinks the weights by more than ``MOST_DECAY``."""
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
    """Return the momentum that holds SGD's noise at a constant learning rate: batch * (1 - momentum) stays."""
    if rule.name != "none":
        raise PlanError(
            "scale.co_scale.momentum changes the momentum instead of the learning rate, and "
            f"rule: {rule.name} changes the learning rate.",
            "Use it with rule: none.",
        )
    if not optimizer_facts(optimizer).scales_momentum:
        raise PlanError(
            f"scale.co_scale.momentum holds SGD's noise, and the optimizer is {optimizer}.",
            f"It is for {names_where(lambda row: row.scales_momentum)}.",
        )
    momentum = _given(constants, "momentum", who="scale.co_scale.momentum")
    if batch_ratio == 1.0:
        return float(momentum)
    smallest = ceil(reference_batch_size * (1.0 - momentum))
    scaled = 1.0 - (1.0 - float(momentum)) / batch_ratio
    if scaled < 0.0:
        raise PlanError(
            f"scale.co_scale.momentum: 1 - (1 - {momentum:g}) / {batch_ratio:g} is below 0.",
            f"Use a global batch of at least {smallest} (reference {reference_batch_size}).",
        )
    for option in ("dampening", "nesterov"):  # without momentum, torch ignores the first and refuses the second
        if constants.get(option) and (momentum == 0.0 or scaled == 0.0):
            raise PlanError(
                f"scale.co_scale.momentum changes a momentum of {momentum:g} to {scaled:g}, and {option} = "
                f"{str(constants[option]).lower()} has an effect only with momentum: it would act in one of the two.",
                f"Leave {option} out of reference.optimizer.",
            )
    return scaled
