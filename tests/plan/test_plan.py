"""The value itself: frozen, through JSON, and what it answers."""

import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError

import pytest

from scaler.errors import RunError
from scaler.job import Job
from scaler.plan import Plan, make_plan

Digits = Callable[..., Job]

# Of `scaler plan --json`: may grow, and nothing in it is renamed.
FIELDS = {
    "schema_version", "purpose", "name", "world_size", "global_batch_size", "per_worker_batch_size", "grad_accum_steps",
    "reference_batch_size", "base_lr", "rule", "rule_reason", "batch_ratio", "lr_ratio", "peak_lr", "optimizer",
    "warmup_samples", "warmup_steps", "total_samples", "total_steps", "steps_per_epoch", "lr_curve", "warnings",
    "schedule", "phases", "groups", "reacts", "reasons",
}  # fmt: skip


def test_every_documented_field_is_there_and_in_json(digits: Digits) -> None:
    values = json.loads(json.dumps(make_plan(digits()).to_dict(), allow_nan=False))
    assert values.keys() >= FIELDS
    assert all(len(point) == 2 for point in values["lr_curve"])
    assert all(warning.keys() == {"code", "message"} for warning in values["warnings"])


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["reference.optimizer={name: adam}"],  # betas by default
        ["reference.optimizer={name: adamw, betas: [0.9, 0.95]}"],
        ["reference.optimizer={name: 'torch.optim:NAdam', momentum_decay: 0.004}"],
        ["train.epochs=1"],  # with warnings
        ["schedule={name: multi_step, at: [{epochs: 5}, {epochs: 10}], plateau: {}}"],  # a list within
        ["schedule={name: one_cycle, low_momentum: 0.85, high_momentum: 0.95}"],
        ["schedule={name: cyclical, climb: {epochs: 1}, low: 0.1, warmup: {epochs: 1, shape: cosine}}"],
        ["scale.batch_schedule={name: doubling, every: {epochs: 2}, max_global_batch_size: 999}"],
        ["reference.optimizer={name: rmsprop}", "train.ema={decay: 0.999}", "scale.co_scale={ema: true}"],
        ["groups=[{match: a, freeze: {epochs: 1}}, {match: '*', weight_decay: 0}]"],
        ["layer_decay={factor: 0.8, layers: [a, b]}"],
        ["failures.divergence={then: go_back}"],
    ],
)
def test_a_plan_survives_the_way_through_json(digits: Digits, overrides: list[str]) -> None:
    plan = make_plan(digits(*overrides, "scale.rule=auto"), parameters={"a": 3, "b": 4})
    copy = Plan.from_dict(json.loads(json.dumps(plan.to_dict(), allow_nan=False)))
    assert copy == plan
    assert [copy.lr_at(s) for s in range(0, plan.total_samples + 500, 97)] == [
        plan.lr_at(s) for s in range(0, plan.total_samples + 500, 97)
    ]


@pytest.mark.parametrize("version", [3, 5])
def test_a_plan_of_another_version_is_refused(digits: Digits, version: int) -> None:
    values = make_plan(digits()).to_dict() | {"schema_version": version}
    with pytest.raises(RunError) as caught:
        Plan.from_dict(values)
    assert str(caught.value) == (
        f"plan.json has schema version {version}, and this scaler reads version 4.\n"
        "  Use the version of scaler that wrote it, or start a new run: scaler submit JOB."
    )


def test_a_plan_is_frozen(digits: Digits) -> None:
    plan = make_plan(digits())
    with pytest.raises(FrozenInstanceError):
        plan.peak_lr = 1.0  # type: ignore[misc]


def test_with_adascale_progress_is_measured(digits: Digits) -> None:
    plan = make_plan(digits("scale.rule=adascale", "schedule.warmup={epochs: 0}"))
    assert (plan.lr_ratio, plan.peak_lr, plan.is_measured, plan.reacts) == (1.0, 0.01, True, ("adascale",))
    assert plan.reasons["peak_lr"] == "0.01 x 1, times the measured gain of 1 to 16"
    half = plan.total_samples // 2
    assert plan.lr_at(100, progress=half) == pytest.approx(0.005, rel=1e-3)  # where the reference would be
    assert plan.lr_at(half) == plan.lr_at(0, progress=half)  # without a measurement, the samples
    assert plan.most_samples == 16 * plan.total_samples  # a gain of 1 throughout
    assert plan.total_steps == 90  # a gain of 16 throughout
    assert plan.step_size(plan.total_samples) == 256  # the samples do not end it: progress does
    assert plan.step_size(plan.most_samples) == 256


def test_adascale_below_the_reference_takes_no_more_samples(digits: Digits) -> None:
    plan = make_plan(digits("scale.rule=adascale", "scale.per_worker_batch_size=4"))
    assert (plan.batch_ratio, plan.most_samples) == (0.5, plan.total_samples)


def test_otherwise_progress_is_the_samples_seen(digits: Digits) -> None:
    plan = make_plan(digits())
    assert (plan.is_measured, plan.most_samples) == (False, plan.total_samples)


@pytest.mark.parametrize(
    ("samples", "batch"), [(0, 256), (2873, 256), (2874, 512), (5747, 512), (5748, 999), (21555, 999), (10**9, 999)]
)
def test_the_phase_of_a_step_is_that_of_its_start(digits: Digits, samples: int, batch: int) -> None:
    plan = make_plan(digits("scale.batch_schedule={name: doubling, every: {epochs: 2}, max_global_batch_size: 999}"))
    assert plan.phase_at(samples).global_batch_size == batch


@pytest.mark.parametrize(
    ("overrides", "reacts"),
    [
        ([], ()),
        (["failures.divergence=null"], ()),
        (["failures.divergence={then: go_back}", "schedule.plateau={}"], ("plateau", "divergence")),
        (["scale.batch_schedule={name: noise_scale, max_global_batch_size: 999}"], ("noise_scale",)),
        (["scale.batch_schedule={name: doubling, every: {epochs: 2}, max_global_batch_size: 999}"], ()),
        (["scale.rule=adascale"], ("adascale",)),
    ],
)
def test_what_reacts_is_named(digits: Digits, overrides: list[str], reacts: tuple[str, ...]) -> None:
    assert make_plan(digits(*overrides)).reacts == reacts
