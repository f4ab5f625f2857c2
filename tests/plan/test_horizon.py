"""The plan of a training that is longer or shorter than the reference's: ``scale.horizon``, and what a plan says."""

from collections.abc import Callable
from typing import Any

import pytest

from scaler.errors import JobFileError, PlanError
from scaler.job import Job
from scaler.plan import Plan, grow, make_plan
from scaler.plan.range_test import range_job, range_plan

Digits = Callable[..., Job]

ADAMW = "reference.optimizer={name: adamw, weight_decay: 0.1}"
# The round job has 10 epochs of 1000 samples, and 4 times the reference's batch: kappa = 4 / 8 = 1/2.
LAW = (ADAMW, "scale.horizon=true", "reference.total_samples=1250", "scale.rule=auto")


def message(plan: Plan, code: str) -> str:
    (found,) = (warning.message for warning in plan.warnings if warning.code == code)
    return found


def codes(plan: Plan) -> set[str]:
    return {warning.code for warning in plan.warnings}


def share(plan: Plan) -> float:
    assert plan.weight_decay_timescale is not None
    return plan.weight_decay_timescale / plan.total_samples


def test_every_number_follows_kappa(round_job: Digits) -> None:
    plan = make_plan(round_job(*LAW))
    kappa = 0.5
    assert (plan.rule, plan.batch_ratio, plan.reference_samples) == ("adam_sde", 4.0, 1250)
    assert plan.lr_ratio == kappa**0.5
    assert plan.peak_lr == plan.base_lr * plan.lr_ratio
    assert plan.optimizer["betas"] == pytest.approx([0.95, 0.9995])
    assert plan.optimizer["eps"] == pytest.approx(1e-8 / kappa**0.5)
    assert plan.optimizer["weight_decay"] == pytest.approx(0.1 * kappa**0.5)
    assert plan.reasons["lr_ratio"] == (
        "0.7071x: adamw: square root of the batch over the length of the training (Mlodozeniec et al. 2025), chosen "
        "by scale.horizon; the root of 0.5 = batch ratio 4 / length ratio 8 (1,250 -> 10,000 samples)"
    )
    assert Plan.from_dict(plan.to_dict()) == plan


@pytest.mark.parametrize("length", ["reference.total_samples=1250", "reference.epochs=1.25"])
def test_the_reference_s_length_may_be_in_epochs_of_this_training_set(round_job: Digits, length: str) -> None:
    plan = make_plan(round_job(ADAMW, "scale.horizon=true", "scale.rule=auto", length))
    assert (plan.reference_samples, plan.lr_ratio) == (1250, 0.5**0.5)


def test_weight_decay_keeps_its_share_of_the_training_at_every_batch_and_length(round_job: Digits) -> None:
    plans = [
        make_plan(round_job(*LAW, "scale.betas=power", f"scale.per_worker_batch_size={size}", f"train.epochs={epochs}"))
        for size in (5, 50, 100)
        for epochs in (1, 10, 40)
    ]
    assert [share(plan) for plan in plans] == pytest.approx(len(plans) * [25 / (0.01 * 0.1 * 1250)], rel=1e-12)


def test_each_phase_and_each_short_step_follows_the_same_length(round_job: Digits) -> None:
    points = "scale.batch_schedule={name: points, points: [{at: {epochs: 5}, factor: 3}]}"
    plan = make_plan(round_job(*LAW, points))
    assert [phase.lr_ratio for phase in plan.phases] == [(ratio / 8) ** 0.5 for ratio in (4, 12)]
    short = plan.step_phase(5900)  # 100 of 300 samples are left in the epoch
    assert (short.global_batch_size, short.lr_ratio) == (100, 0.5**0.5)
    assert short.optimizer["betas"] == plan.phases[0].optimizer["betas"]
    grown = grow(plan, round_job(*LAW), samples_seen=2000, global_batch_size=200)
    assert grown.phases[-1].lr_ratio == 1.0  # kappa 8 / 8


def test_every_size_of_an_elastic_job_follows_the_same_length(digits: Digits) -> None:
    elastic = (ADAMW, "scale.horizon=true", "scale.rule=auto", "scale.betas=power", "reference.epochs=3")
    job = digits(*elastic, "scale.num_workers={min: 1, max: 4}", "scale.per_worker_batch_size=16")
    for workers in (1, 2, 3, 4):
        plan = make_plan(job, workers)
        assert plan.lr_ratio == pytest.approx((workers / 5) ** 0.5, rel=1e-15)  # the training is 5 times as long
    assert len({make_plan(job, workers).warmup_samples for workers in (1, 4)}) == 1


def test_an_optimizer_with_a_reference_of_its_own_follows_the_length_too(round_job: Digits) -> None:
    own = "reference.optimizers={d: {lr: 0.002, optimizer: {name: adamw, betas: [0.5, 0.9], weight_decay: 0.2}}}"
    plan = make_plan(round_job(*LAW, own))
    (d,) = plan.optimizers
    assert d.peak_lr == 0.002 * 0.5**0.5
    assert d.optimizer["betas"] == pytest.approx([0.75, 0.95])
    assert d.phase(plan.phases[0]).weight_decay_ratio == plan.phases[0].weight_decay_ratio


