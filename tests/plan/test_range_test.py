"""The range test as a job and a plan: what is left out of the job, and where the learning rate climbs."""

from collections.abc import Callable, Mapping

import pytest

from scaler.errors import JobFileError
from scaler.job import Job
from scaler.plan import Plan, make_plan
from scaler.plan.range_test import carried_by, range_job, range_plan

Digits = Callable[..., Job]

# Everything that reacts to measurements, or that changes the learning rate or the batch.
BUSY = (
    "schedule={name: one_cycle, low_momentum: 0.85, high_momentum: 0.95, plateau: {metric: loss}}",
    "scale.batch_schedule={name: noise_scale, max_global_batch_size: 1024}",
    "failures.divergence={then: go_back}",
    "train.noise_scale_every=5",
    "train.clip_grad_norm=1.0",
    "recipe_args={hidden: null}",
)


def planned(
    job: Job,
    *,
    lowest: float = 1e-5,
    highest: float = 10.0,
    spacing: str = "exponential",
    parameters: Mapping[str, int] | None = None,
) -> Plan:
    return range_plan(job, lowest=lowest, highest=highest, spacing=spacing, num_samples=1437, parameters=parameters)


def starts(plan: Plan) -> list[int]:
    """Where each step starts, in samples."""
    seen = [0]
    while size := plan.step_size(seen[-1]):
        seen.append(seen[-1] + size)
    return seen[:-1]


def test_nothing_that_reacts_and_nothing_that_moves_is_left(digits: Digits) -> None:
    job = range_job(digits(*BUSY), steps=50)
    plan = planned(job)
    assert plan.reacts == ()
    assert len(plan.phases) == 1
    assert plan.warmup_samples == 0
    assert plan.momentum_at(0) is None
    assert job.failures.divergence is None
    assert job.failures.max_restarts == 0
    assert job.train.noise_scale_every is None
    assert plan.total_steps == 50
    assert plan.eval_every_samples > plan.total_samples
    assert plan.checkpoint_every_samples > plan.total_samples


def test_the_rest_is_the_jobs(digits: Digits) -> None:
    job = digits(*BUSY)
    tested = range_job(job, steps=50)
    assert tested.recipe_args == {"hidden": None}
    assert tested.train.clip_grad_norm == 1.0
    assert (tested.reference, tested.resources, tested.storage) == (job.reference, job.resources, job.storage)
    plan = planned(tested)
    assert plan.global_batch_size == make_plan(job).global_batch_size
    assert plan.optimizer == {**make_plan(job).optimizer, "lr": plan.peak_lr}


def test_the_name_says_what_it_is_and_is_short_enough(digits: Digits) -> None:
    assert range_job(digits(), steps=20).name == "digits-find-lr"
    assert len(range_job(digits(f"name={'x' * 100}"), steps=20).name) == 100


def test_the_first_step_has_the_lowest_lr_and_the_last_the_highest(digits: Digits) -> None:
    plan = planned(range_job(digits(), steps=50))
    lrs = [plan.lr_at(seen) for seen in starts(plan)]
    assert len(lrs) == 50
    assert lrs[0] == pytest.approx(1e-5)
    assert lrs[-1] == pytest.approx(10.0)
    assert lrs == sorted(lrs)
    assert lrs[25] == pytest.approx(0.01, rel=0.2)  # half of the way in the logarithm
    assert plan.lr_curve[0] == (0, lrs[0])


def test_a_linear_climb_is_even_in_the_learning_rate(digits: Digits) -> None:
    plan = planned(range_job(digits(), steps=50), lowest=0.1, highest=1.1, spacing="linear")
    seen = starts(plan)
    assert plan.lr_at(seen[0]) == pytest.approx(0.1)
    assert plan.lr_at(seen[-1]) == pytest.approx(1.1)
    assert plan.lr_at(seen[25]) == pytest.approx(0.1 + seen[25] / seen[-1])


def test_a_plan_that_was_written_and_read_climbs_alike(digits: Digits) -> None:
    plan = planned(range_job(digits(), steps=50))
    assert Plan.from_dict(plan.to_dict()) == plan


