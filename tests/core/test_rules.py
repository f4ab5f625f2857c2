"""Each rule and each constant by its table of values, and the texts of what they refuse."""

import re
from dataclasses import replace
from itertools import pairwise
from math import exp, inf, isclose, log, sqrt
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from scaler.core.betas import scale_beta
from scaler.core.optimizers import ADAPTIVE, NAMED_OPTIMIZERS, OPTIMIZERS, Family, OptimizerFacts, optimizer_facts
from scaler.core.rules import RULES, SOURCES, CoScale, Rule, choose_rule, gain_exponent, lr_ratio
from scaler.core.scale import Scaled, scale
from scaler.errors import PlanError

REFERENCE = 16
ADAM = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
SGD = {"momentum": 0.9, "weight_decay": 1e-4}
RMS = {"alpha": 0.99, "eps": 1e-8, "weight_decay": 0.0, "momentum": 0.0}


PATHS = [facts.path for facts in OPTIMIZERS.values()]  # known by name and by path
ALL = [optimizer_facts(name) for name in dict.fromkeys((*OPTIMIZERS, *PATHS))]


def names(*, family: Family | None) -> list[str]:
    return [facts.name for facts in ALL if facts.family is family]


def ratio(rule: Rule, batch_ratio: float, *, optimizer: str = "sgd") -> float:
    return lr_ratio(rule, batch_ratio=batch_ratio, reference_batch_size=REFERENCE, optimizer=optimizer)


def scaled(
    rule: Rule,
    batch: float,
    *,
    reference: int = REFERENCE,
    optimizer: str = "adam",
    constants: dict[str, Any] = ADAM,
) -> Scaled:
    return scale(
        rule,
        batch_ratio=batch / reference,
        reference_batch_size=reference,
        optimizer=optimizer,
        constants=constants,
    )


def refusal(rule: Rule, batch: float, **values: Any) -> str:
    with pytest.raises(PlanError) as caught:
        scaled(rule, batch, **values)
    return str(caught.value)


# The learning rate


@pytest.mark.parametrize(
    ("rule", "batch_ratio", "expected"),
    [
        (Rule(name="linear"), 16.0, 16.0),  # Goyal et al. 2017: as the batch
        (Rule(name="linear"), 1.0, 1.0),  # the reference itself: nothing changes
        (Rule(name="linear"), 0.25, 0.25),  # scaling down: the same formula
        (Rule(name="linear"), 1.5, 1.5),  # ratios need not be whole
        (Rule(name="sqrt"), 16.0, 4.0),  # Krizhevsky 2014: as its root
        (Rule(name="sqrt"), 1.0, 1.0),
        (Rule(name="sqrt"), 0.25, 0.5),  # scaling down
        (Rule(name="none"), 16.0, 1.0),  # the reference's learning rate at any batch
        (Rule(name="none"), 0.25, 1.0),
        (Rule(name="power", exponent=0.75), 16.0, 8.0),  # between sqrt and linear
        (Rule(name="power", exponent=0.0), 16.0, 1.0),  # none
        (Rule(name="power", exponent=-1.0), 16.0, 0.0625),  # some find falling learning rates; it is allowed
        (Rule(name="power", exponent=0.75), 1.0, 1.0),
        (Rule(name="adam_sde"), 16.0, 4.0),  # Malladi et al. 2022: the root, beside betas and eps
        (Rule(name="legw"), 16.0, 4.0),  # You et al. 2019: the root, beside the warmup
        (Rule(name="legw"), 0.25, 0.5),
        (Rule(name="gain", noise_scale=inf), 16.0, 16.0),  # nothing but noise: linear
        (Rule(name="gain", noise_scale=240.0), 16.0, 16 * 256 / 496),  # k (phi + m0) / (phi + k m0)
        (Rule(name="gain", noise_scale=16.0), 16.0, 16 * 32 / 272),  # a batch as large as the noise scale: half way
        (Rule(name="gain", noise_scale=240.0), 1.0, 1.0),
        (Rule(name="gain", noise_scale=240.0), 0.25, 0.25 * 256 / 244),  # scaling down loses less than linear
        (Rule(name="adascale"), 16.0, 1.0),  # the gain is measured, and multiplies in training
    ],
)
def test_ratios_by_example(rule: Rule, batch_ratio: float, expected: float) -> None:
    assert ratio(rule, batch_ratio) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("optimizer", names(family=ADAPTIVE))
