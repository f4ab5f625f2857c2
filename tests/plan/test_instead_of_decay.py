"""A batch that grows where the schedule lowers the learning rate. The round job: see conftest."""

from collections.abc import Callable
from itertools import pairwise
from math import cos, pi, sqrt

import pytest

from scaler.errors import PlanError
from scaler.job import Job
from scaler.plan import Plan, make_plan
from scaler.plan.make import require_every_size

Digits = Callable[..., Job]
INSTEAD = "scale.batch_schedule={{name: instead_of_decay, max_global_batch_size: {}}}"
FINE = "scale.batch_schedule={name: instead_of_decay, max_global_batch_size: 100000, growth: 1.1}"
ADAMW, SQRT = "reference.optimizer={name: adamw}", "scale.rule=sqrt"
LARGE = "train={samples: 4000000, num_samples: 4000000}"  # so that whole samples and steps are fine enough


def changes(plan: Plan) -> list[tuple[int, int]]:
    return [(phase.start_samples, phase.global_batch_size) for phase in plan.phases]


# The identity: peak_lr(batch) * schedule is the formula of each paper, written down independently of scaler's rules.


@pytest.mark.parametrize("alpha", [2.0, 4.0])
def test_under_sqrt_it_is_seesaw(round_job: Digits, alpha: float) -> None:
    """Meterez et al. 2025: where a schedule divides lr by alpha, Seesaw does lr /= sqrt(alpha) and B *= alpha."""
    steps = f"schedule={{name: step, every: {{epochs: 2}}, decay: {1 / alpha}, warmup: {{epochs: 0}}}}"
    plan = make_plan(round_job(ADAMW, SQRT, steps, INSTEAD.format(10**6)))
    lr, batch = plan.lr_at(0), plan.global_batch_size
    assert len(plan.phases) > 2
    for before, after in pairwise(plan.phases):
        lr, batch = lr / sqrt(alpha), round(batch * alpha)
        assert after.start_samples // 2000 > before.start_samples // 2000, "one cut after the other"
        assert after.global_batch_size == batch
        assert plan.whole_step_lr_at(after.start_samples) == pytest.approx(lr, rel=1e-12)


@pytest.mark.parametrize("factor", [2.0, 5.0])
def test_under_linear_it_is_smith_s_schedule(round_job: Digits, factor: float) -> None:
    """Smith et al. 2018: the learning rate stays, and the batch grows by the factor of the decay."""
    steps = f"schedule={{name: step, every: {{epochs: 2}}, decay: {1 / factor}, warmup: {{epochs: 0}}}}"
    plan = make_plan(round_job("scale.rule=linear", steps, INSTEAD.format(10**6)))
    assert [phase.global_batch_size for phase in plan.phases][:3] == [100, 100 * factor, 100 * factor**2]
    for phase in plan.phases:
        assert plan.whole_step_lr_at(phase.start_samples) == pytest.approx(plan.lr_at(0), rel=1e-12)


@pytest.mark.parametrize(("rule", "power"), [("sqrt", 0.5), ("linear", 0.0)])
def test_on_a_smooth_schedule_it_is_the_same_at_every_change(round_job: Digits, rule: str, power: float) -> None:
    """Under the half cosine c, Seesaw is lr0 * sqrt(c) at a batch of B0 / c; Smith's is lr0 at that batch."""
    plan = make_plan(
        round_job(ADAMW, f"scale.rule={rule}", "schedule={name: cosine, warmup: {epochs: 0}}", FINE, LARGE)
    )
    assert len(plan.phases) > 40
    total, peak = plan.total_samples, plan.lr_at(0)
    for phase in plan.phases[:-1]:  # the last one is at the largest batch
        share = (1 + cos(pi * phase.start_samples / total)) / 2
        assert phase.global_batch_size == pytest.approx(100 / share, abs=0.5001), "a whole number of samples"
        assert plan.whole_step_lr_at(phase.start_samples) == pytest.approx(peak * share**power, rel=0.005)


