"""Several plans of one job: their labels, the refused combinations, and the places of their curves."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scaler.plan import Plan
from scaler.report.text.format import plural

Case = tuple[int | None, str | None]
"""Workers and rule; None: not given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """A combination of workers and rule that has no plan, with the reason."""

    workers: int | None
    rule: str | None
    problem: str
    remedy: str


def labels(plans: Sequence[Plan]) -> list[str]:
    """Return a label for each plan: its workers, its rule, or both if both differ.

    Example:
        >>> from types import SimpleNamespace as Made
        >>> labels([Made(world_size=size, rule=rule) for size in (1, 2) for rule in ("linear", "sqrt")])
        ['linear, 1 worker', 'sqrt, 1 worker', 'linear, 2 workers', 'sqrt, 2 workers']
        >>> labels([Made(world_size=2, rule=rule) for rule in ("linear", "sqrt")])
        ['linear', 'sqrt']
    """
    sizes, rules = {plan.world_size for plan in plans}, {plan.rule for plan in plans}
    return [
        ", ".join(
            ([plan.rule] if len(rules) > 1 else [])
            + ([plural(plan.world_size, "worker")] if len(sizes) > 1 or len(rules) == 1 else [])
        )
        for plan in plans
    ]


def among(cases: Iterable[Case]) -> str:
    """Return combinations as text; rules with the same workers are joined.

    Example:
        >>> among([(1, None), (2, None)]), among([(2, "linear"), (4, "linear"), (2, "sqrt"), (4, "sqrt"), (2, "none")])
        ('1, 2 workers', 'linear, sqrt on 2, 4 workers; none on 2 workers')
    """
    sizes: dict[str | None, dict[int, None]] = {}
    for workers, rule in cases:
        sizes.setdefault(rule, {}).update({workers: None} if workers is not None else {})
    rules: dict[tuple[int, ...], list[str]] = {}
    for rule, mine in sizes.items():
        rules.setdefault(tuple(mine), []).extend([rule] if rule is not None else [])
    return "; ".join(" on ".join(filter(None, [", ".join(names), _workers(mine)])) for mine, names in rules.items())


def _workers(sizes: Sequence[int]) -> str:
    several = ", ".join(f"{size:,}" for size in sizes)
    return f"{several} worker{'' if sizes == (1,) else 's'}" if sizes else ""


def curve_places(plan: Plan, count: int) -> list[int]:
    """Return places for a plan's curve, in samples: the corners of its lr curve, and ``count`` equal steps."""
    even = {round(index * plan.total_samples / count) for index in range(count + 1)}
    return sorted({samples for samples, _ in plan.lr_curve} | even)