def test_the_gain_of_adaptive_optimizers_is_its_root(optimizer: str) -> None:
    rule = Rule(name="gain", noise_scale=240.0)
    assert gain_exponent(optimizer, rule="gain") == 0.5
    assert ratio(rule, 16.0, optimizer=optimizer) == pytest.approx(sqrt(ratio(rule, 16.0)))


RULES_OF_A_RATIO = [
    Rule(name="linear"),
    Rule(name="sqrt"),
    Rule(name="none"),
    Rule(name="legw"),
    Rule(name="adam_sde"),
    Rule(name="power", exponent=0.6),
]


@given(rule=st.sampled_from(RULES_OF_A_RATIO), a=st.floats(1e-3, 1e3), b=st.floats(1e-3, 1e3))
def test_scaling_twice_is_scaling_once_by_the_product(rule: Rule, a: float, b: float) -> None:
    assert ratio(rule, a * b) == pytest.approx(ratio(rule, a) * ratio(rule, b), rel=1e-12)


@given(
    rule=st.sampled_from([Rule(name="linear"), Rule(name="sqrt"), Rule(name="gain", noise_scale=100.0)]),
    ratios=st.lists(st.floats(1e-3, 1e6), min_size=2, max_size=8),
)
def test_a_larger_batch_never_lowers_the_learning_rate(rule: Rule, ratios: list[float]) -> None:
    found = [ratio(rule, batch_ratio) for batch_ratio in sorted(ratios)]
    assert all(before <= after for before, after in pairwise(found))


@given(
    batch_ratio=st.floats(1.0, 1e6),
    noise_scale=st.floats(1e-6, 1e12) | st.just(inf),
    optimizer=st.sampled_from(["sgd", "adam", "rmsprop"]),
)
@example(batch_ratio=1.0, noise_scale=240.0, optimizer="sgd")
def test_the_gain_lies_between_none_and_linear(batch_ratio: float, noise_scale: float, optimizer: str) -> None:
    found = ratio(Rule(name="gain", noise_scale=noise_scale), batch_ratio, optimizer=optimizer)
    assert 1.0 <= found <= batch_ratio


@pytest.mark.parametrize("optimizer", ["torch.optim:Adagrad", "torch.optim:Adamax"])
def test_the_gain_is_not_measured_without_running_squares(optimizer: str) -> None:
    assert refusal(Rule(name="adascale"), 32, optimizer=optimizer, constants={}) == (
        f"scale.rule = adascale finds no running squares in {optimizer}.\n"
        "  It is for sgd, adam, adamw, rmsprop, schedulefree_sgd and schedulefree_adamw; for others use rule: sqrt."
    )
    assert optimizer_facts(optimizer).family is ADAPTIVE
    assert gain_exponent(optimizer, rule="gain") == 0.5  # known, not measured


# Which rule


@pytest.mark.parametrize(
    ("optimizer", "rule", "reason"),
    [
        ("sgd", "adascale", "sgd: gain measured in training (Johnson et al. 2020), as requested"),
        (
            "adamw",
            "adascale",
            "adamw: experimental: square root of the gain of the preconditioned gradient (AdaptDL), measured in "
            "training, as requested",
        ),
        ("sgd", "gain", "sgd: gain at a known noise scale (McCandlish et al. 2018), as requested"),
        (
            "rmsprop",
            "gain",
            "rmsprop: experimental: square root of the gain (AdaptDL) at a known noise scale, as requested",
        ),
        ("adamw", "sqrt", "adamw: square-root rule (Malladi et al. 2022), as requested"),
    ],
)
def test_the_gain_of_adaptive_optimizers_is_called_experimental(optimizer: str, rule: str, reason: str) -> None:
    assert choose_rule(rule, optimizer=optimizer) == (rule, reason)