def test_groups_climb_with_their_own_ratio(digits: Digits) -> None:
    job = range_job(digits("groups=[{match: head.*, lr_ratio: 0.1}]"), steps=20)
    plan = planned(job, highest=1.0, parameters={"body.weight": 64, "head.weight": 8})
    assert {group.name: group.peak_lr for group in plan.groups} == {"everything else": 1.0, "head.*": 0.1}


@pytest.mark.parametrize(
    "overrides",
    [
        ("scale.rule=adascale",),
        ("scale.rule=legw", "reference.warmup={epochs: 1}", "schedule.warmup=auto"),
        ("scale.rule=power", "scale.exponent=0.75"),
        ("scale.rule=gain", "scale.noise_scale=240"),
        ("scale.rule=adam_sde", "scale.betas=power", "reference.optimizer={name: adamw}"),
        ("scale.rule=none", "scale.co_scale.momentum=true"),
        ("train.ema={decay: 0.9}", "scale.co_scale.ema=true"),
    ],
)
def test_every_rule_has_a_range_test(digits: Digits, overrides: tuple[str, ...]) -> None:
    job = digits(*overrides)
    plan = planned(range_job(job, steps=20))
    assert plan.lr_at(0) == pytest.approx(1e-5)
    assert plan.optimizer == {**make_plan(job).optimizer, "lr": plan.peak_lr}
    assert (plan.purpose, make_plan(job).purpose) == ("find_lr", "train")
    assert plan.peak_lr == pytest.approx(10.0)
    for part in (plan, *plan.phases):
        assert part.peak_lr == plan.base_lr * part.lr_ratio == plan.scaling.base_lr * part.lr_ratio


def test_a_learning_rate_is_carried_back_by_the_rule(digits: Digits) -> None:
    assert carried_by(make_plan(digits())) == (16.0, "sgd: linear rule (Goyal et al. 2017), as requested")
    assert carried_by(make_plan(digits("scale.rule=sqrt")))[0] == 4.0


@pytest.mark.parametrize(("optimizer", "batch", "most"), [("sgd", 128, 16.0), ("adamw", 128, 4.0), ("sgd", 4, 1.0)])
def test_with_adascale_it_is_carried_back_by_the_most_that_the_gain_can_be(
    digits: Digits, optimizer: str, batch: int, most: float
) -> None:
    plan = make_plan(
        digits(
            "scale.rule=adascale",
            f"reference.optimizer={{name: {optimizer}}}",
            f"scale.per_worker_batch_size={batch}",
        )
    )
    assert carried_by(plan) == (most, f"{plan.rule_reason}, at most {most:g}")


def test_an_elastic_job_is_refused(digits: Digits) -> None:
    with pytest.raises(JobFileError) as refused:
        range_job(digits("scale.num_workers={min: 1, max: 4}"), steps=50)
    assert str(refused.value) == (
        "find-lr tests learning rates at one batch size, and the job is elastic.\n  Give --workers N."
    )


@pytest.mark.parametrize(
    ("lowest", "highest", "text"),
    [
        (1.0, 0.1, "--min 1 is not below --max 0.1.\n  Such as --min 1e-5 --max 10."),
        (0.1, 0.1, "--min 0.1 is not below --max 0.1.\n  Such as --min 1e-5 --max 10."),
        (0.1, float("nan"), "--min 0.1 is not below --max nan.\n  Such as --min 1e-5 --max 10."),
        (0.1, float("inf"), ("--max inf is not a finite learning rate.\n  Such as --min 1e-5 --max 10.")),
        (0.0, 1.0, ("--min 0 is not a learning rate above 0.\n  Such as --min 1e-5.")),
        (float("nan"), 1.0, ("--min nan is not a learning rate above 0.\n  Such as --min 1e-5.")),
    ],
)
def test_a_range_that_does_not_rise_is_refused(digits: Digits, lowest: float, highest: float, text: str) -> None:
    with pytest.raises(JobFileError) as refused:
        planned(range_job(digits(), steps=50), lowest=lowest, highest=highest)
    assert str(refused.value) == text
