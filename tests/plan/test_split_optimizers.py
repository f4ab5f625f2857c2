"""Optimizers that share the parameters of a recipe: what each trains, and what the job file may say of them."""

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from scaler.errors import JobFileError, PlanError
from scaler.job import Job
from scaler.metrics.events import AttemptStarted
from scaler.plan import Plan, PlanParameter, make_plan
from scaler.plan.range_test import range_job, range_plan
from scaler.report.plan.text import plan_text
from scaler.report.run.attempts import plans_of_attempts

Digits = Callable[..., Job]

MODEL = {
    "embed.weight": PlanParameter(size=40, kind="embedding", other_names=("out.weight",)),
    "blocks.0.weight": PlanParameter(size=16, kind="matrix"),
    "blocks.0.bias": PlanParameter(size=4),
    "blocks.1.weight": PlanParameter(size=16, kind="matrix"),
    "blocks.1.bias": PlanParameter(size=4),
    "head.weight": PlanParameter(size=40, kind="matrix"),
}
MUON = "reference.optimizer={name: muon, fallback: {name: adamw, lr: 0.001%s}}"


def planned(digits: Digits, *overrides: str, model: dict[str, PlanParameter] = MODEL, **given: Any) -> Plan:
    return make_plan(digits("scale.rule=auto", "reference.lr=0.02", *overrides), parameters=model, **given)


def test_the_fallback_trains_what_is_no_matrix_embeddings_and_what_it_matches(digits: Digits) -> None:
    plan = planned(digits, MUON % ', match: ["head.*"]')
    (fallback,) = plan.optimizers
    assert list(plan.tensors) == ["blocks.0.weight", "blocks.1.weight"]
    assert fallback.tensors == {"embed.weight": 40, "blocks.0.bias": 4, "blocks.1.bias": 4, "head.weight": 40}
    assert (fallback.name, fallback.optimizer["name"], fallback.optimizer["weight_decay"]) == (
        "fallback",
        "adamw",
        0.01,
    )
    assert list(planned(digits, MUON % "").tensors) == ["blocks.0.weight", "blocks.1.weight", "head.weight"]


def test_each_has_its_own_learning_rate_and_rule_at_every_batch(digits: Digits) -> None:
    """The reference has 16 samples, two workers have 256."""
    plan = planned(digits, MUON % ", rule: none")
    (fallback,) = plan.optimizers
    assert (plan.rule, plan.peak_lr) == ("sqrt", 0.02 * 4)
    assert plan.rule_reason.startswith("muon: square-root rule, by convergence bounds of steepest descent (Cesista")
    assert (fallback.scaling.rule.name, fallback.peak_lr) == ("none", 0.001)
    again = make_plan(
        digits("scale.rule=auto", "reference.lr=0.02", MUON % ", rule: none"), 1, parameters=plan.parameters
    )
    assert (again.peak_lr, again.optimizers[0].peak_lr) == (pytest.approx(0.02 * 8**0.5), 0.001)
    assert (again.tensors, again.optimizers[0].tensors) == (plan.tensors, fallback.tensors)


def test_any_number_of_optimizers_share_the_parameters_by_pattern(digits: Digits) -> None:
    """Tied weights match under each of their names, and the rest is of reference.optimizer."""
    several = (
        '{out: {match: ["out.*"], lr: 0.1}, top: {match: ["head.*"], lr: 0.02, optimizer: {name: adam}, rule: sqrt}}'
    )
    plan = planned(digits, "reference.optimizer={name: sgd}", f"reference.optimizers={several}")
    out, top = plan.optimizers
    assert (list(out.tensors), list(top.tensors)) == (["embed.weight"], ["head.weight"])
    assert (out.peak_lr, top.peak_lr) == (0.1 * 16, 0.02 * 4)
    assert list(plan.tensors) == [name for name in MODEL if name not in ("embed.weight", "head.weight")]


def test_patterns_and_a_fallback_together(digits: Digits) -> None:
    several = 'reference.optimizers={top: {match: ["head.*", "blocks.1.*"], lr: 0.1, optimizer: {name: sgd}}}'
    plan = planned(digits, MUON % "", several)
    top, fallback = plan.optimizers
    assert list(top.tensors) == ["blocks.1.weight", "blocks.1.bias", "head.weight"], "patterns come first"
    assert list(fallback.tensors) == ["embed.weight", "blocks.0.bias"]
    assert list(plan.tensors) == ["blocks.0.weight"]


def test_the_plan_is_the_same_after_json(digits: Digits) -> None:
    plan = planned(digits, MUON % "")
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_a_group_is_of_one_optimizer_and_has_its_learning_rate(digits: Digits) -> None:
    plan = planned(digits, MUON % "", "groups=[{match: 'blocks.*', lr_ratio: 0.5}]")
    found = {(group.name, group.optimizer): (group.peak_lr, list(group.tensors)) for group in plan.groups}
    assert found == {
        ("everything else", "fallback"): (0.001 * 4, ["embed.weight"]),
        ("blocks.*", None): (0.02 * 2, ["blocks.0.weight", "blocks.1.weight"]),
        ("blocks.*", "fallback"): (0.001 * 2, ["blocks.0.bias", "blocks.1.bias"]),
        ("everything else", None): (0.02 * 4, ["head.weight"]),
    }