def test_between_two_changes_the_learning_rate_falls_with_the_schedule(round_job: Digits) -> None:
    plan = make_plan(round_job(ADAMW, SQRT, "schedule={name: linear, warmup: {epochs: 0}}", INSTEAD.format(10**6)))
    for phase in plan.phases:
        for samples in range(phase.start_samples, min(phase.start_samples + 900, plan.total_samples), 300):
            if plan.phase_at(samples) is phase:
                expected = 0.01 * sqrt(phase.global_batch_size / 25) * (1 - samples / 10000)
                assert plan.whole_step_lr_at(samples) == pytest.approx(expected, rel=1e-12)


# Where the batch changes.


@pytest.mark.parametrize(
    ("schedule", "settings", "expected"),
    [
        (  # half the peak at 5000, a quarter at 7500; steps of 200 start at 5000; 900: the next epoch's first step
            "{name: linear, warmup: {epochs: 0}}",
            "max_global_batch_size: 400",
            [(0, 100), (5000, 200), (7600, 400)],  # 100 / 0.24 = 417
        ),
        (  # the largest batch is no multiple: the last change is a smaller one
            "{name: linear, warmup: {epochs: 0}}",
            "max_global_batch_size: 250",
            [(0, 100), (5000, 200), (6000, 250)],
        ),
        (  # as large as it may be at the start
            "{name: linear, warmup: {epochs: 0}}",
            "max_global_batch_size: 100",
            [(0, 100)],
        ),
        (  # a drop to a tenth is one change, and the second drop finds the largest batch
            "{name: multi_step, at: [{epochs: 3}, {epochs: 6}], decay: 0.1}",
            "max_global_batch_size: 2000",
            [(0, 100), (3000, 1000), (6000, 2000)],
        ),
        (  # a drop within the warmup takes effect at its end
            "{name: multi_step, at: [{epochs: 1}], decay: 0.5, warmup: {epochs: 2}}",
            "max_global_batch_size: 2000",
            [(0, 100), (2000, 200)],
        ),
        (  # nothing changes before the tail
            "{name: wsd, tail_length: {epochs: 4}, warmup: {epochs: 0}}",
            "max_global_batch_size: 400",
            [(0, 100), (8000, 200), (9000, 400)],
        ),
        (
            "{name: exponential, every: {epochs: 2}, decay: 0.5, warmup: {epochs: 0}}",
            "max_global_batch_size: 800",
            [(0, 100), (2000, 200), (4000, 400), (6000, 800)],
        ),
        (  # sqrt(1 / (1 + t)): a half at t = 3, a quarter at t = 15
            "{name: inverse_sqrt, timescale: {epochs: 1}, warmup: {epochs: 0}}",
            "max_global_batch_size: 800",
            [(0, 100), (3000, 200)],
        ),
        (
            "{name: cosine, warmup: {epochs: 0}}",
            "max_global_batch_size: 400",
            [(0, 100), (5000, 200), (6800, 400)],  # 100 / 0.232 = 431
        ),
        (  # fewer and larger changes
            "{name: linear, warmup: {epochs: 0}}",
            "max_global_batch_size: 1000, growth: 5",
            [(0, 100), (8000, 500), (9000, 1000)],
        ),
        (  # never half of the peak
            "{name: linear, final_fraction: 0.6, warmup: {epochs: 0}}",
            "max_global_batch_size: 1000",
            [(0, 100)],
        ),
    ],
)
def test_when_the_batch_changes(
    round_job: Digits, schedule: str, settings: str, expected: list[tuple[int, int]]
) -> None:
    job = round_job(f"schedule={schedule}", f"scale.batch_schedule={{name: instead_of_decay, {settings}}}")
    assert changes(make_plan(job)) == expected


def test_legw_is_the_root_after_its_warmup(round_job: Digits) -> None:
    lamb = ["reference.optimizer={name: lamb}", "reference.warmup={epochs: 0.5}", "scale.rule=auto"]
    plan = make_plan(round_job("schedule={name: linear}", INSTEAD.format(400), *lamb))
    assert (plan.rule, plan.warmup_samples) == ("legw", 2000)
    assert [phase.lr_ratio for phase in plan.phases] == pytest.approx([2.0, 8**0.5, 4.0])
    assert plan.phases[1].start_samples >= 6000, "half of the way down from the warmup's end"


