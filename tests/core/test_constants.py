"""The law of the horizon, the half-life of beta2 and its range, each by its table of values and by what they refuse."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import scaler
from scaler.core.rules import CoScale, Rule
from scaler.core.scale import Scaled, scale
from scaler.core.short_step import scale_short_step
from scaler.core.timescales import weight_decay_timescale
from scaler.errors import PlanError

REFERENCE = 64
LR = 0.001
ADAMW = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1}
RMS = {"alpha": 0.99, "eps": 1e-8, "weight_decay": 0.0}
HALF_LIFE = CoScale(beta2="half_life")


def scaled(rule: Rule, batch: float, *, optimizer: str = "adamw", constants: dict[str, Any] = ADAMW) -> Scaled:
    return scale(
        rule,
        batch_ratio=batch / REFERENCE,
        reference_batch_size=REFERENCE,
        optimizer=optimizer,
        constants={**constants, "lr": LR},
    )


def refusal(rule: Rule, batch: float, **values: Any) -> str:
    with pytest.raises(PlanError) as caught:
        scaled(rule, batch, **values)
    return str(caught.value)


def law(horizon: float, betas: str = "sde", **options: Any) -> Rule:
    return Rule(name="adam_sde", betas=betas, horizon_ratio=horizon, **options)


@pytest.mark.parametrize(
    ("batch", "horizon", "lr", "decay", "betas", "eps"),
    [
        (64, 1.0, 1.0, 0.1, (0.9, 0.999), 1e-8),  # the reference itself
        (64, 4.0, 0.5, 0.05, (0.975, 0.99975), 2e-8),  # kappa 1/4: a training 4 times as long
        (256, 1.0, 2.0, 0.2, (0.6, 0.996), 5e-9),  # kappa 4: 4 times the batch over the same samples
        (256, 4.0, 1.0, 0.1, (0.9, 0.999), 1e-8),  # kappa 1: the same number of steps
        (64, 0.25, 2.0, 0.2, (0.6, 0.996), 5e-9),  # a quarter of the training
    ],
)
def test_the_law_scales_with_the_batch_over_the_length(
    batch: int, horizon: float, lr: float, decay: float, betas: tuple[float, float], eps: float
) -> None:
    found = scaled(law(horizon), batch)
    assert (found.lr_ratio, found.batch_ratio) == (lr, batch / REFERENCE)
    assert found.weight_decay_ratio == pytest.approx(decay / 0.1, rel=1e-15)
    assert found.constants["weight_decay"] == pytest.approx(decay, rel=1e-15)
    assert found.constants["betas"] == pytest.approx(betas, rel=1e-12)
    assert found.constants["eps"] == pytest.approx(eps, rel=1e-12)


def test_a_training_like_the_reference_is_the_reference_to_the_last_bit() -> None:
    for batch, horizon in ((64, 1.0), (192, 3.0)):
        found = scaled(law(horizon), batch)
        assert (found.lr_ratio, found.weight_decay_ratio) == (1.0, 1.0)
        assert found.constants == ADAMW


@given(
    batch=st.integers(1, 4096),
    horizon=st.floats(0.05, 200.0),
    decay=st.floats(1e-6, 0.02),
)
def test_the_timescale_of_weight_decay_is_held_as_a_share_of_the_training(
    batch: int, horizon: float, decay: float
) -> None:
    """``B / (lr * weight_decay * D)`` is that of the reference, at any batch and any length."""
    samples = 1e6  # of the reference's training
    given = {**ADAMW, "weight_decay": decay}
    found = scaled(law(horizon, "power"), batch, constants=given)
    before = weight_decay_timescale("adamw", constants=given, lr=LR, global_batch_size=REFERENCE)
    after = weight_decay_timescale(
        "adamw", constants={**given, **found.constants}, lr=LR * found.lr_ratio, global_batch_size=batch
    )
    assert before is not None
    assert after is not None
    assert after / (samples * horizon) == pytest.approx(before / samples, rel=1e-12)


@given(batch=st.integers(1, 64), share=st.floats(0.02, 1.0))
def test_a_short_step_has_the_numbers_of_its_own_size(batch: int, share: float) -> None:
    samples = max(1, round(share * batch))
    rule = law(8.0)
    short = scale_short_step(
        rule,
        samples=samples,
        global_batch_size=batch,
        reference_batch_size=REFERENCE,
        optimizer="adamw",
        constants={**ADAMW, "lr": LR},
    )
    alone = scaled(rule, samples)
    assert (short.lr_ratio, short.weight_decay_ratio) == (alone.lr_ratio, alone.weight_decay_ratio)
    assert short.constants == alone.constants


@pytest.mark.parametrize(
    ("rule", "optimizer", "constants", "text"),
    [
        (
            Rule(name="sqrt", horizon_ratio=2.0),
            "adamw",
            ADAMW,
            "scale.horizon = true scales AdamW's learning rate, weight decay, betas and eps together, and rule: sqrt "
            "gives another learning rate.\n  Use rule: auto, or leave scale.horizon out.",
        ),
        *(
            (
                law(2.0),
                name,
                constants,
                "scale.horizon scales Adam's averages and a weight decay that is decoupled from the gradient, and "
                f"{name} does not have both.\n  It is for adamw; without weight decay, use it with weight_decay: 0.",
            )
            for name, constants in (
                ("adam", ADAMW),
                ("sgd", {"momentum": 0.9}),
                ("rmsprop", RMS),
                ("schedulefree_adamw", ADAMW),
                ("torch.optim:NAdam", ADAMW),  # coupled, unless decoupled_weight_decay is set
            )
        ),
        (
            law(0.5),
            "adamw",
            ADAMW,
            "scale.horizon needs kappa * (1 - beta1) < 1, but 32 * (1 - 0.9) = 3.2.\n"
            "  Use betas: power, or a global batch of at most 319 (reference 64).",
        ),
        (
            law(0.5, "power"),
            "adamw",
            {**ADAMW, "weight_decay": 5.0},
            "scale.horizon gives weight decay a timescale of 6400 samples, and a step of 1024 would take 16% of the "
            "weights.\n  Lower weight_decay, or use a global batch of at most 640 (reference 64).",
        ),
        (
            law(2.0, "power"),
            "torch.optim:AdamW",
            {"betas": (0.9, 0.99), "eps": 1e-8},
            "scale.horizon scales weight_decay, and reference.optimizer does not give it.\n  Add weight_decay: 0.01.",
        ),
    ],
)
def test_what_the_law_refuses(rule: Rule, optimizer: str, constants: dict[str, Any], text: str) -> None:
    assert refusal(rule, 1024, optimizer=optimizer, constants=constants) == text


def test_the_batch_that_a_refusal_names_is_the_largest() -> None:
    scaled(law(0.5), 319)
    assert "at most 319" in refusal(law(0.5), 320)


@pytest.mark.parametrize(
    ("optimizer", "constants", "batch", "expected"),
    [
        ("adamw", ADAMW, 4, (0.9, 0.999 ** (1 / 16))),  # what Adam that is scaled down needs
        ("adamw", ADAMW, 256, (0.9, 0.999**4)),
        ("adam", ADAMW, 64, (0.9, 0.999)),
        ("torch.optim:NAdam", ADAMW, 256, (0.9, 0.999**4)),
        ("torch.optim:RAdam", ADAMW, 256, (0.9, 0.999**4)),
        ("schedulefree_adamw", ADAMW, 256, (0.9, 0.999**4)),
        ("rmsprop", RMS, 256, 0.99**4),  # alpha is the decay of the same average
    ],
)
@pytest.mark.parametrize("rule", ["sqrt", "none", "linear"])
def test_beta2_holds_its_half_life_in_samples_on_its_own(
    optimizer: str, constants: dict[str, Any], batch: int, expected: Any, rule: str
) -> None:
    found = scaled(Rule(name=rule, co_scale=HALF_LIFE), batch, optimizer=optimizer, constants=constants)
    name = "alpha" if optimizer == "rmsprop" else "betas"
    assert list(found.constants) == [name]  # eps, beta1 and weight decay stay
    assert found.constants[name] == pytest.approx(expected, rel=1e-15)
    assert found.lr_ratio == scaled(Rule(name=rule), batch, optimizer=optimizer, constants=constants).lr_ratio


@pytest.mark.parametrize("optimizer", ["sgd", "lion", "lamb", "torch.optim:Adamax", "my_pkg:Mine"])
def test_an_optimizer_without_a_running_mean_of_squares_is_refused(optimizer: str) -> None:
    assert refusal(Rule(name="none", co_scale=HALF_LIFE), 256, optimizer=optimizer) == (
        "scale.co_scale.beta2 holds the half-life of a running mean of squared gradients, and the optimizer is "
        f"{optimizer}.\n  It is for adam, adamw, rmsprop and schedulefree_adamw."
    )


@pytest.mark.parametrize(
    ("rule", "batch", "optimizer", "constants", "expected", "unbounded"),
    [
        (Rule(name="sqrt", co_scale=HALF_LIFE), 64 * 64, "adamw", ADAMW, (0.9, 0.95), 0.999**64),  # its floor
        (Rule(name="sqrt", co_scale=HALF_LIFE), 4, "adamw", ADAMW, (0.9, 0.9999), 0.999 ** (1 / 16)),  # its ceiling
        (Rule(name="sqrt", co_scale=HALF_LIFE), 256, "adamw", ADAMW, (0.9, 0.999**4), None),  # inside
        (Rule(name="adam_sde", betas="power"), 64 * 64, "adamw", ADAMW, (0.9**64, 0.95), 0.999**64),
        (law(64.0), 64, "adamw", ADAMW, (1 - 0.1 / 64, 0.9999), 1 - 0.001 / 64),
        (Rule(name="none", co_scale=HALF_LIFE), 640, "rmsprop", RMS, 0.95, 0.99**10),
    ],
)
def test_the_range_bounds_what_the_rule_gives(
    rule: Rule, batch: int, optimizer: str, constants: dict[str, Any], expected: Any, unbounded: float | None
) -> None:
    bounded = replace(rule, beta2_range=(0.95, 0.9999))
    found = scaled(bounded, batch, optimizer=optimizer, constants=constants)
    name = "alpha" if optimizer == "rmsprop" else "betas"
    assert found.constants[name] == pytest.approx(expected, rel=1e-12)
    assert found.unbounded_beta2 == (None if unbounded is None else pytest.approx(unbounded, rel=1e-12))
    assert ("kept at" in found.reasons[name]) == (unbounded is not None)


def test_a_range_that_would_change_the_reference_is_refused() -> None:
    rule = Rule(name="sqrt", beta2_range=(0.95, 0.99), co_scale=HALF_LIFE)
    assert refusal(rule, 256) == (
        "scale.beta2_range = [0.95, 0.99] does not contain the reference's beta2 of 0.999.\n"
        "  Give a range around it, such as [0.95, 0.999]."
    )


@pytest.mark.parametrize(
    ("rule", "optimizer", "constants"),
    [
        (Rule(name="sqrt", co_scale=HALF_LIFE), "adamw", ADAMW),
        (Rule(name="sqrt", co_scale=HALF_LIFE), "schedulefree_adamw", ADAMW),
        (Rule(name="adam_sde", betas="power"), "adamw", ADAMW),
        (Rule(name="adam_sde"), "rmsprop", {**RMS, "alpha": 0.999}),
    ],
)
@pytest.mark.parametrize("bounds", [None, (0.99, 0.9999)])
def test_four_quarter_steps_leave_as_much_of_the_mean_of_squares_as_a_whole_one(
    rule: Rule, optimizer: str, constants: dict[str, Any], bounds: tuple[float, float] | None
) -> None:
    """Also where the range sets the decay of whole steps."""
    rule = replace(rule, beta2_range=bounds)
    name = "alpha" if optimizer == "rmsprop" else "betas"
    whole = scaled(rule, 1024, optimizer=optimizer, constants=constants)
    assert (whole.unbounded_beta2 is not None) == (bounds is not None)
    short = scale_short_step(
        rule,
        samples=256,
        global_batch_size=1024,
        reference_batch_size=REFERENCE,
        optimizer=optimizer,
        constants=constants,
    )

    def of_squares(found: Scaled) -> float:
        value = found.constants[name]
        return float(value if name == "alpha" else value[1])

    exact = rule.betas == "power" or rule.co_scale.beta2 is not None or bounds is not None
    assert of_squares(short) ** 4 == pytest.approx(of_squares(whole), rel=1e-12 if exact else 1e-3)
    if rule.co_scale.beta2 is not None:  # the first beta: a share of Adam's average, and schedule-free's own point
        first = 0.9 ** (1 / 4) if optimizer == "adamw" else 0.9
        assert short.constants["betas"][0] == pytest.approx(first, rel=1e-15)


def test_a_momentum_that_holds_the_timescale_of_weight_decay_counts_it_once() -> None:
    """``B (1 - m) / (lr wd)`` stays by the momentum alone, so weight decay is not scaled as well."""
    sgd = {"momentum": 0.5, "weight_decay": 0.001}
    before = weight_decay_timescale("sgd", constants=sgd, lr=LR, global_batch_size=REFERENCE)
    for also in (False, True):
        rule = Rule(name="none", co_scale=CoScale(momentum=True, weight_decay=also))
        found = scaled(rule, 512, optimizer="sgd", constants=sgd)
        after = weight_decay_timescale(
            "sgd", constants={**sgd, **found.constants}, lr=LR * found.lr_ratio, global_batch_size=512
        )
        assert found.weight_decay_ratio == 1.0
        assert after == pytest.approx(before, rel=1e-12)


# The library


def test_scale_lr_follows_the_length_too() -> None:
    found = scaler.scale_lr(
        LR,
        reference_batch_size=64,
        global_batch_size=256,
        optimizer="adamw",
        constants=ADAMW,
        reference_samples=10_000,
        total_samples=160_000,
    )
    assert (found.rule, found.lr_ratio, found.batch_ratio) == ("adam_sde", 0.5, 4.0)
    assert found.constants["weight_decay"] == 0.05
    assert found.reason == (
        "adamw: square root of the batch over the length of the training (Mlodozeniec et al. 2025), chosen by "
        "scale.horizon"
    )


def test_scale_lr_holds_the_half_life_within_a_range() -> None:
    found = scaler.scale_lr(
        LR,
        reference_batch_size=64,
        global_batch_size=4,
        optimizer="adamw",
        constants=ADAMW,
        co_scale={"beta2": "half_life"},
        beta2_range=(0.95, 0.9999),
    )
    assert found.constants == {**ADAMW, "betas": (0.9, 0.9999)}
    assert found.lr == LR / 4


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"reference_samples": 100},
            "reference_samples is given without total_samples.\n"
            "  Give total_samples too: the rule follows their ratio.",
        ),
        (
            {"reference_samples": 0, "total_samples": 100},
            "reference_samples = 0 is below 1.\n  It is the length of a training, in samples.",
        ),
        (
            {"reference_samples": 100, "total_samples": 100, "co_scale": {"weight_decay": True}},
            "co_scale = {'weight_decay': True} scales weight decay, and the horizon scales it already.\n"
            "  Leave weight_decay out of co_scale.",
        ),
        (
            {"rule": "adam_sde", "co_scale": {"beta2": "half_life"}},
            "co_scale = {'beta2': 'half_life'} scales beta2, and the rule adam_sde scales it already.\n"
            "  Leave beta2 out of co_scale; betas = power holds the half-life.",
        ),
        ({"co_scale": {"beta2": True}}, "co_scale has beta2 = True.\n  Give {'beta2': 'half_life'}."),
        (
            {"beta2_range": (0.95, 0.9999)},
            "beta2_range = (0.95, 0.9999) has no effect, because nothing scales beta2.\n"
            "  Give co_scale={'beta2': 'half_life'}.",
        ),
        (
            {"co_scale": {"beta2": "half_life"}, "beta2_range": (0.99, 0.95)},
            "beta2_range = (0.99, 0.95) is not a range in [0, 1).\n  Such as beta2_range=(0.95, 0.9999).",
        ),
        (
            {"co_scale": {"beta2": "half_life"}, "beta2_range": 0.95},
            "beta2_range = 0.95 is not two numbers.\n  Such as beta2_range=(0.95, 0.9999).",
        ),
    ],
)
def test_what_scale_lr_refuses(options: dict[str, Any], text: str) -> None:
    with pytest.raises(PlanError) as caught:
        scaler.scale_lr(
            LR, reference_batch_size=64, global_batch_size=256, optimizer="adamw", constants=ADAMW, **options
        )
    assert str(caught.value) == text