def test_a_range_test_multiplies_both_learning_rates(digits: Digits) -> None:
    job = digits("scale.rule=auto", "reference.lr=0.02", MUON % "", "groups=[{match: 'head.*', lr_ratio: 0.5}]")
    plan = range_plan(
        range_job(job, steps=20), lowest=1e-3, highest=0.16, spacing="linear", num_samples=1437, parameters=MODEL
    )
    assert (plan.peak_lr, plan.optimizers[0].peak_lr) == (pytest.approx(0.16), pytest.approx(0.004 * 2))
    assert sorted({round(group.peak_lr, 9) for group in plan.groups}) == [0.008, 0.08, 0.16]


def test_the_plan_says_what_each_optimizer_trains(digits: Digits) -> None:
    out = io.StringIO()
    Console(file=out, width=150).print(plan_text(planned(digits, MUON % ", rule: none")))
    rows = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    assert "trains 72 parameters in 3 tensors: blocks.0.weight, blocks.1.weight, head.weight" in rows
    assert "trains 48 parameters in 3 tensors: embed.weight, blocks.0.bias, blocks.1.bias" in rows
    (row,) = (place for place, row in enumerate(rows) if row.startswith("optimizer fallback adamw peak lr 0.001, "))
    assert ", none, wd timescale 25,600,000 samples trains" in " ".join(rows[row : row + 2])


def test_beta2_is_that_of_the_optimizers_that_keep_running_squares(digits: Digits) -> None:
    plan = planned(digits, MUON % ", betas: [0.9, 0.95]", "scale.co_scale.beta2=half_life")
    (fallback,) = plan.optimizers
    assert "betas" not in plan.optimizer
    assert fallback.optimizer["betas"] == [0.9, pytest.approx(0.95**16)]
    with pytest.raises(JobFileError, match="a learning rate of sgd is not one of adamw"):
        digits("reference.optimizer={name: sgd, fallback: adamw}")


NARROW = {"a.weight": PlanParameter(size=4, kind="matrix"), "b.weight": PlanParameter(size=4, kind="matrix")}


@pytest.mark.parametrize(
    ("overrides", "model", "message"),
    [
        (
            ["reference.optimizer={name: muon}"],
            MODEL,
            "reference.optimizer: muon trains matrices only, and blocks.0.bias, blocks.1.bias do not have "
            "two dimensions.\n  Add an optimizer for the others: fallback: {name: adamw, lr: 0.001}.",
        ),
        (
            ["reference.optimizer={name: 'torch.optim:Muon'}"],
            MODEL,
            "reference.optimizer: torch.optim:Muon trains matrices only, and blocks.0.bias, blocks.1.bias do not have "
            "two dimensions.\n  Add an optimizer for the others: fallback: {name: adamw, lr: 0.001}.",
        ),
        (
            ["reference.optimizers={m: {match: ['blocks.*'], optimizer: {name: muon}, lr: 0.1}}"],
            MODEL,
            "reference.optimizers.m: muon trains matrices only, and blocks.0.bias, blocks.1.bias do not have "
            "two dimensions.\n  Leave them out of reference.optimizers.m.match.",
        ),
        (
            [MUON % ", match: ['haed.*']"],
            MODEL,
            "reference.optimizer.fallback: match = haed.* matches none of the model's 6 parameters.\n"
            "  They are named embed.weight, blocks.0.weight, blocks.0.bias, blocks.1.weight, ....",
        ),
        (
            [MUON % ", match: ['head.*']", "reference.optimizers={top: {match: ['*.weight'], lr: 0.1}}"],
            MODEL,
            "the parameter head.weight matches both reference.optimizers.top and reference.optimizer.fallback.\n"
            "  Make the patterns of one of them narrower.",
        ),
        (
            [MUON % ""],
            NARROW,
            "reference.optimizer.fallback trains nothing: every parameter is a matrix that is not an embedding.\n"
            "  Leave it out, or name what it trains with match.",
        ),
        (
            [MUON % ", match: ['*']"],
            MODEL,
            "reference.optimizer trains nothing: all of the model's 6 parameters are those of "
            "reference.optimizer.fallback.\n  Make their patterns narrower.",
        ),
        (
            ["reference.optimizer={name: sgd, fallback: {name: adamw, lr: 0.1}}", "scale.rule=adascale"],
            MODEL,
            "scale.rule = adascale measures the gradient of one optimizer, and reference.optimizer.fallback is a "
            "second.\n  Use another rule.",
        ),
        (
            [MUON % "", "schedule={name: one_cycle, low_momentum: 0.85, high_momentum: 0.95}"],
            MODEL,
            "schedule.low_momentum cycles one momentum, and reference.optimizer.fallback is another optimizer.\n"
            "  Leave low_momentum and high_momentum out.",
        ),
        (
            ["reference.optimizer={name: muon, fallback: {name: lion, lr: 0.001}}"],
            MODEL,
            "reference.optimizer.fallback: scale.rule = auto has no rule for lion: sqrt, linear and none all lost at 8 "
            "times the batch, linear the least (docs/rules-experiments.md).\n"
            "  Choose a rule for it: rule: linear, rule: sqrt or rule: none.",
        ),
        (
            [MUON % "", "scale.rule=adam_sde"],
            MODEL,
            "scale.rule = adam_sde scales the averages of Adam and RMSprop, and the optimizer is muon.\n"
            "  It is for adam, adamw and rmsprop.",
        ),
    ],
)
def test_a_split_that_cannot_be_is_refused(
    digits: Digits, overrides: list[str], model: dict[str, PlanParameter], message: str
) -> None:
    with pytest.raises(PlanError) as caught:
        planned(digits, *overrides, model=model)
    assert str(caught.value) == message


