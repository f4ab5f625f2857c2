"""The plan of several optimizers: each is scaled from its own reference, at the same batch."""

import io
import json
from collections.abc import Callable

import pytest
from rich.console import Console

from scaler.errors import JobFileError, PlanError
from scaler.job import Job
from scaler.plan import Plan, make_plan
from scaler.plan.range_test import range_job, range_plan
from scaler.report.plan.text import plan_text

Digits = Callable[..., Job]

# The reference of the digits: SGD with momentum 0.9 and a learning rate of 0.01 at 16 samples. Two workers: 256.
SEVERAL = (
    "scale.rule=auto",
    "reference.optimizers={d: {lr: 0.0004, optimizer: {name: adam, betas: [0.5, 0.999]}}, e: {lr: 0.02}}",
)


def test_each_optimizer_follows_the_rule_of_its_own_kind(digits: Digits) -> None:
    plan = make_plan(digits(*SEVERAL))
    d, e = plan.optimizers
    assert (d.name, d.scaling.rule.name, d.peak_lr) == ("d", "sqrt", 0.0004 * 4.0)
    assert (e.name, e.scaling.rule.name, e.peak_lr) == ("e", "linear", 0.02 * 16.0)
    assert d.optimizer["betas"] == [0.5, 0.999]
    assert d.optimizer["lr"] == d.peak_lr
    assert e.optimizer == {**plan.optimizer, "lr": e.peak_lr}
    assert (plan.rule, plan.peak_lr) == ("linear", 0.16)


def test_another_batch_starts_from_each_reference_again(digits: Digits) -> None:
    grown = "scale.batch_schedule={name: doubling, every: {epochs: 5}, max_global_batch_size: 1024}"
    plan = make_plan(digits(*SEVERAL, grown))
    first, second, third = plan.phases
    d = plan.optimizers[0]
    assert [d.phase(phase).peak_lr for phase in (first, second, third)] == pytest.approx(
        [0.0004 * (size / 16) ** 0.5 for size in (256, 512, 1024)]
    )
    assert d.phase(second).global_batch_size == 512
    assert d.phase(second).start_samples == second.start_samples


def test_a_plan_with_several_optimizers_is_the_same_after_json(digits: Digits) -> None:
    plan = make_plan(digits(*SEVERAL))
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    assert make_plan(digits()).optimizers == ()


def test_a_range_test_multiplies_every_learning_rate_by_the_same_number(digits: Digits) -> None:
    job = range_job(digits(*SEVERAL), steps=20)
    plan = range_plan(job, lowest=1e-3, highest=1.6, spacing="exponential", num_samples=1437, parameters=None)
    assert plan.peak_lr == pytest.approx(1.6)
    own = make_plan(digits(*SEVERAL))
    for found, before in zip(plan.optimizers, own.optimizers, strict=True):
        assert found.peak_lr == pytest.approx(before.peak_lr * 1.6 / 0.16)
        assert found.phase(plan.phases[0]).peak_lr == pytest.approx(found.peak_lr)


def test_the_plan_shows_each_optimizer_with_its_learning_rate(digits: Digits) -> None:
    out = io.StringIO()
    Console(file=out, width=150).print(plan_text(make_plan(digits(*SEVERAL))))
    rows = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    assert "optimizer d adam peak lr 0.0016, betas [0.5, 0.999], eps 1e-08, weight_decay 0, amsgrad false, sqrt" in rows
    assert any(row.startswith("optimizer e sgd peak lr 0.32, momentum 0.9") for row in rows)


def test_each_optimizer_has_the_warnings_of_its_own_scaling(digits: Digits) -> None:
    plan = make_plan(digits("scale.rule=linear", SEVERAL[1]))
    (warning,) = [warning for warning in plan.warnings if warning.code == "linear_rule_with_adaptive_optimizer"]
    assert warning.message.startswith("reference.optimizers.d: adam divides the gradient by its running size")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("scale.rule=adascale",),
            "scale.rule = adascale measures the gradient of one optimizer, and reference.optimizers.d is a second.\n"
            "  Use another rule.",
        ),
        (
            ("schedule={name: one_cycle, low_momentum: 0.85, high_momentum: 0.95}",),
            "schedule.low_momentum cycles one momentum, and reference.optimizers.d is another optimizer.\n"
            "  Leave low_momentum and high_momentum out.",
        ),
        (
            ("reference.optimizers={d: {optimizer: {name: lion}}}", "scale.rule=auto"),
            "reference.optimizers.d: scale.rule = auto",
        ),
    ],
)
def test_what_several_optimizers_do_not_allow_is_refused(
    digits: Digits, overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(PlanError) as caught:
        make_plan(digits(*SEVERAL, *overrides))
    assert str(caught.value).startswith(message)


def test_an_entry_that_changes_nothing_is_refused(digits: Digits) -> None:
    with pytest.raises(JobFileError) as caught:
        digits("reference.optimizers={d: {}}")
    assert "reference.optimizers.d changes nothing." in str(caught.value)
    assert str(caught.value).endswith("Give lr, optimizer or rule, or leave it out.")
