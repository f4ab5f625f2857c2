"""What an optimizer remembers in samples, by hand, and where a rule that holds it ends."""

from math import exp, inf, log
from typing import Any

import pytest

from scaler import scale_lr
from scaler.core.optimizers import OPTIMIZERS
from scaler.core.rules import CoScale, Rule
from scaler.core.scale import scale
from scaler.core.timescales import average_memory, decay_form, step_gain, weight_decay_timescale
from scaler.errors import PlanError


@pytest.mark.parametrize(
    ("optimizer", "constants", "expected"),
    [
        ("adamw", {"weight_decay": 0.1}, 16 / (0.01 * 0.1)),
        ("adamw", {"weight_decay": 0.0}, inf),
        ("adamw", {}, inf),
        ("torch.optim:Muon", {"weight_decay": 0.1, "momentum": 0.95}, 16_000),  # decoupled: momentum has no part in it
        ("lion", {"weight_decay": 0.1}, 16_000),
        ("pytorch_optimizer:Lion", {"weight_decay": 0.1}, 16_000),  # the class of a name that the table has
        ("my_pkg:Lion", {"weight_decay": 0.1}, None),  # a path that the table does not have
        ("lion", {"weight_decay": 0.1, "weight_decouple": False}, None),  # in the sign: no known speed
        ("lion", {"weight_decay": 0.1, "fixed_decay": True}, None),  # without lr
        ("sgd", {"weight_decay": 0.1}, 16_000),
        ("sgd", {"weight_decay": 0.1, "momentum": 0.9}, 1600),
        ("sgd", {"weight_decay": 0.1, "momentum": 0.9, "dampening": 0.9}, 16_000),
        ("sgd", {"weight_decay": 0.1, "momentum": 0.0, "dampening": 0.9}, 16_000),  # torch ignores it there
        ("adam", {"weight_decay": 0.1}, None),
        ("torch.optim:Adam", {"weight_decay": 0.1, "decoupled_weight_decay": True}, 16_000),
        ("torch.optim:NAdam", {"weight_decay": 0.1}, None),
        ("rmsprop", {"weight_decay": 0.1}, None),
        ("lamb", {"weight_decay": 0.1}, None),
    ],
)
def test_timescales_of_weight_decay_by_example(
    optimizer: str, constants: dict[str, Any], expected: float | None
) -> None:
    found = weight_decay_timescale(optimizer, constants=constants, lr=0.01, global_batch_size=16)
    assert found == (None if expected is None else pytest.approx(expected))
    assert (decay_form(optimizer, constants) is None) == (expected is None)


@pytest.mark.parametrize("name", [name for name, facts in OPTIMIZERS.items() if facts.weight_decay is not None])
def test_every_optimizer_whose_decay_follows_lr_has_a_form(name: str) -> None:
    option = {"decoupled_weight_decay": True} if OPTIMIZERS[name].weight_decay == "by_option" else {}
    assert decay_form(name, option) is not None
    assert (decay_form(name, {}) is None) == bool(option)


def test_an_average_forgets_over_its_memory_to_one_over_e() -> None:
    for beta, batch in ((0.9, 1), (0.999, 256)):
        steps = average_memory(beta, global_batch_size=batch) / batch
        assert beta**steps == pytest.approx(exp(-1))
    assert average_memory(0.999**4, global_batch_size=64) == pytest.approx(average_memory(0.999, global_batch_size=16))
    assert average_memory(0.5, global_batch_size=1) == pytest.approx(1 / log(2))


def test_the_gain_of_a_step_is_a_geometric_series() -> None:
    for momentum, dampening in ((0.9, 0.0), (0.5, 0.25)):
        constants = {"momentum": momentum, "dampening": dampening}
        buffer = 1.0
        for _ in range(500):
            buffer = momentum * buffer + (1 - dampening)
        assert step_gain(constants) == pytest.approx(buffer)


def test_a_step_that_takes_much_of_the_weights_is_refused_with_the_largest_that_does_not() -> None:
    """Beyond a tenth, (1 - k x) is no longer (1 - x) ** k, and beyond 1 the weights change sign."""
    adamw = {"weight_decay": 0.1}

    def at(batch: int, **others: Any) -> Any:
        values: dict[str, Any] = {
            "optimizer": "adamw",
            "rule": "none",
            "constants": adamw,
            "co_scale": {"weight_decay": True},
        }
        return scale_lr(0.1, reference_batch_size=16, global_batch_size=batch, **(values | others))

    assert at(160).constants["weight_decay"] == pytest.approx(1.0)
    with pytest.raises(PlanError) as caught:
        at(161)
    assert str(caught.value) == (
        "scale.co_scale.weight_decay holds a timescale of 1600 samples, and a step of 161 would take 10% of the "
        "weights.\n  Lower weight_decay, or use a global batch of at most 160 (reference 16)."
    )
    with pytest.raises(PlanError, match="would take 100% of the weights"):
        at(1600)
    assert at(10**6, co_scale={}).constants == adamw, "what is not held is not judged"
    assert at(16, constants={"weight_decay": 5.0}).constants == {"weight_decay": 5.0}, "the reference is known good"
    assert at(8, constants={"weight_decay": 5.0}).constants == {"weight_decay": 2.5}
    with pytest.raises(PlanError, match=r"a global batch of at most 16 \(reference 16\)"):
        at(17, constants={"weight_decay": 5.0})
    sgd = {"momentum": 0.9, "weight_decay": 0.01}  # momentum counts: the same timescale of 1600
    assert at(160, optimizer="sgd", constants=sgd)
    with pytest.raises(PlanError, match="timescale of 1600 samples"):
        at(161, optimizer="sgd", constants=sgd)


@pytest.mark.parametrize(
    ("constants", "batch", "text"),
    [
        (
            {"momentum": 0.0, "dampening": 0.5},
            32,
            "scale.co_scale.momentum changes a momentum of 0 to 0.5, and dampening = 0.5 has an effect "
            "only with momentum: it would act in one of the two.\n  Leave dampening out of reference.optimizer.",
        ),
        (
            {"momentum": 0.5, "nesterov": True},
            8,
            "scale.co_scale.momentum changes a momentum of 0.5 to 0, and nesterov = true has an effect "
            "only with momentum: it would act in one of the two.\n  Leave nesterov out of reference.optimizer.",
        ),
    ],
)
def test_a_momentum_that_comes_or_goes_beside_what_needs_one_is_refused(
    constants: dict[str, Any], batch: int, text: str
) -> None:
    with pytest.raises(PlanError) as caught:
        scale(
            Rule(name="none", co_scale=CoScale(momentum=True)),
            batch_ratio=batch / 16,
            reference_batch_size=16,
            optimizer="sgd",
            constants=constants,
        )
    assert str(caught.value) == text


def test_adagrads_and_adamaxs_square_root_is_by_analogy() -> None:
    for name in ("torch.optim:Adagrad", "torch.optim:Adamax"):
        found = scale_lr(0.1, reference_batch_size=16, global_batch_size=32, optimizer=name, rule="sqrt")
        assert found.reason == f"{name}: square-root rule, by analogy with Adam (Malladi et al. 2022), as requested"
