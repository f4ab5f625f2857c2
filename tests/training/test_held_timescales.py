"""Every rule with every optimizer and every co-scaling holds what it promises, or is refused.

Held means: torch's own optimizers with gradients of 0 shrink their weights as much over the same samples; and with a
steady gradient they move as far, if the rule holds the learning rate per sample.
"""

from collections.abc import Iterator
from functools import cache
from itertools import product
from math import log
from typing import Any

import pytest
import torch
from torch import nn

from scaler.core.optimizers import NAMED_OPTIMIZERS
from scaler.core.rules import RULES, CoScale, Rule
from scaler.core.scale import Scaled, scale
from scaler.core.timescales import decay_form, step_gain, weight_decay_timescale
from scaler.errors import PlanError
from scaler.training.optimizer.build import build_optimizer

REFERENCE = 16
LR = 0.01
RATIOS = (0.5, 4.0)
STEPS = 400  # at the largest ratio, where a momentum of 0.9 becomes 0.975, which remembers 40 steps

ADAM = {"betas": (0.9, 0.999), "eps": 1e-8}
PATHS: list[tuple[str, dict[str, Any]]] = [
    ("torch.optim:SGD", {}),
    ("torch.optim:SGD", {"momentum": 0.9}),
    ("torch.optim:SGD", {"momentum": 0.9, "nesterov": True}),
    ("torch.optim:SGD", {"momentum": 0.9, "dampening": 0.5}),
    ("torch.optim:ASGD", {}),
    ("torch.optim:Adam", ADAM),
    ("torch.optim:Adam", ADAM | {"decoupled_weight_decay": True}),
    ("torch.optim:AdamW", ADAM),
    ("torch.optim:NAdam", ADAM),
    ("torch.optim:NAdam", ADAM | {"decoupled_weight_decay": True}),
    ("torch.optim:RAdam", ADAM | {"decoupled_weight_decay": True}),
    ("torch.optim:Adamax", ADAM),
    ("torch.optim:Adagrad", {}),
    ("torch.optim:RMSprop", {"alpha": 0.99, "eps": 1e-8}),
    ("torch.optim:Adadelta", {}),
    ("torch.optim:Adafactor", {}),
    ("torch.optim:Rprop", {}),
    ("torch.optim:Muon", {"momentum": 0.95}),
    ("pytorch_optimizer:Lion", {}),
]
OPTIMIZERS = [
    *((name, dict(facts.defaults)) for name, facts in NAMED_OPTIMIZERS.items()),
    ("sgd", {"momentum": 0.9}),
    ("sgd", {"momentum": 0.9, "nesterov": True}),
    *PATHS,
]
RULES_TO_TRY = [
    Rule(name=name, betas=betas, exponent=0.7 if name == "power" else None, noise_scale=100.0)
    for name in RULES
    if name != "auto"
    for betas in (("sde", "power") if name == "adam_sde" else ("sde",))
]


def asked(rule: Rule, *, weight_decay: bool, momentum: bool) -> Rule:
    return Rule(
        name=rule.name,
        exponent=rule.exponent,
        noise_scale=rule.noise_scale,
        betas=rule.betas,
        co_scale=CoScale(weight_decay=weight_decay, momentum=momentum),
    )


def combinations(optimizer: str, constants: dict[str, Any]) -> Iterator[tuple[Rule, float, Scaled | None]]:
    """Return each rule, co-scaling and ratio with the scaled values; None: refused."""
    for rule, weight_decay, momentum, ratio in product(RULES_TO_TRY, (False, True), (False, True), RATIOS):
        wanted = asked(rule, weight_decay=weight_decay, momentum=momentum)
        try:
            found = scale(
                wanted,
                batch_ratio=ratio,
                reference_batch_size=REFERENCE,
                optimizer=optimizer,
                constants={**constants, "lr": LR},
            )
        except PlanError:
            found = None
        yield wanted, ratio, found


