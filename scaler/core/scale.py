"""A batch size applied to the reference: the ratio of the learning rate, and the optimizer's constants."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil, floor, isinf
from typing import Any

from scaler.core.betas import required, scale_betas
from scaler.core.optimizers import names_where, optimizer_facts
from scaler.core.rules import Rule, lr_ratio, no_horizon
from scaler.core.timescales import decay_form, weight_decay_timescale
from scaler.errors import PlanError

MOST_DECAY = 0.1  # of the weights, in one step: above it, weight decay is not proportional to the step's samples


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
        unbounded_beta2: beta2 (RMSprop: alpha) before ``beta2_range`` changed it; None: it did not.
    """

    batch_ratio: float
    lr_ratio: float
    warmup_ratio: float = 1.0
    weight_decay_ratio: float = 1.0
    constants: Mapping[str, Any] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    unbounded_beta2: float | None = None


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
    if rule.horizon_ratio is not None:
        _require_horizon(rule, optimizer, constants)
    betas = scale_betas(
        rule,
        batch_ratio=batch_ratio,
        reference_batch_size=reference_batch_size,
        optimizer=optimizer,
        constants=constants,
    )
    changed, reasons = dict(betas.constants), dict(betas.reasons)
    if rule.co_scale.momentum:
        changed["momentum"] = _momentum(rule, batch_ratio, reference_batch_size, optimizer, constants)
        reasons["momentum"] = (
            f"1 - (1 - momentum) / {batch_ratio:.4g}: instead of the learning rate (Smith et al. 2018)"
        )
    decay_ratio = 1.0
    if rule.co_scale.weight_decay or rule.horizon_ratio is not None:
        decay_ratio, reason = _weight_decay_ratio(rule, batch_ratio, ratio, optimizer, constants)
        asks = "scale.co_scale.weight_decay" if rule.horizon_ratio is None else "scale.horizon"
        changed["weight_decay"] = required(constants, "weight_decay", who=asks) * decay_ratio
        reasons["weight_decay"] = f"x {decay_ratio:.4g}: {reason}"
        if "lr" in constants and rule.kappa(batch_ratio) > 1.0:
            built = {**constants, **changed}
            lr = float(constants["lr"]) * ratio
            _require_slow_decay(rule, optimizer, built, lr=lr, batch_ratio=batch_ratio, reference=reference_batch_size)
    return Scaled(
        batch_ratio=batch_ratio,
        lr_ratio=ratio,
        warmup_ratio=batch_ratio if rule.name == "legw" else 1.0,
        weight_decay_ratio=decay_ratio,
        constants=changed,
        reasons=reasons,
        unbounded_beta2=betas.unbounded_beta2,
    )


def _require_horizon(rule: Rule, optimizer: str, constants: Mapping[str, Any]) -> None:
    """Refuse a horizon with another rule than ``adam_sde``, or with another optimizer than a kind of AdamW."""
    if rule.name != "adam_sde":
        raise no_horizon(rule.name)
    if optimizer_facts(optimizer).sde_constant != "betas" or decay_form(optimizer, constants) != "decoupled":
        known = names_where(lambda row: row.sde_constant == "betas" and row.weight_decay == "decoupled")
        raise PlanError(
            f"scale.horizon scales Adam's averages and a weight decay that is decoupled from the gradient, and "
            f"{optimizer} does not have both.",
            f"It is for {known}; without weight decay, use it with weight_decay: 0.",
        )


def _weight_decay_ratio(
    rule: Rule, batch_ratio: float, ratio: float, optimizer: str, constants: Mapping[str, Any]
) -> tuple[float, str]:
    """Return what multiplies weight decay so that its timescale stays (``weight_decay_timescale``), and the reason.

    The timescale stays in samples; with a horizon, as a share of the training. A momentum that rises with the batch
    holds the timescale in samples already: batch * (1 - momentum) / lr stays.
    """
    if rule.horizon_ratio is not None:
        return rule.kappa(batch_ratio) / ratio, "holds its timescale as a share of the training"
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
    source = "its timescale (Wang and Aitchison 2024)"
    return (1.0, f"the momentum holds {source}") if rule.co_scale.momentum else (batch_ratio / ratio, f"holds {source}")


def _require_slow_decay(
    rule: Rule, optimizer: str, constants: Mapping[str, Any], *, lr: float, batch_ratio: float, reference: int
) -> None:
    """Refuse a step whose weight decay shrinks the weights by more than ``MOST_DECAY``."""
    batch = batch_ratio * reference
    timescale = weight_decay_timescale(optimizer, constants=constants, lr=lr, global_batch_size=batch)
    if timescale is None or isinf(timescale):
        return
    most = MOST_DECAY * timescale * (1.0 + 1e-9)  # the timescale is rounded
    if batch <= most:
        return
    holds = rule.horizon_ratio is None
    largest = max(floor(most), reference if holds else 1)
    who = "scale.co_scale.weight_decay holds" if holds else "scale.horizon gives weight decay"
    raise PlanError(
        f"{who} a timescale of {timescale:.4g} samples, and a step of {batch:g} would take "
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
    momentum = required(constants, "momentum", who="scale.co_scale.momentum")
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
