from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.core.batch import share_bounds
from scaler.core.optimizers import NAMED_OPTIMIZERS
from scaler.errors import PlanError
from scaler.job import Job
from scaler.plan import make_plan

Digits = Callable[..., Job]


def test_the_digits_job_on_two_workers(digits: Digits) -> None:
    plan = make_plan(digits())
    assert (plan.world_size, plan.global_batch_size, plan.reference_batch_size) == (2, 256, 16)
    assert (plan.per_worker_batch_size, plan.grad_accum_steps) == (128, 1)
    assert (plan.rule, plan.batch_ratio, plan.lr_ratio, plan.base_lr, plan.peak_lr) == ("linear", 16, 16, 0.01, 0.16)
    assert plan.optimizer == {
        "name": "sgd",
        "lr": 0.16,
        "momentum": 0.9,
        "dampening": 0,
        "weight_decay": 0,
        "nesterov": False,
    }
    assert (plan.warmup_samples, plan.warmup_steps) == (2 * 1437, 12)
    assert (plan.total_samples, plan.total_steps, plan.steps_per_epoch) == (15 * 1437, 90, 6)
    assert plan.rule_reason == "sgd: linear rule (Goyal et al. 2017), as requested"
    assert plan.reasons["global_batch_size"] == "2 workers x 128 samples x 1 micro-step"
    assert plan.reasons["steps_per_epoch"] == "1437 samples in steps of 256, the last of 157 at peak_lr 0.09813"