def test_the_reference_s_warmup_follows_the_length_unless_it_is_a_share_of_it(round_job: Digits) -> None:
    for warmup, samples in (
        ("{samples: 100}", 800),
        ("{epochs: 0.1}", 800),
        ("{steps: 4}", 800),  # of the reference, of 25 samples
        ("{fraction: 0.1}", 1000),
    ):
        plan = make_plan(round_job(*LAW, f"reference.warmup={warmup}"))
        assert plan.schedule.reference_warmup.samples == samples
    plan = make_plan(round_job(*LAW, "reference.warmup={samples: 100}"))
    reason = "800 samples: the reference's 100 samples x 8 by the horizon, from 0; "
    assert plan.reasons["warmup_samples"].startswith(reason)
    alone = make_plan(round_job(ADAMW, "reference.total_samples=1250", "reference.warmup={samples: 100}"))
    assert alone.schedule.reference_warmup.samples == 100


def test_milestones_in_absolute_lengths_are_those_of_this_training(round_job: Digits) -> None:
    milestones = "schedule={name: multi_step, at: [{samples: 5000}, {epochs: 8}, {fraction: 0.9}], decay: 0.1}"
    with_law, without = (make_plan(round_job(*overrides, milestones)) for overrides in (LAW, (ADAMW,)))
    assert with_law.schedule.shape == without.schedule.shape


def test_the_average_of_the_weights_remembers_the_same_share_of_the_training(round_job: Digits) -> None:
    average = ("train.ema={decay: 0.99}", "scale.co_scale={ema: true}")
    plan = make_plan(round_job(*LAW, *average))
    assert plan.phases[0].ema_decay == pytest.approx(0.99**0.5)
    assert plan.reasons["ema_decay"] == "0.99 ** 0.5: holds its memory as a share of the training"


def test_a_range_test_scales_to_the_length_of_the_job_s_own_training(round_job: Digits) -> None:
    job = round_job(*LAW)
    own = make_plan(job)
    test = range_plan(
        range_job(job, steps=50),
        lowest=1e-4,
        highest=1.0,
        spacing="exponential",
        num_samples=1000,
        parameters=None,
        horizon_samples=own.total_samples,
    )
    assert test.lr_ratio == own.lr_ratio
    assert {**test.optimizer, "lr": 0} == {**own.optimizer, "lr": 0}


@pytest.mark.parametrize(
    ("overrides", "shown"),
    [
        (["reference.total_samples=3333"], True),  # 10000 samples are a little more than 3 times as long
        (["reference.total_samples=3334"], False),
        (["reference.total_samples=30001"], True),
        (["reference.total_samples=30000"], False),  # a third
        ([], False),  # the reference's length is not known
        (["reference.total_samples=1250", "scale.horizon=true", "scale.rule=auto", ADAMW], False),  # it is scaled
    ],
)
def test_a_training_that_is_much_longer_or_shorter_is_a_warning(
    round_job: Digits, overrides: list[str], shown: bool
) -> None:
    assert ("horizon_far_from_reference" in codes(make_plan(round_job(*overrides)))) == shown


def test_the_warning_says_what_to_type(round_job: Digits) -> None:
    far = "reference.total_samples=1000"
    head = (
        "The training of 10,000 samples is 10 times the reference's 1,000, and the best learning rate and weight decay "
        "may depend on the length. Tune the reference at about this length."
    )
    assert message(make_plan(round_job(far, ADAMW, "scale.rule=sqrt")), "horizon_far_from_reference") == head + (
        " scale.horizon: true applies a published law for AdamW; it lost in both experiments of "
        "docs/rules-experiments.md."
    )
    assert message(make_plan(round_job(far)), "horizon_far_from_reference") == head


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (
            ["scale.horizon=true", ADAMW, "scale.rule=auto"],
            "scale.horizon = true, and the length of the reference's training is missing.\n"
            "  Give reference.total_samples, reference.total_tokens or reference.epochs.",
        ),
        (
            [*LAW, "reference.epochs=2"],
            "reference has total_samples: 1250 and epochs: 2, which are the same length.\n  Give one of them.",
        ),
        (
            [*LAW, "scale.rule=sqrt"],
            "scale has horizon: true and rule: sqrt. The horizon goes with adam_sde: it scales lr, "
            "weight decay, betas and eps together.\n  Use rule: auto, or leave horizon out.",
        ),
        (
            [*LAW, "scale.co_scale={weight_decay: true}"],
            "scale has horizon: true and co_scale.weight_decay: true, and the horizon scales weight decay already.\n"
            "  Leave co_scale.weight_decay out.",
        ),
        (
            [*LAW, "scale.co_scale={beta2: half_life}"],
            "scale has co_scale.beta2: half_life, and the rule adam_sde scales beta2 already.\n"
            "  Leave co_scale.beta2 out; betas: power holds the half-life.",
        ),
        (
            ["scale.beta2_range=[0.95, 0.9999]"],
            "scale has beta2_range: [0.95, 0.9999], and nothing scales beta2.\n"
            "  Give co_scale.beta2: half_life, or leave beta2_range out.",
        ),
        *(
            (
                ["scale.co_scale={beta2: half_life}", f"scale.beta2_range={bounds}"],
                f"scale has beta2_range: {bounds}, which is not a floor and a ceiling.\n  Such as [0.95, 0.9999].",
            )
            for bounds in ("[0.99, 0.95]", "[0.95]", "[0.9, 0.95, 0.99]")
        ),
        (
            ["scale.co_scale={beta2: half_live}"],
            'scale.co_scale.beta2 = half_live is not one of half_life.\n  Did you mean "half_life"?',
        ),
    ],
)
def test_what_a_job_must_not_ask_for(round_job: Digits, overrides: list[str], text: str) -> None:
    with pytest.raises(JobFileError) as caught:
        round_job(*overrides)
    assert str(caught.value).partition(": ")[2] == text