@pytest.mark.parametrize(
    ("optimizer", "rule", "reason"),
    [
        ("sgd", "linear", "sgd: linear rule (Goyal et al. 2017), chosen by auto for the SGD family"),
        ("adam", "sqrt", "adam: square-root rule (Malladi et al. 2022), chosen by auto for adaptive optimizers"),
        ("rmsprop", "sqrt", "rmsprop: square-root rule (Malladi et al. 2022), chosen by auto for adaptive optimizers"),
        (
            "torch.optim:NAdam",
            "sqrt",
            "torch.optim:NAdam: square-root rule (Malladi et al. 2022), chosen by auto for adaptive optimizers",
        ),
        (
            "torch.optim:ASGD",
            "linear",
            "torch.optim:ASGD: linear rule (Goyal et al. 2017), chosen by auto for the SGD family",
        ),
        (
            "lamb",
            "legw",
            (
                "lamb: square root, warmup epochs times the ratio (You et al. 2019), chosen by auto for layer-wise "
                "learning rates"
            ),
        ),
        (
            "prodigy",
            "none",
            (
                "prodigy: no rule: the reference's learning rate at any batch, chosen by auto for optimizers that "
                "find their own step"
            ),
        ),
    ],
)
def test_auto_looks_the_optimizer_up(optimizer: str, rule: str, reason: str) -> None:
    assert choose_rule("auto", optimizer=optimizer) == (rule, reason)


@pytest.mark.parametrize(
    "optimizer",
    [
        "my_pkg:adaptive_sgd",  # has both words in it
        "my_pkg:NotAdam",  # ends like one
        "my_pkg:SGD",  # the same class name elsewhere may be anything
        "torch.optim:adam",  # names are compared whole, and cases differ
        "Adam",
        "",
    ],
)
def test_auto_never_guesses(optimizer: str) -> None:
    with pytest.raises(PlanError) as caught:
        choose_rule("auto", optimizer=optimizer)
    assert str(caught.value) == (
        f"scale.rule = auto does not know the optimizer {optimizer}.\n"
        "  Choose a rule for it: rule: linear, rule: sqrt or rule: none."
    )


@pytest.mark.parametrize(
    "name", ["lion", *(f"torch.optim:{kind}" for kind in ("Adadelta", "Adafactor", "LBFGS", "Rprop"))]
)
def test_auto_says_why_it_has_no_rule_for_an_optimizer_that_it_knows(name: str) -> None:
    why = optimizer_facts(name).no_auto
    with pytest.raises(PlanError, match=f"auto has no rule for {name}: ") as caught:
        choose_rule("auto", optimizer=name)
    assert why
    assert why in str(caught.value)


@pytest.mark.parametrize("rule", SOURCES)
def test_a_rule_that_is_asked_for_is_used_whatever_the_optimizer(rule: str) -> None:
    expected = (rule, f"my_pkg:NotAdam: {SOURCES[rule]}, as requested")
    assert choose_rule(rule, optimizer="my_pkg:NotAdam") == expected


def test_every_rule_but_auto_has_a_source() -> None:
    assert set(SOURCES) == set(RULES) - {"auto"}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_name_in_the_table_is_a_word_of_a_job_or_a_path(name: str) -> None:
    assert name in NAMED_OPTIMIZERS or (re.fullmatch(r"torch\.optim:\w+", name) and OPTIMIZERS[name].path == name)


def test_no_class_is_in_two_rows() -> None:
    assert len(PATHS) == len(set(PATHS))


@pytest.mark.parametrize("name", NAMED_OPTIMIZERS)
def test_a_class_has_the_same_facts_by_its_name_and_by_its_path(name: str) -> None:
    facts = OPTIMIZERS[name]
    assert optimizer_facts(facts.path) == replace(facts, name=facts.path, options=None)


def test_of_an_optimizer_that_is_not_in_the_table_nothing_is_claimed() -> None:
    assert optimizer_facts("my_pkg:SGD") == OptimizerFacts(name="my_pkg:SGD", path="my_pkg:SGD")
    assert optimizer_facts("SGD").family is None, "names are compared as a whole"