def test_the_learning_rate_of_the_digits_job(digits: Digits) -> None:
    plan = make_plan(digits())
    assert plan.whole_step_lr_at(0) == pytest.approx(0.01)  # the warmup starts at the reference's learning rate
    assert plan.whole_step_lr_at(1437) == pytest.approx((0.01 + 0.16) / 2)  # half of the climb
    assert plan.whole_step_lr_at(2 * 1437) == 0.16  # its end
    assert plan.whole_step_lr_at((2 * 1437 + 15 * 1437) // 2) == pytest.approx(0.08, rel=1e-3)  # half of the cosine
    assert plan.whole_step_lr_at(15 * 1437) == 0.0


def test_plans_never_compound(digits: Digits) -> None:
    job = digits("scale.num_workers={min: 1, max: 4}")
    first, _, last = (make_plan(job, world_size) for world_size in (1, 4, 1))
    assert first == last
    assert make_plan(job, 1) == first
    for world_size in (1, 2, 3, 4):
        plan = make_plan(job, world_size)
        assert plan.peak_lr == 0.01 * (world_size * 128 / 16)  # from the reference, whatever came before


def test_the_curve_is_what_the_optimizer_gets(digits: Digits) -> None:
    plan = make_plan(digits())
    samples = [point[0] for point in plan.lr_curve]
    assert samples[0] == 0
    assert samples[-1] == plan.total_samples
    assert plan.warmup_samples in samples  # the corner
    assert samples == sorted(set(samples))
    curve, seen, short = dict(plan.lr_curve), 0, 0
    while size := plan.step_size(seen):
        short += size < 256
        assert curve.get(seen, plan.lr_at(seen)) == plan.lr_at(seen)
        assert size == 256 or seen in curve
        seen += size
    assert short == 15, "the last step of each epoch"


@pytest.mark.parametrize(
    ("overrides", "batch_ratio", "peak_lr", "warmup_samples"),
    [
        (["scale.per_worker_batch_size=4", "scale.rule=linear"], 0.5, 0.005, 0),
        (["scale.per_worker_batch_size=2", "scale.rule=sqrt"], 0.25, 0.005, 0),
        (["scale.per_worker_batch_size=4", "scale.rule=none"], 0.5, 0.01, 0),
        (["scale.per_worker_batch_size=8", "scale.rule=linear"], 1.0, 0.01, 0),  # the reference itself
    ],
)
def test_scaling_down_needs_no_warmup(
    digits: Digits, overrides: list[str], batch_ratio: float, peak_lr: float, warmup_samples: int
) -> None:
    plan = make_plan(digits(*overrides, "schedule.warmup=auto"))
    assert (plan.batch_ratio, plan.warmup_samples) == (batch_ratio, warmup_samples)
    assert plan.peak_lr == pytest.approx(peak_lr, rel=1e-15)
    assert plan.whole_step_lr_at(0) == plan.peak_lr
    assert plan.reasons["warmup_samples"] == "none (auto), because the learning rate is not scaled up"


@pytest.mark.parametrize(
    ("length", "total_samples", "total_steps", "reason"),
    [
        ("{epochs: 15}", 21555, 90, "epochs: 15"),
        ("{epochs: 0.5}", 718, 3, "epochs: 0.5"),  # 718.5, rounded to even
        ("{epochs: 0.000001}", 1, 1, "epochs: 1e-06"),  # at least one sample
        (
            "{steps: 8}",
            1437 + 512,
            8,
            "steps: 8 (steps of 256: 1,949 samples; of the reference: 128), 1.36 epochs",
        ),  # a short step counts as what it is
        ("{samples: 1000}", 1000, 4, "samples: 1000, 0.696 epochs"),
    ],
)
def test_a_training_in_any_unit(digits: Digits, length: str, total_samples: int, total_steps: int, reason: str) -> None:
    train = length.removesuffix("}") + ", num_samples: 1437}"
    plan = make_plan(digits(f"train={train}", "schedule.warmup={samples: 0}"))
    assert (plan.total_samples, plan.total_steps) == (total_samples, total_steps)
    assert plan.reasons["total_samples"] == reason
    walked, seen = 0, 0
    while size := plan.step_size(seen):
        walked, seen = walked + 1, seen + size
    assert (walked, seen) == (total_steps, total_samples)


@pytest.mark.parametrize(
    ("every", "samples"),
    [("{epochs: 1}", 1437), ("{epochs: 0.25}", 359), ("{samples: 500}", 500), ("{steps: 3}", 3 * 256)],
)
def test_intervals_are_in_samples(digits: Digits, every: str, samples: int) -> None:
    plan = make_plan(digits(f"train.eval_every={every}", f"checkpoint.every={every}"))
    assert (plan.eval_every_samples, plan.checkpoint_every_samples) == (samples, samples)


STRONG = ["scale.global_batch_size=256", "scale.grad_accum_steps=null"]


@pytest.mark.parametrize(
    ("workers", "cap", "micro_batch", "accumulation"),
    [
        (1, "null", 256, 1),
        (3, "null", 86, 1),  # 256 / 3 is no whole number
        (3, "32", 29, 3),  # 86 in three micro-steps
        (3, "86", 86, 1),  # just fits
        (3, "85", 43, 2),  # just does not
    ],
)
def test_strong_scaling_keeps_batch_and_learning_rate(
    digits: Digits, workers: int, cap: str, micro_batch: int, accumulation: int
) -> None:
    plan = make_plan(digits(*STRONG, f"scale.per_worker_batch_size={cap}", workers=workers))
    assert (plan.global_batch_size, plan.peak_lr) == (256, 0.16)
    assert (plan.per_worker_batch_size, plan.grad_accum_steps) == (micro_batch, accumulation)
    assert plan.total_steps == 90


@given(workers=st.integers(1, 9), cap=st.integers(1, 300), total=st.integers(1, 300))
def test_every_micro_batch_of_strong_scaling_fits(digits: Digits, workers: int, cap: int, total: int) -> None:
    job = digits(
        "scale.grad_accum_steps=null", f"scale.global_batch_size={total}", f"scale.per_worker_batch_size={cap}"
    )
    plan = make_plan(job, workers)
    largest = max(stop - start for start, stop in (share_bounds(total, parts=workers, index=i) for i in range(workers)))
    assert plan.per_worker_batch_size <= cap
    assert plan.per_worker_batch_size * plan.grad_accum_steps >= largest


def test_accumulation_counts_in_the_batch(digits: Digits) -> None:
    plan = make_plan(digits("scale.grad_accum_steps=3"))
    assert (plan.global_batch_size, plan.per_worker_batch_size, plan.grad_accum_steps) == (768, 128, 3)
    assert plan.peak_lr == pytest.approx(0.48)
    assert plan.reasons["global_batch_size"] == "2 workers x 128 samples x 3 micro-steps"


@pytest.mark.parametrize(
    ("world_size", "micro_batch", "accumulation"), [(4, 128, 2), (3, 114, 3), (2, 128, 4), (1, 128, 8)]
)
def test_an_elastic_run_may_hold_the_batch_of_its_most_workers(
    digits: Digits, world_size: int, micro_batch: int, accumulation: int
) -> None:
    job = digits("scale.num_workers={min: 1, max: 4}", "scale.on_resize=hold_global_batch", "scale.grad_accum_steps=2")
    plan = make_plan(job, world_size)
    assert plan.global_batch_size == 4 * 128 * 2
    assert plan.peak_lr == make_plan(job, 4).peak_lr
    assert (plan.per_worker_batch_size, plan.grad_accum_steps) == (micro_batch, accumulation)
    assert plan.reasons["global_batch_size"].startswith("held, as on 4 workers; ")


def test_without_a_number_of_workers_the_most_are_planned(digits: Digits) -> None:
    assert make_plan(digits("scale.num_workers={min: 1, max: 4}")).world_size == 4


def test_a_size_found_in_the_recipe_stands_in_for_one_that_is_missing(digits: Digits) -> None:
    assert make_plan(digits("train.num_samples=null"), num_samples=500).num_samples == 500
    assert make_plan(digits(), num_samples=500).num_samples == 1437


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (
            ["train.num_samples=null"],
            "train.num_samples is missing, and the plan counts epochs in samples.\n"
            "  Give the size of the training set: train.num_samples.",
        ),
        (
            ["scale.rule=auto", "reference.optimizer={name: 'my_pkg:adaptive_sgd'}"],
            "scale.rule = auto does not know the optimizer my_pkg:adaptive_sgd.\n"
            "  Choose a rule for it: rule: linear, rule: sqrt or rule: none.",
        ),
        (
            ["scale.global_batch_size=256", "scale.per_worker_batch_size=32", "scale.grad_accum_steps=2"],
            "scale.global_batch_size = 256 in 2 shares gives each worker up to 128 samples, "
            "but 2 micro-steps of at most 32 hold 64.\n"
            "  Leave scale.grad_accum_steps out, or set it to 4 or more.",
        ),
        (
            ["reference.lr=1e308"],
            "peak_lr = 1e+308 x 16 is too large for a number.\n  Lower reference.lr.",
        ),
        (
            ["groups=[{match: '*', lr_ratio: 2}]"],
            "groups and layer_decay match the model's parameters, and the plan is made without a model.\n"
            "  Pass parameters: {name: parameter.numel() for name, parameter in model.named_parameters()}.",
        ),
        (  # nothing to cycle
            [
                "reference.optimizer={name: 'torch.optim:Adagrad'}",
                "schedule={name: one_cycle, low_momentum: 0.85, high_momentum: 0.95}",
            ],
            "schedule.low_momentum cycles the momentum, and torch.optim:Adagrad has none.\n"
            "  Leave low_momentum and high_momentum out.",
        ),
        (
            [
                "reference.optimizer={name: 'torch.optim:ASGD'}",
                "schedule={name: one_cycle, low_momentum: 0.85, high_momentum: 0.95}",
            ],
            "schedule.low_momentum cycles the momentum, and torch.optim:ASGD has none.\n"
            "  Leave low_momentum and high_momentum out.",
        ),
        (  # every rule's own refusal comes through
            ["scale.rule=adam_sde", "reference.optimizer={name: adam}"],
            "scale.rule = adam_sde needs batch_ratio * (1 - beta1) < 1, but 16 * (1 - 0.9) = 1.6.\n"
            "  Use betas: power, rule: sqrt, or a global batch of at most 159 (reference 16).",
        ),
    ],
)
def test_numbers_that_do_not_fit_together_are_refused(digits: Digits, overrides: list[str], text: str) -> None:
    with pytest.raises(PlanError) as caught:
        make_plan(digits(*overrides))
    assert str(caught.value) == text


