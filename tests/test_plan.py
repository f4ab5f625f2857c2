import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.core.batch import share_bounds
from scaler.errors import PlanError
from scaler.job import Job
from scaler.plan import Plan, make_plan

Digits = Callable[..., Job]

# Of `scaler plan --json`: may grow, and nothing in it is renamed.
FIELDS = {
    "schema_version", "name", "world_size", "global_batch_size", "per_worker_batch_size", "grad_accum_steps",
    "reference_batch_size", "base_lr", "rule", "rule_reason", "batch_ratio", "lr_ratio", "peak_lr", "optimizer",
    "warmup_samples", "warmup_steps", "total_samples", "total_steps", "steps_per_epoch", "lr_curve", "warnings",
}  # fmt: skip


def codes(plan: Plan) -> list[str]:
    return [warning.code for warning in plan.warnings]


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
    assert plan.rule_reason == "sgd: linear rule (Goyal et al. 2017), as asked for"
    assert plan.reasons["global_batch_size"] == "2 workers x 128 samples x 1 micro-step"
    assert plan.reasons["steps_per_epoch"] == "1437 samples in steps of 256, the last of 157"


def test_the_rate_of_the_digits_job(digits: Digits) -> None:
    plan = make_plan(digits())
    assert plan.lr_at(0) == pytest.approx(0.01)  # the warmup starts at the reference's rate
    assert plan.lr_at(1437) == pytest.approx((0.01 + 0.16) / 2)  # half of the climb
    assert plan.lr_at(2 * 1437) == 0.16  # its end
    assert plan.lr_at((2 * 1437 + 15 * 1437) // 2) == pytest.approx(0.08, rel=1e-3)  # half of the cosine
    assert plan.lr_at(15 * 1437) == 0.0


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
    ],
)
def test_a_plan_survives_the_way_through_json(digits: Digits, overrides: list[str]) -> None:
    plan = make_plan(digits(*overrides, "scale.rule=auto"))
    copy = Plan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert copy == plan
    assert [copy.lr_at(s) for s in range(0, plan.total_samples + 500, 97)] == [
        plan.lr_at(s) for s in range(0, plan.total_samples + 500, 97)
    ]


def test_a_plan_of_a_later_version_is_read(digits: Digits) -> None:
    plan = make_plan(digits())
    values = json.loads(json.dumps(plan.to_dict())) | {"invented_later": 1}
    values["warnings"] = [{**warning, "severity": "high"} for warning in values["warnings"]]
    assert Plan.from_dict(values) == plan


def test_a_plan_is_frozen(digits: Digits) -> None:
    plan = make_plan(digits())
    with pytest.raises(FrozenInstanceError):
        plan.peak_lr = 1.0  # type: ignore[misc]


def test_plans_never_compound(digits: Digits) -> None:
    job = digits("scale.num_workers={min: 1, max: 4}")
    first, _, last = (make_plan(job, world_size) for world_size in (1, 4, 1))
    assert first == last
    assert make_plan(job, 1) == first
    for world_size in (1, 2, 3, 4):
        plan = make_plan(job, world_size)
        assert plan.peak_lr == 0.01 * (world_size * 128 / 16)  # from the reference, whatever came before


@pytest.mark.parametrize(
    "warmup", ["{epochs: 2, start: 0.25}", "{samples: 1000, start: 0.0}", "{fraction: 0.1, start: 1}"]
)
@pytest.mark.parametrize("name", ["cosine", "constant"])
def test_the_schedule_over_samples_is_the_same_for_any_number_of_workers(
    digits: Digits, warmup: str, name: str
) -> None:
    job = digits(f"schedule.warmup={warmup}", f"schedule.name={name}")
    one, eight = make_plan(job, 1), make_plan(job, 8)
    assert (one.global_batch_size, eight.global_batch_size) == (128, 1024)
    for samples in range(0, one.total_samples + 1, 97):
        assert one.lr_at(samples) / one.peak_lr == pytest.approx(eight.lr_at(samples) / eight.peak_lr, rel=1e-12)


def test_the_curve_is_what_the_optimizer_gets(digits: Digits) -> None:
    plan = make_plan(digits())
    samples = [point[0] for point in plan.lr_curve]
    assert samples[0] == 0
    assert samples[-1] == plan.total_samples
    assert plan.warmup_samples in samples  # the corner
    assert samples == sorted(set(samples))
    assert [lr for _, lr in plan.lr_curve] == [plan.lr_at(s) for s in samples]


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
    assert plan.lr_at(0) == plan.peak_lr
    assert plan.reasons["warmup_samples"] == "auto: none, for the rate is not scaled up"