def test_what_a_row_says_fits_together() -> None:
    for facts in ALL:
        is_adaptive = facts.family is ADAPTIVE
        assert not facts.sde_constant or (is_adaptive and facts.sde_constant in facts.averages), facts.name
        assert set(facts.averages) <= set(facts.options or facts.averages), facts.name
        assert not facts.has_running_squares or is_adaptive, facts.name
        assert not facts.scales_momentum or (facts.sums_gradients and facts.weight_decay == "coupled"), facts.name


def test_a_word_that_is_no_rule_is_refused() -> None:
    text = (
        "scale.rule = cubic is not a rule.\n  Rules: auto, linear, sqrt, power, adam_sde, gain, adascale, legw, none."
    )
    with pytest.raises(PlanError) as caught:
        ratio(Rule(name="cubic"), 2.0)
    assert str(caught.value) == text
    with pytest.raises(PlanError) as caught:
        choose_rule("cubic", optimizer="sgd")
    assert str(caught.value) == text


# The constants


@pytest.mark.parametrize(
    ("form", "beta", "batch_ratio", "expected"),
    [
        ("sde", 0.9, 8.0, 0.2),  # Malladi et al. 2022: 1 - 8 * 0.1
        ("sde", 0.9, 1.0, 0.9),
        ("sde", 0.9, 0.5, 0.95),  # a smaller batch remembers for more steps
        ("sde", 0.9, 10.0, 0.0),  # the edge: no memory is left
        ("power", 0.9, 8.0, 0.43046721),  # Busbridge et al. 2023
        ("power", 0.9, 10.0, 0.3486784401),  # defined beyond the edge
        ("power", 0.9, 1.0, 0.9),
        ("power", 0.9, 0.5, sqrt(0.9)),
        ("power", 0.0, 8.0, 0.0),  # none stays none
    ],
)
def test_betas_by_example(form: str, beta: float, batch_ratio: float, expected: float) -> None:
    assert scale_beta(beta, batch_ratio=batch_ratio, form=form) == pytest.approx(expected, rel=1e-14, abs=1e-15)


@given(beta=st.floats(0.5, 0.999999), batch_ratio=st.integers(1, 64), w=st.floats(-1, 1))
def test_k_updates_of_an_average_are_one_at_the_power(beta: float, batch_ratio: int, w: float) -> None:
    """With constant weights, k updates with rho are one with rho ** k (Busbridge et al. 2023)."""
    average = 1.0
    for _ in range(batch_ratio):
        average = beta * average + (1 - beta) * w
    power = scale_beta(beta, batch_ratio=batch_ratio, form="power")
    assert average == pytest.approx(power * 1.0 + (1 - power) * w, abs=1e-14)


@given(beta=st.floats(0.9, 0.999999), batch_ratio=st.floats(0.01, 8))
def test_the_two_forms_agree_to_first_order(beta: float, batch_ratio: float) -> None:
    sde, power = (scale_beta(beta, batch_ratio=batch_ratio, form=form) for form in ("sde", "power"))
    assert sde == pytest.approx(power, abs=(batch_ratio * (1 - beta)) ** 2 + (1 - beta) ** 2)


def test_adam_sde_scales_betas_and_eps() -> None:
    found = scaled(Rule(name="adam_sde"), 4 * REFERENCE)
    assert found.lr_ratio == 2.0
    assert found.constants["betas"] == pytest.approx((0.6, 0.996), rel=1e-14)
    assert found.constants["eps"] == 5e-9
    assert found.constants.keys() == {"betas", "eps"}  # weight decay is not its business
    assert found.reasons == {"betas": "1 - 4 x (1 - beta)", "eps": "over the root of 4"}


def test_adam_sde_by_powers_goes_as_far_as_one_likes() -> None:
    found = scaled(Rule(name="adam_sde", betas="power"), 64 * REFERENCE)
    assert found.constants["betas"] == (0.9**64, 0.999**64)
    assert found.reasons["betas"] == "beta ** 64"