def test_at_the_largest_batch_the_learning_rate_falls(round_job: Digits) -> None:
    plan = make_plan(round_job("schedule={name: linear, warmup: {epochs: 0}}", INSTEAD.format(200)))
    assert [plan.whole_step_lr_at(samples) for samples in (5000, 7500, 9000)] == pytest.approx([0.04, 0.02, 0.008])


def test_an_elastic_job_plans_every_size_from_its_own_first_batch(round_job: Digits) -> None:
    job = round_job("schedule={name: linear}", INSTEAD.format(400), "scale.num_workers={min: 1, max: 4}")
    require_every_size(job, make_plan(job))
    assert [[size for _, size in changes(make_plan(job, workers))] for workers in (1, 2, 4)] == [
        [50, 100, 205, 400],  # exact where the step begins, which is after 5000
        [100, 201, 400],
        [200, 400],
    ]


def test_up_to_the_noise_scale_nothing_is_planned_and_the_largest_batch_is_checked(round_job: Digits) -> None:
    noisy = INSTEAD.removesuffix("}}") + ", up_to: noise_scale}}"
    plan = make_plan(round_job("schedule={name: linear}", noisy.format(400)))
    assert (changes(plan), plan.reacts, plan.grow_every_samples) == ([(0, 100)], ("noise_scale",), 100)
    assert plan.steps_at_first_batch is None, "how many are saved is measured"
    adam = ["reference.optimizer={name: adam}", "scale.rule=adam_sde", "schedule={name: linear}"]
    with pytest.raises(PlanError, match=r"max_global_batch_size = 250: the batch may grow to this, and scale\.rule"):
        make_plan(round_job(*adam, noisy.format(250)))


# The steps that it saves.


def test_the_plan_says_how_many_steps_a_constant_batch_takes(round_job: Digits) -> None:
    schedule = "schedule={name: linear, warmup: {epochs: 0}}"
    plan, constant = make_plan(round_job(schedule, INSTEAD.format(400))), make_plan(round_job(schedule))
    assert (plan.total_steps, plan.steps_at_first_batch) == (50 + 13 + 7, constant.total_steps)
    assert plan.reasons["total_steps"] == "100 steps at a constant batch of 100"
    assert constant.steps_at_first_batch is None
    assert "total_steps" not in constant.reasons