@pytest.mark.parametrize(
    ("warmup", "samples", "steps", "first_lr"),
    [
        ("auto", 1198, 5, 0.01),  # 5/90 of 21555, from the reference's rate
        ("{epochs: 0}", 0, 0, 0.16),
        ("{steps: 0}", 0, 0, 0.16),
        ("{samples: 0}", 0, 0, 0.16),
        ("{fraction: 0}", 0, 0, 0.16),
        ("{epochs: 0.5}", 718, 3, 0.01),  # fractions of an epoch, rounded to a sample
        ("{steps: 7}", 1437 + 256, 7, 0.01),  # walked: the sixth step has 157 samples
        ("{samples: 300, start: 0.5}", 300, 2, 0.08),
        ("{fraction: 0.1, start: 0}", 2156, 9, 0.0),
        ("{epochs: 1, start: 1}", 1437, 6, 0.16),
    ],
)
def test_a_warmup_in_any_unit(digits: Digits, warmup: str, samples: int, steps: int, first_lr: float) -> None:
    plan = make_plan(digits(f"schedule.warmup={warmup}"))
    assert (plan.warmup_samples, plan.warmup_steps) == (samples, steps)
    assert plan.lr_at(0) == pytest.approx(first_lr, rel=1e-12)
    assert plan.lr_at(samples) == pytest.approx(0.16, rel=1e-12)


@pytest.mark.parametrize(
    ("length", "total_samples", "total_steps", "reason"),
    [
        ("{epochs: 15}", 21555, 90, "epochs: 15"),
        ("{epochs: 0.5}", 718, 3, "epochs: 0.5"),  # 718.5, rounded to even
        ("{epochs: 0.000001}", 1, 1, "epochs: 1e-06"),  # at least one sample
        ("{steps: 8}", 1437 + 512, 8, "steps: 8, 1.36 epochs"),  # a short step counts as what it is
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
def test_strong_scaling_keeps_batch_and_rate(
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


# Each warning when it should appear, and when it nearly should.


@pytest.mark.parametrize(
    ("code", "shown", "nearly"),
    [
        (
            "warmup_exceeds_training",
            ["schedule.warmup={epochs: 15}"],  # the peak is never reached
            ["schedule.warmup={samples: 21554}"],  # one sample less
        ),
        (
            "batch_exceeds_data",
            ["scale.per_worker_batch_size=719"],  # 1438
            ["scale.per_worker_batch_size=718"],  # 1436
        ),
        (
            "few_steps_per_epoch",
            ["scale.per_worker_batch_size=80"],  # 9 steps of 160
            ["scale.per_worker_batch_size=79"],  # 10 steps of 158
        ),
        (
            "batch_ratio_beyond_64",
            ["scale.per_worker_batch_size=513"],  # 64.125
            ["scale.per_worker_batch_size=512"],  # 64
        ),
        (
            "linear_rule_with_adaptive_optimizer",
            ["reference.optimizer={name: adamw}"],
            ["reference.optimizer={name: adamw}", "scale.rule=sqrt"],
        ),
        (
            "linear_rule_with_adaptive_optimizer",
            ["reference.optimizer={name: 'torch.optim:Adam'}"],
            ["reference.optimizer={name: adam}", "scale.per_worker_batch_size=8"],  # not scaled at all
        ),
        (
            "linear_rule_with_adaptive_optimizer",
            ["reference.optimizer={name: rmsprop}"],
            ["reference.optimizer={name: 'my_pkg:NotAdam'}"],  # nobody guesses
        ),
        (
            "idle_workers",
            ["scale.global_batch_size=2", "scale.num_workers=3"],
            ["scale.global_batch_size=3", "scale.num_workers=3"],
        ),
    ],
)
def test_a_warning_appears_when_it_should(digits: Digits, code: str, shown: list[str], nearly: list[str]) -> None:
    assert code in codes(make_plan(digits(*shown)))
    assert code not in codes(make_plan(digits(*nearly)))


def test_a_job_without_faults_has_no_warnings(digits: Digits) -> None:
    assert make_plan(digits("scale.per_worker_batch_size=32")).warnings == ()


def test_warnings_say_their_numbers(digits: Digits) -> None:
    plan = make_plan(digits("train.epochs=1", "scale.per_worker_batch_size=800"))
    assert {warning.code: warning.message for warning in plan.warnings} == {
        "warmup_exceeds_training": "The warmup takes 2874 samples and the training 1437: "
        "the peak rate is never reached.",
        "batch_exceeds_data": "The global batch of 1600 is larger than the 1437 samples there are: "
        "each step takes all of them, and the rate is scaled for more.",
        "few_steps_per_epoch": "An epoch has 1 step: large-batch rules were shown to hold for many more.",
        "batch_ratio_beyond_64": "The batch is 100 times the reference's: "
        "no rule is known to hold so far out; tune once near it.",
    }


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
            "  Say which rule it follows: rule: linear, rule: sqrt or rule: none.",
        ),
        (
            ["scale.global_batch_size=256", "scale.per_worker_batch_size=32", "scale.grad_accum_steps=2"],
            "scale.global_batch_size = 256 gives each of 2 workers up to 128 samples, "
            "but 2 micro-steps of at most 32 hold 64.\n"
            "  Leave scale.grad_accum_steps out, or set it to 4 or more.",
        ),
        (
            ["reference.lr=1e308"],
            "peak_lr = 1e+308 x 16 is too large for a number.\n  Lower reference.lr.",
        ),
    ],
)
def test_numbers_that_do_not_fit_together_are_refused(digits: Digits, overrides: list[str], text: str) -> None:
    with pytest.raises(PlanError) as caught:
        make_plan(digits(*overrides))
    assert str(caught.value) == text