def test_adam_sde_scales_rmsprops_alpha() -> None:
    found = scaled(Rule(name="adam_sde"), 4 * REFERENCE, optimizer="rmsprop", constants=RMS)
    assert found.constants == {"alpha": pytest.approx(0.96), "eps": 5e-9}
    assert found.reasons == {"alpha": "1 - 4 x (1 - beta)", "eps": "over the root of 4"}


@given(
    reference=st.integers(1, 4096),
    betas=st.tuples(*2 * [st.sampled_from([0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999]) | st.floats(0.0, 0.99999)]),
    optimizer=st.sampled_from(["adam", "rmsprop"]),
)
@example(reference=1, betas=(0.0, 0.999), optimizer="adam")  # remembers nothing: the reference itself is the most
@example(reference=16, betas=(0.9, 0.5), optimizer="adam")  # the second forgets first
@example(reference=3, betas=(0.9, 0.999), optimizer="adam")
def test_the_batch_that_a_refusal_names_is_the_largest(
    reference: int, betas: tuple[float, float], optimizer: str
) -> None:
    rule = Rule(name="adam_sde")
    constants: dict[str, Any] = {"betas": betas, "alpha": betas[0], "eps": 1e-8}
    values: dict[str, Any] = {"reference": reference, "optimizer": optimizer, "constants": constants}
    found = re.search(r"a global batch of at most (\d+) ", refusal(rule, 10**12, **values))
    assert found is not None
    largest = int(found[1])
    assert largest >= reference
    for beta in scaled(rule, largest, **values).constants.get("betas", [0.5]):
        assert 0.0 <= beta < 1.0
    assert f"at most {largest} " in refusal(rule, largest + 1, **values)


def test_a_batch_beyond_adams_memory_is_refused() -> None:
    assert refusal(Rule(name="adam_sde"), 256) == (
        "scale.rule = adam_sde needs batch_ratio * (1 - beta1) < 1, but 16 * (1 - 0.9) = 1.6.\n"
        "  Use betas: power, rule: sqrt, or a global batch of at most 159 (reference 16)."
    )


def test_the_edge_is_refused_though_floats_fall_short_of_it() -> None:
    assert 10 * (1 - 0.9) < 1.0
    assert "but 10 * (1 - 0.9) = 1." in refusal(Rule(name="adam_sde"), 160)
    assert scaled(Rule(name="adam_sde"), 159).constants["betas"][0] == pytest.approx(1 / 160)


def test_a_batch_beyond_rmsprops_memory_is_refused() -> None:
    text = refusal(Rule(name="adam_sde"), 3200, optimizer="rmsprop", constants=RMS)
    assert text == (
        "scale.rule = adam_sde needs batch_ratio * (1 - alpha) < 1, but 200 * (1 - 0.99) = 2.\n"
        "  Use betas: power, rule: sqrt, or a global batch of at most 1599 (reference 16)."
    )


@pytest.mark.parametrize("betas", ["sde", "power"])
def test_scaling_down_is_never_refused(betas: str) -> None:
    found = scaled(Rule(name="adam_sde", betas=betas), 1, constants={"betas": (0.0, 0.5), "eps": 1e-8})
    assert all(0.0 <= beta < 1.0 for beta in found.constants["betas"])