def test_a_split_needs_a_model(digits: Digits) -> None:
    with pytest.raises(PlanError) as caught:
        make_plan(digits(MUON % ""))
    assert str(caught.value).startswith("several optimizers share the model's parameters, and the plan is made without")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["reference.optimizer={name: muon, fallback: adamw}"],
            "reference has optimizer.fallback without lr, and a learning rate of muon is not one of adamw.\n"
            "  Give the learning rate that adamw was tuned with, such as {name: adamw, lr: 0.001}; or adjust_lr_fn: "
            "match_rms_adamw, with which muon takes the steps of AdamW.",
        ),
        (
            ["reference.optimizers={m: {match: ['*.weight'], optimizer: {name: muon}}}"],
            "reference has optimizers.m without lr, and a learning rate of sgd is not one of muon.",
        ),
        (
            ["reference.optimizer={name: muon, adjust_lr_fn: rms}"],
            "reference.optimizer has adjust_lr_fn = rms, which muon does not know.\n  Use original or match_rms_adamw.",
        ),
        (
            ["reference.optimizer={name: muon, momentum: 1.5}"],
            "reference.optimizer has momentum = 1.5, which must be >= 0 and < 1.",
        ),
        (
            ["reference.optimizer={name: muon, fallback: {name: adamw, lrr: 0.1}}"],
            'reference.optimizer.fallback has the key "lrr", which adamw does not take.',
        ),
        (
            ["reference.optimizer={name: muon, fallback: 3}"],
            "reference.optimizer.fallback = 3",
        ),
        (
            ["reference.optimizer={name: muon, fallback: {name: adamv, lr: 0.1}}"],
            "reference.optimizer.fallback has the name adamv, which is not an optimizer.",
        ),
        (
            [MUON % "", "reference.optimizers={fallback: {match: ['*'], lr: 0.1}}"],
            "reference has optimizers.fallback, which is the name of optimizer.fallback.",
        ),
        (
            [MUON % "", "reference.optimizers={top: {lr: 0.1}}"],
            "reference has optimizers.top without match, and fallback splits the parameters.\n"
            '  Say what it trains, such as top: {match: ["top.*"], ...}.',
        ),
        (
            ["reference.optimizers={top: {match: ['a'], lr: 0.1, optimizer: {name: adam, fallback: sgd}}}"],
            "reference.optimizers.top has an optimizer with a fallback.",
        ),
        (
            ["reference.optimizers={top: {match: ['a'], lr: 0.1, rule: adascale}}"],
            "reference.optimizers.top.rule = adascale is not one of auto, linear, sqrt, adam_sde, none.",
        ),
        (
            ["reference.optimizers={top: {match: 'a', lr: 0.1}}"],
            "reference.optimizers.top.match = a is not a list.\n  Write match: [a].",
        ),
    ],
)
def test_a_job_that_makes_no_sense_is_refused(digits: Digits, overrides: list[str], message: str) -> None:
    with pytest.raises(JobFileError) as caught:
        digits(*overrides)
    assert message in str(caught.value)


def test_muon_with_the_steps_of_adamw_shares_its_learning_rate(digits: Digits) -> None:
    plan = planned(digits, "reference.optimizer={name: muon, adjust_lr_fn: match_rms_adamw, fallback: adamw}")
    assert plan.optimizers[0].peak_lr == plan.peak_lr == 0.02 * 4


def test_earlier_attempts_with_another_job_are_planned_with_the_same_parameters(digits: Digits) -> None:
    """A run that was resumed with another learning rate has two jobs, and its report a plan for each."""
    first, second = ("", "reference.optimizer.fallback.lr=0.002")
    jobs = [digits("reference.lr=0.02", MUON % "", *filter(None, [change])) for change in (first, second)]
    plan = make_plan(jobs[1], parameters=MODEL)
    common = {"time": 0.0, "global_batch_size": 256, "per_worker_batch_size": 128, "peak_lr": 0.08, "ramp": None}
    events = [
        AttemptStarted(attempt=attempt, samples_seen=0, start_samples=0, world_size=2, flops_per_sample=None, **common)
        for attempt in (0, 1)
    ]
    plans = plans_of_attempts(events, dict(enumerate(jobs)), plan)
    assert [plans[attempt].optimizers[0].scaling.base_lr for attempt in (0, 1)] == [0.001, 0.002]
    assert plans[0].tensors == plan.tensors