@pytest.mark.parametrize("optimizer", [*NAMED_OPTIMIZERS, "torch.optim:NAdam", "torch.optim:RMSprop", "my_pkg:Mine"])
def test_a_momentum_may_be_cycled_where_there_is_one_or_nobody_knows(round_job: Digits, optimizer: str) -> None:
    if optimizer.startswith("schedulefree"):
        return
    plan = make_plan(
        round_job(
            f"reference.optimizer={{name: '{optimizer}'}}",
            "scale.rule=linear",
            "schedule={name: one_cycle, low_momentum: 0.85, high_momentum: 0.95}",
        )
    )
    assert plan.momentum_at(0) == 0.95


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("{name: step, every: {samples: 3333}, decay: 0.5, warmup: {samples: 0}}", {3332: 0.04, 3333: 0.02}),
        (
            "{name: multi_step, at: [{samples: 3333}], decay: 0.5, warmup: {samples: 0}}",
            {3332: 0.04, 3333: 0.02},
        ),
        ("{name: cosine_restarts, first: {samples: 3333}, warmup: {samples: 0}}", {3333: 0.04}),
        ("{name: cyclical, climb: {samples: 333}, low: 0.5, warmup: {samples: 0}}", {333: 0.04, 666: 0.02}),
        ("{name: wsd, tail_length: {samples: 333}, warmup: {samples: 0}}", {9667: 0.04}),
        ("{name: constant, warmup: {samples: 333, shape: constant, start: 0.5}}", {332: 0.02, 333: 0.04}),
    ],
)
def test_the_curve_has_its_corners(round_job: Digits, schedule: str, expected: dict[int, float]) -> None:
    curve = dict(make_plan(round_job(f"schedule={schedule}")).lr_curve)
    assert {samples: curve.get(samples) for samples in expected} == pytest.approx(expected)


