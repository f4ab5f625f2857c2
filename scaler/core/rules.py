"""From the ratio of batch sizes to the ratio of learning rates."""

from collections.abc import Mapping
from math import sqrt
from types import MappingProxyType

from scaler.errors import PlanError

SGD_FAMILY = ("sgd", "torch.optim:SGD", "torch.optim:ASGD")
ADAPTIVE = (
    "adam",
    "adamw",
    "rmsprop",
    "torch.optim:Adam",
    "torch.optim:AdamW",
    "torch.optim:Adamax",
    "torch.optim:NAdam",
    "torch.optim:RAdam",
    "torch.optim:RMSprop",
    "torch.optim:Adagrad",
)

SOURCES: Mapping[str, str] = MappingProxyType(
    {
        "linear": "linear rule (Goyal et al. 2017)",
        "sqrt": "square-root rule (Krizhevsky 2014)",
        "none": "no rule: the reference rate at any batch",
    }
)


def choose_rule(rule: str, *, optimizer: str) -> tuple[str, str]:
    """Return the rule to use and why.

    ``auto`` looks the optimizer up in a table: linear for the SGD family, whose step is proportional to the
    gradient; square root for optimizers that divide by a running root of its square. Names are compared
    whole: a name that is not in the table is refused, never guessed at.

    Args:
        rule: ``auto``, ``linear``, ``sqrt`` or ``none``.
        optimizer: the optimizer's name in the job file, or its import path as ``module:Class``.

    Returns:
        ``(rule, reason)``.

    Raises:
        PlanError: ``auto`` with an optimizer that is not in the table.

    Example:
        >>> choose_rule("auto", optimizer="adamw")
        ('sqrt', 'adamw: square-root rule (Krizhevsky 2014), chosen by auto for adaptive optimizers')
    """
    if rule != "auto":
        return rule, f"{optimizer}: {SOURCES[rule]}, as asked for"
    if optimizer in SGD_FAMILY:
        return "linear", f"{optimizer}: {SOURCES['linear']}, chosen by auto for the SGD family"
    if optimizer in ADAPTIVE:
        return "sqrt", f"{optimizer}: {SOURCES['sqrt']}, chosen by auto for adaptive optimizers"
    raise PlanError(
        f"scale.rule = auto does not know the optimizer {optimizer}.",
        "Say which rule it follows: rule: linear, rule: sqrt or rule: none.",
    )


def lr_ratio(rule: str, *, batch_ratio: float) -> float:
    """Return what the rule makes of ``batch_ratio``; ``peak_lr = base_lr * lr_ratio``.

        linear: batch_ratio      sqrt: batch_ratio ** 0.5      none: 1

    A ratio below 1 scales down by the same formula.

    Args:
        rule: ``linear``, ``sqrt`` or ``none`` (``auto`` is resolved by ``choose_rule``).
        batch_ratio: global batch size over the reference's, > 0.

    Sources:
        linear: Goyal et al. 2017, https://arxiv.org/abs/1706.02677, section 2.1.
        sqrt: Krizhevsky 2014, https://arxiv.org/abs/1404.5997; Malladi et al. 2022,
        https://arxiv.org/abs/2205.10287, for Adam (who also change the betas; ``sqrt`` does not).

    Example:
        >>> [lr_ratio(r, batch_ratio=16.0) for r in ("linear", "sqrt", "none")]
        [16.0, 4.0, 1.0]
    """
    match rule:
        case "linear":
            return batch_ratio
        case "sqrt":
            return sqrt(batch_ratio)
        case "none":
            return 1.0
        case _:
            raise PlanError(f"scale.rule = {rule} is not a rule.", "Rules: auto, linear, sqrt, none.")
