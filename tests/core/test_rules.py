import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.core.rules import ADAPTIVE, SGD_FAMILY, choose_rule, lr_ratio
from scaler.errors import PlanError


@pytest.mark.parametrize(
    ("rule", "batch_ratio", "expected"),
    [
        ("linear", 16.0, 16.0),  # Goyal et al. 2017: as the batch
        ("linear", 1.0, 1.0),  # the reference itself: nothing changes
        ("linear", 0.25, 0.25),  # scaling down: the same formula
        ("linear", 1.5, 1.5),  # ratios need not be whole
        ("sqrt", 16.0, 4.0),  # Krizhevsky 2014: as its root
        ("sqrt", 1.0, 1.0),
        ("sqrt", 0.25, 0.5),  # scaling down
        ("none", 16.0, 1.0),  # the reference's rate at any batch
        ("none", 0.25, 1.0),
    ],
)
def test_ratios_by_example(rule: str, batch_ratio: float, expected: float) -> None:
    assert lr_ratio(rule, batch_ratio=batch_ratio) == expected


@given(rule=st.sampled_from(["linear", "sqrt", "none"]), a=st.floats(1e-3, 1e3), b=st.floats(1e-3, 1e3))
def test_scaling_twice_is_scaling_once_by_the_product(rule: str, a: float, b: float) -> None:
    twice = lr_ratio(rule, batch_ratio=a) * lr_ratio(rule, batch_ratio=b)
    assert lr_ratio(rule, batch_ratio=a * b) == pytest.approx(twice, rel=1e-12)


@pytest.mark.parametrize(
    ("optimizer", "rule", "reason"),
    [
        ("sgd", "linear", "sgd: linear rule (Goyal et al. 2017), chosen by auto for the SGD family"),
        ("adam", "sqrt", "adam: square-root rule (Krizhevsky 2014), chosen by auto for adaptive optimizers"),
        ("rmsprop", "sqrt", "rmsprop: square-root rule (Krizhevsky 2014), chosen by auto for adaptive optimizers"),
        (
            "torch.optim:NAdam",
            "sqrt",
            "torch.optim:NAdam: square-root rule (Krizhevsky 2014), chosen by auto for adaptive optimizers",
        ),
        (
            "torch.optim:ASGD",
            "linear",
            "torch.optim:ASGD: linear rule (Goyal et al. 2017), chosen by auto for the SGD family",
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
        "torch.optim:Adadelta",  # its rate is not a step length
        "torch.optim:LBFGS",  # no stochastic step at all
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
        "  Say which rule it follows: rule: linear, rule: sqrt or rule: none."
    )


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ("linear", "my_pkg:NotAdam: linear rule (Goyal et al. 2017), as asked for"),
        ("sqrt", "my_pkg:NotAdam: square-root rule (Krizhevsky 2014), as asked for"),
        ("none", "my_pkg:NotAdam: no rule: the reference rate at any batch, as asked for"),
    ],
)
def test_a_rule_that_is_asked_for_is_used_whatever_the_optimizer(rule: str, reason: str) -> None:
    assert choose_rule(rule, optimizer="my_pkg:NotAdam") == (rule, reason)


@pytest.mark.parametrize("name", [*SGD_FAMILY, *ADAPTIVE])
def test_every_name_in_the_tables_can_be_written_in_a_job_file(name: str) -> None:
    assert re.fullmatch(r"[a-z]+|[\w.]+:\w+", name)


def test_no_optimizer_is_in_both_tables() -> None:
    assert not set(SGD_FAMILY) & set(ADAPTIVE)


def test_a_word_that_is_no_rule_is_refused() -> None:
    with pytest.raises(PlanError) as caught:
        lr_ratio("cubic", batch_ratio=2.0)
    assert str(caught.value) == "scale.rule = cubic is not a rule.\n  Rules: auto, linear, sqrt, none."