@pytest.mark.parametrize("samples", [2, 5, 20, 33])
def test_the_curve_of_fast_cycles_shows_how_far_they_go(round_job: Digits, samples: int) -> None:
    job = round_job(f"schedule={{name: cyclical, climb: {{samples: {samples}}}, low: 0.25, warmup: {{samples: 0}}}}")
    curve = make_plan(job).lr_curve
    assert len(curve) < 1100
    for start in range(0, 10_000 - 500, 500):
        lrs = [lr for at, lr in curve if start <= at < start + 500]  # 10 whole steps an epoch
        assert (min(lrs), max(lrs)) == pytest.approx((0.01, 0.04))


# Every rule, through the plan


@pytest.mark.parametrize(
    ("rule", "optimizer", "lr_ratio", "optimizer_reason"),
    [
        ("auto", "sgd", 4.0, "as in the reference; only the learning rate is scaled"),
        ("auto", "adamw", 2.0, "as in the reference; only the learning rate is scaled"),
        ("auto", "prodigy", 1.0, "as in the reference"),
        ("linear", "lion", 4.0, "as in the reference; only the learning rate is scaled"),
        ("adam_sde", "adam", 2.0, "betas 1 - 4 x (1 - beta); eps over the root of 4"),
        ("adam_sde", "rmsprop", 2.0, "alpha 1 - 4 x (1 - beta); eps over the root of 4"),
        ("legw", "lamb", 2.0, "as in the reference; only the learning rate is scaled"),
        ("none", "sgd", 1.0, "as in the reference"),
        ("adascale", "sgd", 1.0, "as in the reference; only the learning rate is scaled"),
    ],
)
def test_every_rule_makes_a_plan(
    round_job: Digits, rule: str, optimizer: str, lr_ratio: float, optimizer_reason: str
) -> None:
    warmup = "reference.warmup={epochs: 1}" if rule == "legw" else "schedule.warmup={epochs: 1}"
    job = round_job(f"scale.rule={rule}", f"reference.optimizer={{name: {optimizer}}}", warmup)
    plan = make_plan(job)
    assert (plan.lr_ratio, plan.peak_lr) == (lr_ratio, 0.01 * lr_ratio)
    assert plan.reasons["optimizer"] == optimizer_reason
    assert plan.optimizer["lr"] == plan.peak_lr


@pytest.mark.parametrize(
    ("co_scale", "overrides", "reason"),
    [
        (
            "{weight_decay: true}",
            ["scale.rule=sqrt", "reference.optimizer={name: adamw}"],
            "weight_decay x 2: holds its timescale (Wang and Aitchison 2024)",
        ),
        (
            "{momentum: true}",
            ["scale.rule=none"],
            "momentum 1 - (1 - momentum) / 4: instead of the learning rate (Smith et al. 2018)",
        ),
    ],
)
def test_what_else_is_scaled_is_in_the_reason(
    round_job: Digits, co_scale: str, overrides: list[str], reason: str
) -> None:
    plan = make_plan(round_job(*overrides, f"scale.co_scale={co_scale}"))
    assert plan.reasons["optimizer"] == reason
    unasked = make_plan(round_job(*overrides))
    scaled = "" if unasked.rule == "none" else "; only the learning rate is scaled"
    assert unasked.reasons["optimizer"] == f"as in the reference{scaled}"


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ([], "as in the reference"),  # at the reference's batch
        (
            ["scale.batch_schedule={name: points, points: [{at: {epochs: 1}, factor: 2}]}"],
            "as in the reference; only the learning rate is scaled",  # later
        ),
        (
            ["scale.batch_schedule={name: noise_scale, max_global_batch_size: 400}"],
            "as in the reference; only the learning rate is scaled",  # perhaps
        ),
        (
            ["scale.batch_schedule={name: noise_scale, max_global_batch_size: 400}", "scale.rule=none"],
            "as in the reference",
        ),
    ],
)
def test_a_learning_rate_that_is_not_scaled_has_no_such_reason(
    round_job: Digits, overrides: list[str], reason: str
) -> None:
    plan = make_plan(round_job("reference.global_batch_size=100", *overrides))
    assert plan.reasons["optimizer"] == reason