@pytest.mark.parametrize(
    ("optimizer", "constants", "text"),
    [
        (
            "sgd",
            SGD,
            "scale.rule = adam_sde scales the averages of Adam and RMSprop, and the optimizer is sgd.\n"
            "  It is for adam, adamw and rmsprop.",
        ),
        (  # its first beta interpolates between two points
            "schedulefree_adamw",
            ADAM,
            "scale.rule = adam_sde scales the averages of Adam and RMSprop, and the optimizer is schedulefree_adamw.\n"
            "  It is for adam, adamw and rmsprop.",
        ),
        (  # has a largest value where Adam has an average
            "torch.optim:Adamax",
            ADAM,
            "scale.rule = adam_sde scales the averages of Adam and RMSprop, and the optimizer is torch.optim:Adamax.\n"
            "  It is for adam, adamw and rmsprop.",
        ),
        (  # its defaults are torch's affair, so they are not ours to scale
            "torch.optim:Adam",
            {"eps": 1e-8},
            (
                "scale.rule = adam_sde scales betas, and reference.optimizer does not give it.\n"
                "  Add betas: [0.9, 0.999]."
            ),
        ),
        (
            "torch.optim:Adam",
            {"betas": [0.9, 0.99]},
            ("scale.rule = adam_sde scales eps, and reference.optimizer does not give it.\n  Add eps: 1e-8."),
        ),
        (
            "torch.optim:RMSprop",
            {},
            ("scale.rule = adam_sde scales alpha, and reference.optimizer does not give it.\n  Add alpha: 0.99."),
        ),
        (
            "torch.optim:Adam",
            {"betas": [0.9], "eps": 1e-8},
            "scale.rule = adam_sde scales reference.optimizer.betas, and [0.9] is not two numbers.\n"
            "  Such as betas: [0.9, 0.999].",
        ),
        (
            "torch.optim:Adam",
            {"betas": (0.9, 0.99), "eps": True},
            "scale.rule = adam_sde scales reference.optimizer.eps, and True is not a number.\n  Such as eps: 1e-8.",
        ),
    ],
)
def test_adam_sde_needs_constants_to_scale(optimizer: str, constants: dict[str, Any], text: str) -> None:
    assert refusal(Rule(name="adam_sde"), 32, optimizer=optimizer, constants=constants) == text


@pytest.mark.parametrize(
    ("rule", "optimizer", "batch_ratio", "expected"),
    [
        ("sqrt", "adamw", 16.0, 4.0),  # lr x 4, steps / 16: decay x 4
        ("sqrt", "adamw", 0.25, 0.5),  # and down again
        ("linear", "adamw", 16.0, 1.0),  # the learning rate makes up for the fewer steps
        ("linear", "sgd", 16.0, 1.0),  # coupled decay: Goyal et al. 2017 leave it
        ("none", "adamw", 16.0, 16.0),  # nothing else makes up for the steps
        ("sqrt", "lion", 4.0, 2.0),
        ("sqrt", "adamw", 1.0, 1.0),
    ],
)
def test_weight_decay_holds_its_timescale(rule: str, optimizer: str, batch_ratio: float, expected: float) -> None:
    constants = {"weight_decay": 0.01}
    found = scaled(
        Rule(name=rule, co_scale=CoScale(weight_decay=True)),
        batch_ratio * REFERENCE,
        optimizer=optimizer,
        constants=constants,
    )
    assert found.weight_decay_ratio == expected
    assert found.constants["weight_decay"] == 0.01 * expected
    assert found.reasons["weight_decay"] == f"x {expected:g}: holds its timescale (Wang and Aitchison 2024)"