@cache
def _weights(
    optimizer: str, lr: float, options: tuple[tuple[str, Any], ...], gradient: float, steps: int
) -> list[float]:
    """Return one weight at the start, the middle and the end of steps under a steady gradient."""
    weight = nn.Parameter(torch.ones(2, 2, dtype=torch.float64))
    made = build_optimizer({"w": weight}, {"name": optimizer, "lr": lr, **dict(options)})
    kept = [1.0]
    for step in range(1, steps + 1):
        weight.grad = torch.full_like(weight, gradient)
        made.step()
        if step in (steps // 2, steps):
            kept.append(float(weight.detach()[0, 0]))
    return kept


def weights(optimizer: str, lr: float, options: dict[str, Any], *, gradient: float, steps: int) -> list[float]:
    plain = {key: value for key, value in options.items() if key != "lr"}
    return _weights(optimizer, lr, tuple(sorted(plain.items())), gradient, steps)


def shrinkage(optimizer: str, lr: float, options: dict[str, Any], *, steps: int) -> float:
    """Return how much the log of a weight without gradient falls in the second half, when momentum has built up.

    Schedule-free's weights are averages over the whole run, so the whole run counts.
    """
    start, middle, end = weights(optimizer, lr, options, gradient=0.0, steps=steps)
    return log(start / end) if optimizer.startswith("schedulefree") else log(middle / end)


def steps_at(ratio: float) -> int:
    return round(STEPS * max(RATIOS) / ratio)


def ids(value: Any) -> str:
    return value if isinstance(value, str) else "-".join(f"{key}={value[key]}" for key in value) or "plain"


@pytest.mark.parametrize(("optimizer", "constants"), OPTIMIZERS, ids=ids)
def test_weight_decay_that_is_co_scaled_shrinks_weights_as_much_over_the_same_samples(
    optimizer: str, constants: dict[str, Any]
) -> None:
    decays = {**constants, "weight_decay": 0.0005}
    form = decay_form(optimizer, decays)
    if form is None:
        with pytest.raises(PlanError):
            scale(
                Rule(name="sqrt", co_scale=CoScale(weight_decay=True)),
                batch_ratio=2.0,
                reference_batch_size=REFERENCE,
                optimizer=optimizer,
                constants=decays,
            )
        return
    before = weight_decay_timescale(optimizer, constants=decays, lr=LR, global_batch_size=REFERENCE)
    reference = shrinkage(optimizer, LR, decays, steps=steps_at(1.0))
    checked = 0
    for rule, ratio, found in combinations(optimizer, decays):
        if found is None or not rule.co_scale.weight_decay:
            continue
        built, lr = {**decays, **found.constants}, LR * found.lr_ratio
        after = weight_decay_timescale(optimizer, constants=built, lr=lr, global_batch_size=REFERENCE * ratio)
        assert after == pytest.approx(before, rel=1e-9), (rule, ratio)
        seen = shrinkage(optimizer, lr, built, steps=steps_at(ratio))
        assert seen == pytest.approx(reference, rel=0.02), (rule, ratio)
        checked += 1
    assert checked >= 5 * len(RATIOS), "the rules that hold for any optimizer"


@pytest.mark.parametrize(("optimizer", "constants"), OPTIMIZERS, ids=ids)
def test_what_is_not_co_scaled_is_what_the_reference_has(optimizer: str, constants: dict[str, Any]) -> None:
    decays = {**constants, "weight_decay": 0.0005}
    for rule, _, found in combinations(optimizer, decays):
        if found is None:
            continue
        allowed = {"weight_decay"} if rule.co_scale.weight_decay else set()
        allowed |= {"momentum"} if rule.co_scale.momentum else set()
        allowed |= {"betas", "alpha", "eps"} if rule.name == "adam_sde" else set()
        assert found.constants.keys() <= allowed
        assert found.weight_decay_ratio == 1.0 or rule.co_scale.weight_decay


@pytest.mark.parametrize(
    ("optimizer", "constants"),
    [(name, options) for name, options in OPTIMIZERS if name.endswith(("sgd", ":SGD"))],
    ids=ids,
)
def test_sgd_moves_as_far_over_the_same_samples_where_the_learning_rate_per_sample_is_held(
    optimizer: str, constants: dict[str, Any]
) -> None:
    """By the linear rule, which scales the learning rate; and by a larger momentum instead."""

    def speed(lr: float, options: dict[str, Any], *, steps: int) -> float:
        _, middle, end = weights(optimizer, lr, options, gradient=1.0, steps=steps)
        return middle - end

    def per_sample(lr: float, options: dict[str, Any], ratio: float) -> float:
        return lr * step_gain(options) / ratio

    reference = speed(LR, constants, steps=steps_at(1.0))
    held = 0
    for rule, ratio, found in combinations(optimizer, constants):
        if found is None or not (rule.name == "linear" or rule.co_scale.momentum) or rule.co_scale.weight_decay:
            continue
        built, lr = {**constants, **found.constants}, LR * found.lr_ratio
        if not optimizer.startswith("schedulefree"):  # its momentum is a place between two points, not an average
            assert per_sample(lr, built, ratio) == pytest.approx(per_sample(LR, constants, 1.0), rel=1e-12)
        assert speed(lr, built, steps=steps_at(ratio)) == pytest.approx(reference, rel=0.02), (rule, ratio)
        held += 1
    assert held >= len(RATIOS)


def test_momentum_and_weight_decay_together_do_not_count_the_ratio_twice() -> None:
    sgd = {"momentum": 0.9, "weight_decay": 1e-3}
    found = scale(
        Rule(name="none", co_scale=CoScale(weight_decay=True, momentum=True)),
        batch_ratio=4.0,
        reference_batch_size=REFERENCE,
        optimizer="sgd",
        constants=sgd,
    )
    assert found.constants == {"momentum": 0.975, "weight_decay": 1e-3}
    assert found.weight_decay_ratio == 1.0, "of the groups' own weight decay"
    assert found.reasons["weight_decay"] == "x 1: the momentum holds its timescale (Wang and Aitchison 2024)"


def test_every_optimizer_of_a_job_is_tried() -> None:
    assert {name for name, _ in OPTIMIZERS} >= set(NAMED_OPTIMIZERS)
