"""``scale_lr``: the learning rate and the optimizer's constants at another batch size, for your own script."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from re import fullmatch
from typing import Any

from scaler.core.nearest import did_you_mean, nearest
from scaler.core.optimizers import NAMED_OPTIMIZERS, optimizer_facts, optimizer_hint
from scaler.core.rules import RULES, SOURCES, CoScale, Rule, choose_rule, not_a_rule
from scaler.core.scale import scale
from scaler.errors import PlanError

ANY_OPTIMIZER = ("linear", "sqrt", "power", "legw", "none")  # these rules are the same for every optimizer
SCALED = ("betas", "alpha", "eps", "weight_decay", "momentum")  # the constants that a rule may change
CO_SCALES = ("weight_decay", "momentum", "beta2")  # the keys of ``co_scale`` that apply to an optimizer


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaledLR:
    """The learning rate and constants that ``scale_lr`` makes of a reference at a batch size.

    Attributes:
        lr: the peak learning rate at ``global_batch_size``: the reference's times ``lr_ratio``.
        lr_ratio: the ratio of learning rates that the rule gives for ``batch_ratio``.
        batch_ratio: ``global_batch_size / reference_batch_size``.
        warmup_ratio: multiplies the length of the reference's warmup in samples; 1 except for ``legw``.
        rule: the rule used; never ``auto``.
        reason: why this rule is used.
        constants: the given constants of the optimizer; those that the rule scales have their new values.
        reasons: constant -> how the rule scaled it.
    """

    lr: float
    lr_ratio: float
    batch_ratio: float
    warmup_ratio: float
    rule: str
    reason: str
    constants: Mapping[str, Any]
    reasons: Mapping[str, str]


def scale_lr(
    lr: float,
    *,
    reference_batch_size: int,
    global_batch_size: int,
    optimizer: str | None = None,
    rule: str = "auto",
    constants: Mapping[str, Any] | None = None,
    exponent: float | None = None,
    noise_scale: float | None = None,
    betas: str = "sde",
    co_scale: Mapping[str, bool | str] | None = None,
    beta2_range: tuple[float, float] | None = None,
    reference_samples: int | None = None,
    total_samples: int | None = None,
) -> ScaledLR:
    """Return the learning rate and the optimizer's constants at ``global_batch_size``, always from the reference.

        lr = lr * lr_ratio(batch_ratio), with batch_ratio = global_batch_size / reference_batch_size

    Args:
        lr: the learning rate that was tuned at ``reference_batch_size``, > 0.
        reference_batch_size: samples per optimizer step of the reference, >= 1. Both batch sizes, and
            ``noise_scale``, may be in another unit, such as tokens, if it is the same for all.
        global_batch_size: samples per optimizer step now, over all workers and micro-steps, >= 1; not the number of
            workers.
        optimizer: ``sgd``, ``adamw`` or another name of the job file, or an import path such as ``torch.optim:NAdam``.
            Without it, the rule must be one that is the same for every optimizer (``linear``, ``sqrt``, ``power``,
            ``legw``, ``none``), and nothing can be co-scaled.
        rule: ``auto``, which chooses by the optimizer; ``linear``, ``sqrt``, ``power``, ``adam_sde``, ``gain``,
            ``legw`` or ``none``.
        constants: the reference's constants of the optimizer: those that the rule scales are needed (``betas``,
            ``eps``, ``weight_decay``, ``momentum``). No default is assumed.
        exponent: of ``power``: ``lr_ratio = batch_ratio ** exponent``, in [-2, 2].
        noise_scale: of ``gain``: the gradient noise scale, in samples, > 0.
        betas: of ``adam_sde``: ``sde`` or ``power``, the way in which the betas are scaled.
        co_scale: as in the job file: ``{"weight_decay": True}``, ``{"momentum": True}``, ``{"beta2": "half_life"}``.
        beta2_range: floor and ceiling of a scaled beta2, such as ``(0.95, 0.9999)``.
        reference_samples: length of the training that the reference was tuned in, in samples. With ``total_samples``,
            the rule follows the length of the training too (``scale.horizon`` of the job file; ``rule`` is ``auto`` or
            ``adam_sde``).
        total_samples: length of this training, in samples.

    Raises:
        PlanError: a number out of range; an option that is missing, or that the rule does not take; a rule that does
            not hold for this optimizer or this batch size; an unknown optimizer, or none where the rule depends on it;
            ``adascale``, which needs a loop that measures the gain.

    Sources:
        See ``scaler.core.rules.lr_ratio``.

    Example:
        >>> scaled = scale_lr(0.1, reference_batch_size=256, global_batch_size=8192, optimizer="sgd")
        >>> scaled.lr, scaled.lr_ratio, scaled.reason
        (3.2, 32.0, 'sgd: linear rule (Goyal et al. 2017), chosen by auto for the SGD family')
        >>> adam = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1}
        >>> scaled = scale_lr(
        ...     1e-3, reference_batch_size=16, global_batch_size=64, optimizer="adamw", rule="adam_sde", constants=adam
        ... )
        >>> scaled.lr, [round(beta, 6) for beta in scaled.constants["betas"]], scaled.constants["weight_decay"]
        (0.002, [0.6, 0.996], 0.1)
    """
    if not 0.0 < lr < float("inf"):
        raise PlanError(
            f"lr = {lr:g} is not in (0, inf).", "It is the learning rate that was tuned at reference_batch_size."
        )
    ratio = batch_ratio(reference_batch_size=reference_batch_size, global_batch_size=global_batch_size)
    if optimizer is not None:
        _require_optimizer(optimizer)
    made, reason = make_rule(
        rule,
        optimizer=optimizer,
        exponent=exponent,
        noise_scale=noise_scale,
        betas=betas,
        co_scale=co_scale,
        beta2_range=beta2_range,
        horizon=horizon(reference_samples=reference_samples, total_samples=total_samples),
    )
    given = dict(constants or {})
    _require_spelling(given, optimizer)
    scaled = scale(
        made,
        batch_ratio=ratio,
        reference_batch_size=reference_batch_size,
        optimizer=optimizer or "",  # without one, the rule is the same for every optimizer
        constants={**given, "lr": lr},
    )
    return ScaledLR(
        lr=peak_lr(lr, scaled.lr_ratio),
        lr_ratio=scaled.lr_ratio,
        batch_ratio=ratio,
        warmup_ratio=scaled.warmup_ratio,
        rule=made.name,
        reason=reason,
        constants={**given, **scaled.constants},
        reasons=scaled.reasons,
    )


def batch_ratio(*, reference_batch_size: int, global_batch_size: int) -> float:
    """Return ``global_batch_size / reference_batch_size``.

    Raises:
        PlanError: a batch size below 1.

    Example:
        >>> batch_ratio(reference_batch_size=16, global_batch_size=24)
        1.5
    """
    for name, size in (("reference_batch_size", reference_batch_size), ("global_batch_size", global_batch_size)):
        if not size >= 1:
            raise PlanError(f"{name} = {size} is below 1.", "It is samples per optimizer step, over all workers.")
    return global_batch_size / reference_batch_size


def horizon(*, reference_samples: int | None, total_samples: int | None) -> float | None:
    """Return ``total_samples / reference_samples``, or None if neither is given.

    Raises:
        PlanError: one of them is missing, or below 1.

    Example:
        >>> horizon(reference_samples=1000, total_samples=8000)
        8.0
    """
    lengths = {"reference_samples": reference_samples, "total_samples": total_samples}
    given = {name: length for name, length in lengths.items() if length is not None}
    for name, length in given.items():
        if not length >= 1:
            raise PlanError(f"{name} = {length} is below 1.", "It is the length of a training, in samples.")
    if len(given) == 1:
        (missing,) = lengths.keys() - given.keys()
        raise PlanError(
            f"{', '.join(given)} is given without {missing}.", f"Give {missing} too: the rule follows their ratio."
        )
    return given["total_samples"] / given["reference_samples"] if given else None


def peak_lr(base_lr: float, lr_ratio: float) -> float:
    """Return ``base_lr * lr_ratio``.

    Raises:
        PlanError: the product is not finite.

    Example:
        >>> peak_lr(0.1, 32.0)
        3.2
    """
    peak = base_lr * lr_ratio
    if not isfinite(peak):
        raise PlanError(f"peak_lr = {base_lr:g} x {lr_ratio:g} is too large for a number.", "Lower lr.")
    return peak


def make_rule(
    rule: str,
    *,
    optimizer: str | None,
    exponent: float | None = None,
    noise_scale: float | None = None,
    betas: str = "sde",
    co_scale: Mapping[str, bool | str] | None = None,
    beta2_range: tuple[float, float] | None = None,
    horizon: float | None = None,
) -> tuple[Rule, str]:
    """Return a rule with its options, and why this rule.

    Args:
        rule: one of ``scaler.core.rules.RULES``, but not ``adascale``.
        optimizer: its name in the job file, or ``module:Class``; None: not given.
        exponent: as in ``Rule``, in [-2, 2].
        noise_scale: as in ``Rule``.
        betas: as in ``Rule``.
        co_scale: as in the job file: ``weight_decay`` and ``momentum``, each True to scale it too, and ``beta2``.
        beta2_range: as in ``Rule``.
        horizon: ``horizon_ratio`` of ``Rule``.

    Raises:
        PlanError: an unknown rule; no optimizer for a rule that depends on it; an option that is missing, that the rule
            does not take, or that is out of range.

    Example:
        >>> make_rule("power", optimizer="adamw", exponent=0.5)[1]
        'adamw: power rule, as requested'
    """
    if optimizer is not None:
        name, reason = choose_rule(rule, optimizer=optimizer, horizon=horizon is not None)
    elif rule not in SOURCES:  # auto, or no rule at all
        raise _needs_optimizer(f"rule = {rule}") if rule in RULES else not_a_rule(rule)
    else:
        name, reason = rule, f"{SOURCES[rule]}, as requested"
    if name == "adascale":
        raise PlanError(
            "rule = adascale measures its gain in training, which only scaler's own loop does.",
            "Train with scaler submit, or use rule = gain with a noise_scale.",
        )
    for option, value, its_rule, meaning in (
        ("exponent", exponent, "power", "lr_ratio = batch_ratio ** exponent"),
        ("noise_scale", noise_scale, "gain", "the gradient noise scale, in samples"),
    ):
        if name == its_rule and value is None:
            raise PlanError(f"rule = {name} comes without {option}.", f"Give {option}: {meaning}.")
        if name != its_rule and value is not None:
            raise PlanError(f"{option} = {value:g} has no effect with rule = {name}.", f"Use rule = {its_rule}.")
    if exponent is not None and not -2.0 <= exponent <= 2.0:
        raise PlanError(f"exponent = {exponent:g} is not in [-2, 2].", "1 is linear, 0.5 the square root.")
    if noise_scale is not None and not noise_scale > 0.0:
        raise PlanError(f"noise_scale = {noise_scale:g} is not above 0.", "It is measured in samples.")
    asked = dict(co_scale or {})
    scaled_too = _co_scale(asked)
    if betas not in ("sde", "power"):
        raise PlanError(
            f"betas = {betas} is neither sde nor power, the ways to scale betas.",
            "The optimizer's own betas go into constants.",
        )
    if betas != "sde" and name != "adam_sde":
        raise PlanError(f"betas = {betas} has no effect with rule = {name}.", "Use rule = adam_sde.")
    if optimizer is None:
        depends = {f"rule = {name}": name not in ANY_OPTIMIZER}
        depends |= {f"co_scale = {{'{key}': {value!r}}}": bool(value) for key, value in asked.items()}
        for what, does in depends.items():
            if does:
                raise _needs_optimizer(what)
    made = Rule(
        name=name,
        exponent=exponent,
        noise_scale=noise_scale,
        betas=betas,
        horizon_ratio=horizon,
        beta2_range=beta2_range,
        co_scale=scaled_too,
    )
    _require_scaled_once(made)
    return made, reason


def _require_two_numbers(given: object) -> None:
    if isinstance(given, tuple | list) and [isinstance(number, int | float) for number in given] == [True, True]:
        return
    raise PlanError(f"beta2_range = {given!r} is not two numbers.", "Such as beta2_range=(0.95, 0.9999).")


def _require_scaled_once(rule: Rule) -> None:
    """Refuse a constant that is scaled twice, and a range for a beta2 that nothing scales."""
    if rule.horizon_ratio is not None and rule.co_scale.weight_decay:
        raise PlanError(
            "co_scale = {'weight_decay': True} scales weight decay, and the horizon scales it already.",
            "Leave weight_decay out of co_scale.",
        )
    if rule.name == "adam_sde" and rule.co_scale.beta2 is not None:
        raise PlanError(
            "co_scale = {'beta2': 'half_life'} scales beta2, and the rule adam_sde scales it already.",
            "Leave beta2 out of co_scale; betas = power holds the half-life.",
        )
    if rule.beta2_range is None:
        return
    _require_two_numbers(rule.beta2_range)
    low, high = rule.beta2_range
    if not 0.0 <= low <= high < 1.0:
        raise PlanError(
            f"beta2_range = ({low:g}, {high:g}) is not a range in [0, 1).", "Such as beta2_range=(0.95, 0.9999)."
        )
    if rule.name != "adam_sde" and rule.co_scale.beta2 is None:
        raise PlanError(
            f"beta2_range = ({low:g}, {high:g}) has no effect, because nothing scales beta2.",
            "Give co_scale={'beta2': 'half_life'}.",
        )


def _co_scale(asked: Mapping[str, bool | str]) -> CoScale:
    """Return what else is scaled; refuse a key or a value that ``scale_lr`` does not know."""
    for key, value in asked.items():
        if key not in CO_SCALES:
            raise PlanError(
                f"co_scale has the key {key}, which is not scaled here.",
                f"{did_you_mean(key, CO_SCALES)}Keys: {', '.join(CO_SCALES)}.",
            )
        if key == "beta2":
            if value not in (None, "half_life"):
                raise PlanError(f"co_scale has beta2 = {value}.", "Give {'beta2': 'half_life'}.")
        elif not isinstance(value, bool):
            raise PlanError(f"co_scale has {key} = {value}, which is not True or False.", f"Give {{'{key}': True}}.")
    return CoScale(
        weight_decay=asked.get("weight_decay") is True,
        momentum=asked.get("momentum") is True,
        beta2="half_life" if asked.get("beta2") else None,
    )


def _require_optimizer(name: str) -> None:
    """Refuse a name that is neither an optimizer's name in the job file nor an import path."""
    if name not in NAMED_OPTIMIZERS and not fullmatch(r"[\w.]+:\w+", name):
        raise PlanError(
            f"optimizer = {name} is not an optimizer.",
            f"{optimizer_hint(name)}Use {', '.join(NAMED_OPTIMIZERS)}, or an import path such as torch.optim:NAdam.",
        )


def _needs_optimizer(what: str) -> PlanError:
    return PlanError(
        f"{what} depends on the optimizer, and none is given.",
        'Give the optimizer that lr was tuned with: optimizer="sgd", optimizer="adamw", ...; '
        f"without it, use one of the rules {', '.join(ANY_OPTIMIZER)}.",
    )


def _require_spelling(constants: Mapping[str, Any], optimizer: str | None) -> None:
    """Refuse a constant whose name looks misspelt: a rule would silently not scale it."""
    known = optimizer_facts(optimizer or "").defaults
    for name in constants:
        meant = nearest(name, SCALED) if name not in (*known, *SCALED) else None
        if meant is not None and abs(len(meant) - len(name)) <= 1:  # not torch's decoupled_weight_decay
            raise PlanError(f"constants has the key {name}, which no rule scales.", f'Did you mean "{meant}"?')