@given(
    rule=st.sampled_from(RULES_OF_A_RATIO),
    lr=st.floats(1e-5, 1e-2),
    decay=st.floats(1e-4, 0.1),
    batch_ratio=st.sampled_from([2, 4, 8]),
)
def test_weights_without_gradient_shrink_as_much_over_the_same_samples(
    rule: Rule, lr: float, decay: float, batch_ratio: int
) -> None:
    """(1 - lr * decay) ** steps is the same within O((lr * decay) ** 2) (Wang and Aitchison 2024)."""
    found = scaled(
        Rule(name=rule.name, exponent=rule.exponent, co_scale=CoScale(weight_decay=True)),
        batch_ratio * REFERENCE,
        optimizer="adamw",
        constants=ADAM | {"weight_decay": decay},
    )
    steps = 64 * batch_ratio
    reference = (1 - lr * decay) ** steps
    here = (1 - lr * found.lr_ratio * found.constants["weight_decay"]) ** (steps // batch_ratio)
    assert here == pytest.approx(reference, abs=steps * batch_ratio * (lr * decay) ** 2 + 1e-13)


@pytest.mark.parametrize(
    ("rule", "optimizer", "constants", "text"),
    [
        (
            "sqrt",
            "adam",
            ADAM,
            "scale.co_scale.weight_decay holds a timescale that adam's weight decay does not have.\n"
            "  It is for optimizers that shrink weights by lr * weight_decay a step: sgd, adamw, muon, lion and "
            "schedulefree_adamw.",
        ),
        (
            "adascale",
            "sgd",
            SGD,
            "scale.co_scale.weight_decay needs the learning rate's ratio before the run, and adascale measures "
            "it.\n"
            "  Leave it out, or choose another rule.",
        ),
        (  # torch has a default of its own there, and 0 would turn it off
            "sqrt",
            "torch.optim:AdamW",
            {},
            "scale.co_scale.weight_decay scales weight_decay, and reference.optimizer does not give it.\n"
            "  Add weight_decay: 0.01.",
        ),
    ],
)
def test_weight_decay_that_cannot_be_held(rule: str, optimizer: str, constants: dict[str, Any], text: str) -> None:
    wanted = Rule(name=rule, co_scale=CoScale(weight_decay=True))
    assert refusal(wanted, 32, optimizer=optimizer, constants=constants) == text


@pytest.mark.parametrize(
    ("batch_ratio", "momentum", "expected"),
    [
        (2.0, 0.9, 0.95),  # Smith et al. 2018: batch * (1 - momentum) stays
        (10.0, 0.0, 0.9),  # from none
        (1.0, 0.9, 0.9),
        (0.5, 0.9, 0.8),
        (0.1, 0.9, 0.0),  # as far down as it goes
    ],
)
def test_momentum_instead_of_the_learning_rate(batch_ratio: float, momentum: float, expected: float) -> None:
    wanted = Rule(name="none", co_scale=CoScale(momentum=True))
    found = scaled(wanted, 160 * batch_ratio, reference=160, optimizer="sgd", constants={"momentum": momentum})
    assert (found.lr_ratio, found.constants["momentum"]) == (1.0, pytest.approx(expected, abs=1e-15))
    text = f"1 - (1 - momentum) / {batch_ratio:g}: instead of the learning rate (Smith et al. 2018)"
    assert found.reasons == {"momentum": text}


@given(reference=st.integers(1, 4096), momentum=st.sampled_from([0.0, 0.5, 0.9, 0.99]) | st.floats(0.0, 0.999))
def test_the_batch_that_a_refusal_of_momentum_names_is_the_smallest(reference: int, momentum: float) -> None:
    wanted = Rule(name="none", co_scale=CoScale(momentum=True))
    values: dict[str, Any] = {"reference": reference, "optimizer": "sgd", "constants": {"momentum": momentum}}
    found = re.search(r"at least (\d+) ", refusal(wanted, 1e-9, **values))
    assert found is not None
    assert 0.0 <= scaled(wanted, int(found[1]), **values).constants["momentum"] < 1.0
    if int(found[1]) > 1:
        refusal(wanted, int(found[1]) - 1, **values)


@pytest.mark.parametrize(
    ("rule", "optimizer", "constants", "batch", "text"),
    [
        (
            "linear",
            "sgd",
            SGD,
            32,
            "scale.co_scale.momentum changes the momentum instead of the learning rate, and rule: linear changes "
            "the learning rate.\n"
            "  Use it with rule: none.",
        ),
        (
            "none",
            "adam",
            ADAM,
            32,
            "scale.co_scale.momentum holds SGD's noise, and the optimizer is adam.\n  It is for sgd.",
        ),
        (  # has momentum, of another kind
            "none",
            "rmsprop",
            RMS,
            32,
            "scale.co_scale.momentum holds SGD's noise, and the optimizer is rmsprop.\n  It is for sgd.",
        ),
        (
            "none",
            "torch.optim:SGD",
            {},
            32,
            (
                "scale.co_scale.momentum scales momentum, and reference.optimizer does not give it.\n"
                "  Add momentum: 0.9."
            ),
        ),
        (
            "none",
            "sgd",
            SGD,
            1,
            "scale.co_scale.momentum: 1 - (1 - 0.9) / 0.0625 is below 0.\n"
            "  Use a global batch of at least 2 (reference 16).",
        ),
    ],
)
def test_momentum_that_cannot_be_raised(
    rule: str, optimizer: str, constants: dict[str, Any], batch: int, text: str
) -> None:
    assert (
        refusal(Rule(name=rule, co_scale=CoScale(momentum=True)), batch, optimizer=optimizer, constants=constants)
        == text
    )


def test_the_gain_needs_an_optimizer_that_it_is_known_for() -> None:
    for rule in (Rule(name="gain", noise_scale=100.0), Rule(name="adascale")):
        assert refusal(rule, 32, optimizer="lamb", constants={}) == (
            f"scale.rule = {rule.name}: it is not known how lamb follows the gain.\n"
            "  It is known for sgd, adam, adamw, rmsprop, schedulefree_sgd and schedulefree_adamw; for others use "
            "rule: power."
        )


def test_legw_multiplies_the_warmup() -> None:
    found = scaled(Rule(name="legw"), 16 * REFERENCE, optimizer="lamb", constants={})
    assert (found.lr_ratio, found.warmup_ratio, found.constants) == (4.0, 16.0, {})
    assert scaled(Rule(name="sqrt"), 16 * REFERENCE).warmup_ratio == 1.0


@pytest.mark.parametrize("name", SOURCES)
def test_nothing_but_the_learning_rate_is_scaled_unless_asked_for(name: str) -> None:
    found = scaled(Rule(name=name, exponent=0.5, noise_scale=100.0), 32)
    assert found.weight_decay_ratio == 1.0
    assert found.constants.keys() == found.reasons.keys() == ({"betas", "eps"} if name == "adam_sde" else set())


# There and back

optimizers = st.sampled_from(
    [("sgd", SGD), ("adam", ADAM), ("adamw", ADAM), ("rmsprop", RMS), ("torch.optim:NAdam", ADAM)]
)
rules = st.builds(
    Rule,
    name=st.sampled_from(sorted(SOURCES)),
    exponent=st.floats(-2, 2),
    noise_scale=st.floats(1e-3, 1e9) | st.just(inf),
    betas=st.sampled_from(["sde", "power"]),
    co_scale=st.builds(CoScale, weight_decay=st.booleans(), momentum=st.booleans()),
)


@given(rule=rules, optimizer=optimizers, reference=st.integers(1, 1000), batch=st.integers(1, 10**6))
def test_at_the_reference_every_constant_is_the_references_to_the_last_bit(
    rule: Rule, optimizer: tuple[str, dict[str, Any]], reference: int, batch: int
) -> None:
    name, constants = optimizer
    values: dict[str, Any] = {"reference": reference, "optimizer": name, "constants": constants}
    try:
        before = scaled(rule, reference, **values)
    except PlanError:  # the rule is not for this optimizer, at any batch
        assume(False)
    before_bits = repr(before)
    try:
        first, second = scaled(rule, batch, **values), scaled(rule, batch, **values)
        assert first == second  # nothing compounds
    except PlanError:  # the rule does not hold so far out
        pass
    after = scaled(rule, reference, **values)
    assert repr(after) == before_bits
    assert (after.lr_ratio, after.warmup_ratio, after.weight_decay_ratio) == (1.0, 1.0, 1.0)
    assert {**constants, **after.constants} == constants


@given(rule=st.sampled_from(RULES_OF_A_RATIO), k=st.integers(1, 1000))
def test_scaling_down_undoes_scaling_up(rule: Rule, k: int) -> None:
    up, down = ratio(rule, float(k)), ratio(rule, 1.0 / k)
    assert isclose(up * down, 1.0, rel_tol=1e-12)


@given(beta=st.floats(0.5, 0.9999), k=st.floats(0.01, 100))
def test_the_power_form_holds_the_half_life_in_samples(beta: float, k: float) -> None:
    power = scale_beta(beta, batch_ratio=k, form="power")
    assume(power > exp(-600))
    assert k * log(0.5) / log(power) == pytest.approx(log(0.5) / log(beta), rel=1e-6)
