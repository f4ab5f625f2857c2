"""The decays of an optimizer's running averages, and eps, at another batch size."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Any

from scaler.core.optimizers import names_where, optimizer_facts
from scaler.core.rules import Rule
from scaler.errors import PlanError

NO_MEMORY = 1.0 - 1e-9  # 10 * (1 - 0.9) is 1, and rounding makes it a little less

_EXAMPLES = {"betas": "[0.9, 0.999]", "eps": "1e-8", "momentum": "0.9", "weight_decay": "0.01"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaledBetas:
    """The constants of the running averages that a rule gives for a batch size.

    Attributes:
        constants: ``betas`` or ``alpha``, and ``eps`` if the rule scales it.
        reasons: constant -> how it is scaled.
        unbounded_beta2: the decay of the running mean of squares before ``beta2_range`` changed it; None: it did not.
    """

    constants: Mapping[str, Any]
    reasons: Mapping[str, str]
    unbounded_beta2: float | None = None


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


def scale_betas(
    rule: Rule, *, batch_ratio: float, reference_batch_size: int, optimizer: str, constants: Mapping[str, Any]
) -> ScaledBetas:
    """Return the decays and eps that the rule ``adam_sde``, or ``co_scale.beta2``, gives at a batch size.

        adam_sde:  every decay by ``scale_beta``, eps / sqrt(kappa)
        half_life: beta2 ** batch_ratio; beta1 and eps as in the reference

    With a horizon, ``kappa`` (``Rule.kappa``) takes the place of ``batch_ratio`` in ``adam_sde``. ``beta2_range`` is
    applied to the decay of the running mean of squares last.

    Args:
        rule: with one of the two; otherwise nothing is scaled.
        batch_ratio: global batch size over the reference's, > 0.
        reference_batch_size: samples per step in the reference.
        optimizer: its name in the job file, or ``module:Class``.
        constants: the reference's options of the optimizer.

    Raises:
        PlanError: the optimizer has no such average, a constant is missing, ``sde`` leaves an average without memory,
            or ``beta2_range`` does not contain the reference's own value.

    Sources:
        Malladi et al. 2022, https://arxiv.org/abs/2205.10287 (adam_sde); Marek et al. 2025,
        https://arxiv.org/abs/2507.07101 (half_life).

    Example:
        >>> from scaler.core.rules import CoScale
        >>> adam = {"betas": (0.9, 0.95), "eps": 1e-8}
        >>> rule = Rule(name="sqrt", beta2_range=(0.9, 0.9999), co_scale=CoScale(beta2="half_life"))
        >>> for ratio in (0.0625, 4.0):
        ...     found = scale_betas(rule, batch_ratio=ratio, reference_batch_size=64, optimizer="adam", constants=adam)
        ...     print([round(beta, 4) for beta in found.constants["betas"]], round(found.unbounded_beta2 or 0.0, 4))
        [0.9, 0.9968] 0.0
        [0.9, 0.9] 0.8145
    """
    is_sde = rule.name == "adam_sde"
    if not is_sde and rule.co_scale.beta2 is None:
        return ScaledBetas(constants={}, reasons={})
    who = "scale.rule = adam_sde" if is_sde else "scale.co_scale.beta2"
    name = _average_name(optimizer, who=who, is_sde=is_sde)
    given = required(constants, name, who=who)
    betas = dict(zip(("beta1", "beta2"), given, strict=True)) if name == "betas" else {name: given}
    *_, of_squares = betas
    _require_in_range(rule, of_squares, betas[of_squares])
    ratio = rule.kappa(batch_ratio)
    if is_sde:
        if rule.betas == "sde":
            _require_memory(betas, ratio, reference_batch_size, rule)
        scaled = {key: scale_beta(beta, batch_ratio=ratio, form=rule.betas) for key, beta in betas.items()}
        form = f"beta ** {ratio:.4g}" if rule.betas == "power" else f"1 - {ratio:.4g} x (1 - beta)"
        own = {"eps": required(constants, "eps", who=who) / sqrt(ratio)}
        reasons = {name: form, "eps": f"over the root of {ratio:.4g}"}
    else:
        scaled = {**betas, of_squares: scale_beta(betas[of_squares], batch_ratio=ratio, form="power")}
        own = {}
        which = "beta2 " if name == "betas" else ""
        reasons = {name: f"{which}to the power of {ratio:.4g}: holds its half-life in samples (Marek et al. 2025)"}
    wanted = scaled[of_squares]
    if rule.beta2_range is not None:
        scaled[of_squares] = min(max(wanted, rule.beta2_range[0]), rule.beta2_range[1])
    is_bounded = scaled[of_squares] != wanted
    if is_bounded:
        reasons[name] += f", {of_squares} = {wanted:.6g} kept at {scaled[of_squares]:g} by beta2_range"
    return ScaledBetas(
        constants={name: tuple(scaled.values()) if name == "betas" else scaled[name], **own},
        reasons=reasons,
        unbounded_beta2=wanted if is_bounded else None,
    )


def required(constants: Mapping[str, Any], name: str, *, who: str) -> Any:
    """Return a constant that is to be scaled: a number, or the two of ``betas``.

    Raises:
        PlanError: neither the job nor scaler's table of optimizers gives it, or it is not a number.
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


def _average_name(optimizer: str, *, who: str, is_sde: bool) -> str:
    """Return the option that has the decays: ``betas`` or ``alpha``."""
    facts = optimizer_facts(optimizer)
    if is_sde and facts.sde_constant is None:
        raise PlanError(
            f"{who} scales the averages of Adam and RMSprop, and the optimizer is {optimizer}.",
            f"It is for {names_where(lambda row: row.sde_constant is not None)}.",
        )
    if not is_sde and not facts.has_running_squares:
        raise PlanError(
            f"{who} holds the half-life of a running mean of squared gradients, and the optimizer is {optimizer}.",
            f"It is for {names_where(lambda row: row.has_running_squares)}.",
        )
    return facts.sde_constant or "betas"


def _require_in_range(rule: Rule, name: str, beta: float) -> None:
    """Refuse a range that does not contain the reference's own value: it would change the reference."""
    if rule.beta2_range is None or rule.beta2_range[0] <= beta <= rule.beta2_range[1]:
        return
    low, high = rule.beta2_range
    raise PlanError(
        f"scale.beta2_range = [{low:g}, {high:g}] does not contain the reference's {name} of {beta:g}.",
        f"Give a range around it, such as [{min(low, beta):g}, {max(high, beta):g}].",
    )


def _require_memory(betas: Mapping[str, float], ratio: float, reference_batch_size: int, rule: Rule) -> None:
    """Refuse a batch that has more samples than the running averages remember."""
    name, beta = min(betas.items(), key=lambda item: item[1])  # the average that forgets first sets the limit
    if ratio == 1.0 or ratio * (1.0 - beta) < NO_MEMORY:
        return
    longer = rule.horizon_ratio or 1.0
    largest = ceil(reference_batch_size * longer / (1.0 - beta))
    while (
        largest > max(1, reference_batch_size * longer)
        and largest / reference_batch_size / longer * (1.0 - beta) >= NO_MEMORY
    ):
        largest -= 1
    what, other = "scale.rule = adam_sde needs batch_ratio", ", rule: sqrt"
    if rule.horizon_ratio is not None:
        what, other = "scale.horizon needs kappa", ""
    raise PlanError(
        f"{what} * (1 - {name}) < 1, but {ratio:g} * (1 - {beta:g}) = {ratio * (1.0 - beta):.4g}.",
        f"Use betas: power{other}, or a global batch of at most {largest} (reference {reference_batch_size}).",
    )