# Refusals and warnings.


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (
            ["schedule={name: constant}"],
            "scale.batch_schedule = instead_of_decay: schedule.name = constant never lowers the learning rate, so the "
            "batch would never grow.\n  Use a schedule that falls, such as schedule: {name: cosine}.",
        ),
        *(
            (
                [f"schedule={{name: {name}}}"],
                f"scale.batch_schedule = instead_of_decay: schedule.name = {name.partition(',')[0]} raises the "
                "learning rate after the warmup, and a batch can only replace its fall.\n"
                "  Use a schedule that only falls, such as schedule: {name: cosine}.",
            )
            for name in ("one_cycle", "cosine_restarts, first: {epochs: 2}", "cyclical, climb: {epochs: 1}, low: 0.1")
        ),
        (
            ["schedule={name: linear}", "scale.rule=none"],
            "scale.batch_schedule = instead_of_decay and scale.rule = none: a larger batch has no larger "
            "learning rate, so the learning rate would fall as far as at a constant batch.\n"
            "  Use rule: linear for SGD, or rule: sqrt for Adam.",
        ),
        (
            ["schedule={name: linear}", "scale.rule=power", "scale.exponent=-0.5"],
            "scale.batch_schedule = instead_of_decay and scale.rule = power with exponent = -0.5: a larger batch has "
            "no larger learning rate, so the learning rate would fall as far as at a constant batch.\n"
            "  Use rule: linear for SGD, or rule: sqrt for Adam.",
        ),
        (  # of several optimizers, one without a rule
            ["schedule={name: linear}", "scale.rule=auto", "reference.optimizers={d: {optimizer: {name: prodigy}}}"],
            "scale.batch_schedule = instead_of_decay and scale.rule = auto, which is none for prodigy "
            "(reference.optimizers.d): a larger batch has no larger learning rate, so the learning rate would fall as "
            "far as at a constant batch.\n  Use rule: linear for SGD, or rule: sqrt for Adam.",
        ),
        (
            ["schedule={name: linear}", "scale.batch_schedule.max_global_batch_size=99"],
            "scale.batch_schedule.max_global_batch_size = 99 is below the 100 samples of the first batch: the batch "
            "would never grow.\n  Set it above 100, or leave scale.batch_schedule out.",
        ),
        (
            [
                "schedule={name: linear, warmup: {epochs: 0}}",
                "scale.batch_schedule={name: instead_of_decay, max_global_batch_size: 100000, growth: 1.001}",
                LARGE,
            ],
            "scale.batch_schedule changes the batch more than 1000 times.\n  Let it change less often.",
        ),
        (
            [
                "schedule={name: linear}",
                "scale.batch_schedule.up_to=noise_scale",
                "scale.num_workers=1",
                "scale.per_worker_batch_size=100",
            ],
            "scale.batch_schedule.up_to = noise_scale compares the gradients of workers or micro-steps, and there is "
            "one worker with one micro-step.\n  Use two workers, or scale.grad_accum_steps: 2.",
        ),
        (
            ["schedule={name: linear}", "scale.batch_schedule.up_to=noise_scale", "train.noise_scale_every=null"],
            "scale.batch_schedule.up_to = noise_scale follows the noise scale, and train.noise_scale_every = null "
            "turns its measurement off.\n  Leave train.noise_scale_every out.",
        ),
        (  # 25 -> 100 holds, 400 does not
            ["schedule={name: linear, warmup: {epochs: 0}}", "reference.optimizer={name: adam}", "scale.rule=adam_sde"],
            "scale.rule = adam_sde needs batch_ratio * (1 - beta1) < 1, but 16.68 * (1 - 0.9) = 1.668.\n"
            "  Use betas: power, rule: sqrt, or a global batch of at most 249 (reference 25).",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(round_job: Digits, overrides: list[str], text: str) -> None:
    with pytest.raises(PlanError) as caught:
        make_plan(round_job(INSTEAD.format(500), *overrides))
    assert str(caught.value) == text


WARNED = {"batch_never_grows", "batch_grows_faster_than_lr_falls"}


@pytest.mark.parametrize(
    ("overrides", "messages"),
    [
        ([ADAMW, SQRT], []),
        (["scale.rule=linear"], []),  # SGD: Smith et al.
        (["scale.rule=power", "scale.exponent=0.8"], []),
        ([ADAMW, "scale.rule=power", "scale.exponent=0.3"], []),  # falls more than it must
        (
            [ADAMW, "scale.rule=power", "scale.exponent=0.75"],
            [
                "Where the batch is 4 times as large, rule: power divides the learning rate of adamw by 1.414. Below "
                "the root, 2, training is not stable with adaptive optimizers (Meterez et al. 2025): use rule: sqrt."
            ],
        ),
        (
            [ADAMW, "scale.rule=linear", "scale.batch_schedule.up_to=noise_scale"],  # at the batch it may grow to
            [
                "Where the batch is 4 times as large, rule: linear divides the learning rate of adamw by 1. Below "
                "the root, 2, training is not stable with adaptive optimizers (Meterez et al. 2025): use rule: sqrt."
            ],
        ),
        (
            ["schedule.final_fraction=0.75"],
            [
                "The batch never grows: it changes where it would be 2 times as large, and the learning rate ends at "
                "0.75 of its peak. Lower scale.batch_schedule.growth."
            ],
        ),
        (["schedule.final_fraction=0.75", "scale.batch_schedule.growth=1.2"], []),
        (["scale.batch_schedule.max_global_batch_size=100"], []),  # it is the largest at the start
    ],
)
def test_what_is_unstable_or_has_no_effect_is_warned_of(
    round_job: Digits, overrides: list[str], messages: list[str]
) -> None:
    plan = make_plan(round_job("schedule={name: linear, warmup: {epochs: 0}}", INSTEAD.format(400), *overrides))
    assert [warning.message for warning in plan.warnings if warning.code in WARNED] == messages
