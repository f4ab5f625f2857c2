"""A step with fewer samples than the global batch: the last of an epoch, or of the training."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from scaler.core.optimizers import optimizer_facts
from scaler.core.rules import Rule
from scaler.core.scale import Scaled, scale


def scale_short_step(
    rule: Rule,
    *,
    samples: float,
    global_batch_size: float,
    reference_batch_size: int,
    optimizer: str,
    constants: Mapping[str, Any],
) -> Scaled:
    """Return the ratios and constants of a short step, which is treated as a batch of its own size.

    The learning rate and the constants that the rule scales are the rule's for ``samples``. In every running average of
    the optimizer, the step counts as the share ``samples / global_batch_size`` of a whole step:

        decay of the step = decay ** share

    Otherwise the gradient of a few samples, with its large noise, would count in Adam's averages as much as the
    gradient of a whole batch. Measured on the digits with 1,281 samples in steps of 256, AdamW: the final training loss
    is 0.85 without this weighting, and 0.38 with 1,280 samples (docs/decisions/0025).

    Where ``beta2_range`` changes the beta2 of whole steps, the short step has its share of this beta2.

    With ``co_scale.momentum`` the learning rate of whole steps is constant, and a short step gets its share of this
    learning rate.

    Args:
        rule: the rule with its options.
        samples: in the step, over all workers, in [1, ``global_batch_size``].
        global_batch_size: samples in a whole step.
        reference_batch_size: samples per step in the reference.
        optimizer: its name in the job file, or ``module:Class``.
        constants: the reference's options of the optimizer.

    Returns:
        The ratios and constants of this step. The constants that are left out are those of a whole step.

    Raises:
        PlanError: the rule does not hold for the whole batch.

    Example:
        >>> found = scale_short_step(Rule(name="sqrt"), samples=16, global_batch_size=64, reference_batch_size=16,
        ...                          optimizer="adam", constants={"betas": (0.9, 0.999)})
        >>> found.lr_ratio, [round(beta, 6) for beta in found.constants["betas"]]
        (1.0, [0.974004, 0.99975])
    """
    given: dict[str, Any] = {
        "reference_batch_size": reference_batch_size,
        "optimizer": optimizer,
        "constants": constants,
    }
    whole = scale(rule, batch_ratio=global_batch_size / reference_batch_size, **given)
    share, ratio = samples / global_batch_size, samples / reference_batch_size
    if rule.co_scale.momentum:
        own = replace(whole, batch_ratio=ratio, lr_ratio=whole.lr_ratio * share, constants={}, reasons={})
    else:
        own = scale(replace(rule, beta2_range=None), batch_ratio=ratio, **given)
    held = {**constants, **whole.constants}
    facts = optimizer_facts(optimizer)
    kept = {name: _to_the_power(held[name], share) for name in facts.averages if held.get(name) is not None}
    found, name = {**kept, **own.constants}, facts.sde_constant or "betas"
    if rule.co_scale.beta2 is not None:  # the half-life in samples: the share of a whole step's decay
        found[name] = kept.get(name) or (held[name][0], held[name][1] ** share)
    elif whole.unbounded_beta2 is not None:
        found[name] = (own.constants[name][0], kept[name][1]) if name == "betas" else kept[name]
    return replace(own, constants=found)


def short_step_momentum(momentum: float, *, optimizer: str, share: float) -> float:
    """Return the momentum of a short step when the schedule cycles the momentum.

    The decay of an average is raised to the power of ``share``. SGD's momentum is the decay of a sum, not of an
    average: it stays, because the learning rate weighs the sum.

    Example:
        >>> [short_step_momentum(0.81, optimizer=name, share=0.5) for name in ("adamw", "sgd")]
        [0.9, 0.81]
    """
    return momentum**share if optimizer_facts(optimizer).averages else momentum


def _to_the_power(decay: Any, share: float) -> Any:
    return tuple(float(beta) ** share for beta in decay) if isinstance(decay, list | tuple) else float(decay) ** share