@pytest.mark.parametrize(
    ("length", "reason"),
    [
        ("{epochs: 5}", "epochs: 5 of the reference's samples; at most 20000 of data"),
        ("{samples: 500}", "samples: 500, 0.5 epochs of the reference's samples; at most 2000 of data"),
    ],
)
def test_with_adascale_the_length_says_what_it_counts(round_job: Digits, length: str, reason: str) -> None:
    train = length.removesuffix("}") + ", num_samples: 1000}"
    plan = make_plan(round_job("scale.rule=adascale", f"train={train}"))
    assert plan.reasons["total_samples"] == reason


def test_the_average_is_scaled_only_when_asked_for_with_a_reason(round_job: Digits) -> None:
    held = make_plan(round_job("train.ema={decay: 0.999}", "scale.co_scale={ema: true}"))
    assert held.phases[0].ema_decay == 0.999**4
    assert held.reasons["ema_decay"] == "0.999 ** 4: holds its memory in samples (Busbridge et al. 2023)"
    left = make_plan(round_job("train.ema={decay: 0.999}"))
    assert (left.phases[0].ema_decay, left.reasons["ema_decay"]) == (0.999, "as in the reference, per step")
    assert "ema_decay" not in make_plan(round_job()).reasons


@pytest.mark.parametrize(
    "overrides",
    [
        ["scale.rule=linear"],
        ["scale.rule=sqrt", "reference.optimizer={name: adamw}", "scale.co_scale={weight_decay: true}"],
        ["scale.rule=adam_sde", "reference.optimizer={name: adam}"],
        ["scale.rule=adam_sde", "scale.betas=power", "reference.optimizer={name: rmsprop}"],
        ["scale.rule=none", "scale.co_scale={momentum: true}"],
        ["scale.rule=power", "scale.exponent=0.7"],
        ["scale.rule=gain", "scale.noise_scale=333", "reference.optimizer={name: adam}"],
        ["scale.rule=legw", "reference.optimizer={name: lamb}", "reference.warmup={epochs: 1}", "schedule.warmup=auto"],
        ["train.ema={decay: 0.999}", "scale.co_scale={ema: true}"],
    ],
)
def test_on_one_worker_again_every_constant_is_the_references_to_the_last_bit(
    round_job: Digits, overrides: list[str]
) -> None:
    job = round_job(
        "schedule.warmup={epochs: 1}",
        *overrides,
        "scale.num_workers=9",
        "scale.per_worker_batch_size=25",
    )
    before = make_plan(job, 1)
    assert [make_plan(job, world_size).batch_ratio for world_size in (3, 9, 2)] == [3.0, 9.0, 2.0]
    assert repr(make_plan(job, 1)) == repr(before)
    reference = {**NAMED_OPTIMIZERS[job.reference.optimizer.name].defaults, **job.reference.optimizer.options}
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in reference.items()}
    assert before.optimizer == {"name": job.reference.optimizer.name, "lr": 0.01, **plain}
    assert (before.lr_ratio, before.peak_lr, before.warmup_samples) == (1.0, 0.01, 1000)
    assert before.phases[0].ema_decay in (None, 0.999)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ([], "1000 samples in steps of 100"),
        (["train.num_samples=1050"], "1050 samples in steps of 100, the last of 50 at peak_lr 0.02"),
        (
            ["scale.batch_schedule={name: doubling, every: {epochs: 0.5}, max_global_batch_size: 200}"],
            "1000 samples in steps of 100, changing within the epoch",
        ),
    ],
)
def test_how_many_steps_an_epoch_has(round_job: Digits, overrides: list[str], reason: str) -> None:
    assert make_plan(round_job(*overrides)).reasons["steps_per_epoch"] == reason