def test_auto_names_the_optimizers_of_the_law(round_job: Digits) -> None:
    with pytest.raises(PlanError) as caught:
        make_plan(round_job(*LAW, "reference.optimizer={name: sgd}"))
    assert str(caught.value).endswith("It is for adamw; without weight decay, use it with weight_decay: 0.")


# The timescale of weight decay


@pytest.mark.parametrize(
    ("overrides", "timescale", "reason"),
    [
        ([ADAMW, "scale.rule=sqrt"], 50_000, "5 times the training; in the reference 25,000 samples"),
        (
            [ADAMW, "scale.rule=sqrt", "reference.total_samples=5000"],
            50_000,
            "5 times the training; in the reference 25,000 samples, 5 times its training",
        ),
        ([*LAW], 200_000, "20 times the training; in the reference 25,000 samples, 20 times its training"),
        (
            ["reference.optimizer={name: sgd, momentum: 0.9, weight_decay: 0.01}", "scale.rule=linear"],
            25_000,
            "2.5 times the training; in the reference 25,000 samples",
        ),
        (
            ["reference.optimizer={name: adamw, weight_decay: 1.0}", "scale.rule=linear"],
            2_500,
            "0.25 of the training; in the reference 2,500 samples",
        ),
        (
            ["reference.optimizer={name: sgd, weight_decay: 0.1}", "scale.rule=adascale", "scale.num_workers=2"],
            100_000,
            "10 times the training, divided by the measured gain; in the reference 25,000 samples",
        ),
        (["reference.optimizer={name: adam, weight_decay: 0.01}"], None, None),  # coupled: it has none
        (["reference.optimizer={name: adamw, weight_decay: 0.0}"], None, None),
    ],
)
def test_every_plan_has_the_timescale_of_its_weight_decay(
    round_job: Digits, overrides: list[str], timescale: float | None, reason: str | None
) -> None:
    plan = make_plan(round_job(*overrides))
    assert plan.weight_decay_timescale == (None if timescale is None else pytest.approx(timescale))
    assert plan.reasons.get("weight_decay_timescale") == reason


# The range of beta2


def test_a_range_that_has_an_effect_is_a_warning_also_in_a_later_phase(round_job: Digits) -> None:
    base = (ADAMW, "scale.rule=auto", "scale.co_scale={beta2: half_life}", "scale.beta2_range=[0.99, 0.9999]")
    plan = make_plan(round_job(*base))
    assert "beta2_range_binds" not in codes(plan)
    later = make_plan(round_job(*base, "scale.batch_schedule={name: points, points: [{at: {epochs: 5}, factor: 4}]}"))
    assert later.phases[1].optimizer["betas"] == [0.9, 0.99]
    assert message(later, "beta2_range_binds") == (
        "At 16 times the reference's batch, from sample 5000 on, the rule gives adamw a beta2 of 0.984119, and "
        "scale.beta2_range = [0.99, 0.9999] makes it 0.99."
    )
    small = make_plan(round_job(*base, "scale.per_worker_batch_size=1"))
    assert message(small, "beta2_range_binds") == (
        "At 1/12.5 of the reference's batch the rule gives adamw a beta2 of 0.99992, and scale.beta2_range = [0.99, "
        "0.9999] makes it 0.9999."
    )


def test_the_range_of_another_optimizer_is_its_own(round_job: Digits) -> None:
    options: dict[str, Any] = {"name": "adamw", "betas": [0.9, 0.95]}
    own = f"reference.optimizers={{d: {{optimizer: {options}}}}}".replace("'", "")
    base = (ADAMW, "scale.rule=auto", "scale.co_scale={beta2: half_life}", "scale.beta2_range=[0.94, 0.9999]")
    text = message(make_plan(round_job(*base, own)), "beta2_range_binds")
    assert text.startswith("reference.optimizers.d: At 4 times the reference's batch the rule gives adamw a beta2 of")
