"""Every schedule of the job through ``make_plan``. The round job: 10 epochs of 1000 samples in steps of 100."""

from collections.abc import Callable
from itertools import pairwise
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.errors import PlanError
from scaler.job import Job
from scaler.plan import Plan, make_plan

Digits = Callable[..., Job]


@pytest.mark.parametrize(
    ("schedule", "factors", "reason"),
    [
        (
            "name: constant, warmup: {epochs: 1}",
            {0: 0.25, 500: 0.625, 1000: 1.0, 9999: 1.0},  # from the reference's learning rate, a quarter of the peak
            "the peak learning rate to the end",
        ),
        (
            "name: step, every: {epochs: 3}, decay: 0.5, warmup: {epochs: 1}",
            {999: 0.99925, 1000: 1.0, 2999: 1.0, 3000: 0.5, 6000: 0.25, 9000: 0.125},  # the warmup's epoch counts
            "x 0.5 every 3 epochs, counted from the start of training",
        ),
        (
            "name: step, every: {steps: 25}, warmup: {epochs: 0}",
            {2499: 1.0, 2500: 0.1, 5000: 0.01},
            "x 0.1 every 25 steps (steps of 100: 2,500 samples; of the reference: 625), "
            "counted from the start of training",
        ),
        (
            "name: multi_step, at: [{epochs: 3}, {fraction: 0.6}, {steps: 75}, {samples: 9000}], warmup: {epochs: 1}",
            {2999: 1.0, 3000: 0.1, 6000: 0.01, 7500: 1e-3, 9000: 1e-4},  # any unit
            "x 0.1 at 3 epochs, 0.6 of the training, 75 steps "
            "(steps of 100: 7,500 samples; of the reference: 1,875), "
            "9000 samples, counted from the start of training",
        ),
        (
            "name: exponential, decay: 0.25, warmup: {epochs: 1}",
            {1000: 1.0, 1500: 0.5, 2000: 0.25, 3000: 0.0625},  # from the end of the warmup
            "x 0.25 in 1 epoch, smoothly (torch's falls in steps, once per scheduler step)",
        ),
        (
            "name: exponential, every: {fraction: 0.2}, decay: 0.25, warmup: {epochs: 0}",
            {0: 1.0, 1000: 0.5, 2000: 0.25},
            "x 0.25 in 0.2 of the training, smoothly (torch's falls in steps, once per scheduler step)",
        ),
        (
            "name: linear, final_fraction: 0.1, warmup: {epochs: 1}",
            {1000: 1.0, 5500: 0.55, 10000: 0.1},
            "a line from the end of the warmup to 0.1 of the peak at the end",
        ),
        (
            "name: polynomial, power: 2, warmup: {epochs: 1}",
            {1000: 1.0, 5500: 0.25, 10000: 0.0},
            "(1 - progress) to the power of 2, to 0 at the end",
        ),
        (
            "name: cosine, warmup: {epochs: 1}",
            {1000: 1.0, 5500: 0.5, 10000: 0.0},
            "half a cosine from the end of the warmup to 0 at the end",
        ),
        (
            "name: cosine_restarts, first: {epochs: 3}, growth: 2, final_fraction: 0.2, warmup: {epochs: 1}",
            {1000: 1.0, 2500: 0.6, 4000: 1.0, 7000: 0.6},  # the second takes six epochs
            "half cosines to 0.2 of the peak after the warmup, the first 3 epochs, each 2 times as long",
        ),
        (
            "name: cosine_restarts, first: {epochs: 2}, warmup: {epochs: 0}",
            {0: 1.0, 1000: 0.5, 2000: 1.0, 3000: 0.5},
            "half cosines to 0 of the peak after the warmup, the first 2 epochs",
        ),
        (
            "name: cyclical, climb: {epochs: 1}, low: 0.2",
            {0: 0.2, 500: 0.6, 1000: 1.0, 2000: 0.2, 3000: 1.0},  # warmup auto: it climbs by itself
            "triangular between 0.2 of the peak and the peak, up in 1 epoch",
        ),
        (
            "name: cyclical, climb: {epochs: 1}, descent: {epochs: 3}, low: 0.2, mode: exp_range, decay: 0.5, "
            "warmup: {epochs: 2}",
            {  # a warmup leads to its foot
                0: 0.25 * 0.2,
                1000: 0.625 * 0.2,
                2000: 0.2,
                3000: 0.2 + 0.8 * 0.5**0.25,
                6000: 0.2,
                7000: 0.2 + 0.8 * 0.5**1.25,
            },
            "exp_range between 0.2 of the peak and the peak, up in 1 epoch, x 0.5 in a cycle "
            "(torch's gamma is of a step)",
        ),
        (
            "name: one_cycle",
            {0: 0.04, 2900: 1.0, 9900: 4e-6},  # the thirtieth step has the peak, the last the least
            "from 0.04 to the peak in 0.3 of the training, then to 4e-06 in the last step (cosine), "
            "counted as in torch",
        ),
        (
            "name: one_cycle, climb: {epochs: 2}, anneal: linear, start_fraction: 0.2, final_fraction: 0, "
            "warmup: {epochs: 1}",
            {0: 0.25 * 0.2, 1000: 0.2, 1950: 0.6, 2900: 1.0, 6400: 0.5, 9900: 0.0},
            "from 0.2 to the peak in 2 epochs, then to 0 in the last step (linear), counted as in torch",
        ),
        (
            "name: wsd, tail_length: {fraction: 0.2}, warmup: {epochs: 1}",
            {1000: 1.0, 8000: 1.0, 9000: 0.5, 10000: 0.0},
            "the peak, then a fall in the last 0.2 of the training to 0 at the end (linear)",
        ),
        (
            "name: wsd, tail_length: {epochs: 4}, tail: 1-sqrt, final_fraction: 0.5, warmup: {epochs: 1}",
            {6000: 1.0, 7000: 0.75, 10000: 0.5},
            "the peak, then a fall in the last 4 epochs to 0.5 of the peak at the end (1-sqrt)",
        ),
        (
            "name: inverse_sqrt, warmup: {epochs: 1}",
            {1000: 1.0, 2000: sqrt(0.5), 4000: 0.5},  # Vaswani et al. 2017: the warmup's length
            "one over the root of the samples after the warmup; 0.71 of the peak 1000 samples after it",
        ),
        (
            "name: inverse_sqrt, timescale: {steps: 30}, warmup: {epochs: 0}",
            {0: 1.0, 3000: sqrt(0.5), 9000: 0.5},
            "one over the root of the samples after the warmup; 0.71 of the peak 30 steps (steps of 100: 3,000 "
            "samples; of the reference: 750) after it",
        ),
    ],
)
def test_every_schedule_by_example(round_job: Digits, schedule: str, factors: dict[int, float], reason: str) -> None:
    plan = make_plan(round_job(f"schedule={{{schedule}}}"))
    assert plan.peak_lr == 0.04
    found = {samples: plan.whole_step_lr_at(samples) / 0.04 for samples in factors}
    assert found == pytest.approx(factors, rel=1e-12, abs=1e-15)
    assert plan.reasons["schedule"] == reason


IN_EPOCHS = {
    "constant": "",
    "step": "every: {epochs: 2}",
    "multi_step": "at: [{epochs: 3}, {fraction: 0.5}]",
    "exponential": "decay: 0.7",
    "linear": "final_fraction: 0.1",
    "polynomial": "power: 0.9",
    "cosine": "",
    "cosine_restarts": "first: {epochs: 2}, growth: 1.5",
    "cyclical": "climb: {epochs: 1.5}, low: 0.1, mode: triangular2",
    "wsd": "tail_length: {epochs: 2}",
    "inverse_sqrt": "timescale: {epochs: 2}",
}


@pytest.mark.parametrize("name", IN_EPOCHS)
@pytest.mark.parametrize(
    "warmup", ["{epochs: 2, start: 0.25}", "{samples: 1000, start: 0.0}", "{fraction: 0.1, start: 1}"]
)
def test_in_epochs_the_learning_rate_over_samples_is_the_same_for_any_number_of_workers(
    round_job: Digits, name: str, warmup: str
) -> None:
    job = round_job(f"schedule={{name: {name}, warmup: {warmup}, {IN_EPOCHS[name]}}}")
    plans = [make_plan(job, world_size) for world_size in (1, 3, 8)]
    assert [plan.global_batch_size for plan in plans] == [50, 150, 400]
    for samples in range(0, 10_050, 97):
        one, *others = (plan.whole_step_lr_at(samples) / plan.peak_lr for plan in plans)
        assert others == pytest.approx([one, one], rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
@pytest.mark.parametrize("batches", ["null", "{name: points, points: [{at: {epochs: 9.7}, factor: 3}]}"])
def test_one_cycle_has_its_peak_and_its_end_in_steps_that_are_taken(
    round_job: Digits, workers: int, batches: str
) -> None:
    plan = make_plan(round_job("schedule={name: one_cycle}", f"scale.batch_schedule={batches}"), workers)
    seen, shares = 0, []
    while size := plan.step_size(seen):
        shares.append(plan.whole_step_lr_at(seen) / plan.phase_at(seen).peak_lr)
        seen += size
    top = shares.index(max(shares))
    assert shares[0] == pytest.approx(1 / 25)
    assert all(before < after for before, after in pairwise(shares[: top + 1]))
    assert all(before > after for before, after in pairwise(shares[top:]))
    assert shares[-1] == pytest.approx(1 / 25e4)
    if workers == 2:  # 30 whole steps: the peak itself
        assert (top, max(shares)) == (29, 1.0)


@pytest.mark.parametrize("name", ["one_cycle", "cyclical"])
def test_momentum_moves_against_the_learning_rate(round_job: Digits, name: str) -> None:
    rest = {"one_cycle": "", "cyclical": "climb: {epochs: 1}, low: 0.1, "}[name]
    plan = make_plan(round_job(f"schedule={{name: {name}, {rest}low_momentum: 0.85, high_momentum: 0.95}}"))
    top = {"one_cycle": 2900, "cyclical": 1000}[name]
    assert [plan.momentum_at(samples) for samples in (0, top)] == pytest.approx([0.95, 0.85])
    assert make_plan(round_job()).momentum_at(0) is None


# The warmup


@pytest.mark.parametrize(
    ("warmup", "samples", "steps", "first_lr"),
    [
        ("auto", 1198, 5, 0.01),  # 5/90 of 21555, from the reference's learning rate
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
    assert plan.whole_step_lr_at(0) == pytest.approx(first_lr, rel=1e-12)
    assert plan.whole_step_lr_at(samples) == pytest.approx(0.16, rel=1e-12)


@pytest.mark.parametrize(
    ("shape", "quarter", "half"),
    [
        ("linear", 0.4375, 0.625),
        ("constant", 0.25, 0.25),  # then a jump
        ("cosine", 0.25 + 0.75 * (1 - sqrt(0.5)) / 2, 0.625),
    ],
)
def test_shapes_of_the_warmup(round_job: Digits, shape: str, quarter: float, half: float) -> None:
    plan = make_plan(round_job(f"schedule.warmup={{epochs: 2, shape: {shape}}}"))
    found = [plan.whole_step_lr_at(samples) / 0.04 for samples in (0, 500, 1000, 2000)]
    assert found == pytest.approx([0.25, quarter, half, 1.0])


@pytest.mark.parametrize(
    ("overrides", "samples", "reason"),
    [
        ([], 556, "556 samples: 5/90 of the training (auto; Goyal et al. 2017), from reference.lr"),
        (["scale.rule=none"], 0, "none (auto), because the learning rate is not scaled up"),
        (["scale.rule=adascale"], 0, "none (auto), because the learning rate is not scaled up"),  # the gain begins at 1
        (["schedule.name=one_cycle"], 0, "none (auto), because one_cycle has its own climb"),
        (
            ["schedule={name: cyclical, climb: {epochs: 1}, low: 0}"],
            0,
            "none (auto), because cyclical has its own climb",
        ),
        (
            ["schedule={name: one_cycle, warmup: {epochs: 2}}"],
            2000,
            "2,000 samples: 2 epochs, from 0.25 of the learning rate at which one_cycle starts",
        ),
        (["schedule.warmup={epochs: 2}"], 2000, "2,000 samples: 2 epochs, from reference.lr"),
        (["schedule.warmup={epochs: 2, start: 0.1}"], 2000, "2,000 samples: 2 epochs, from 0.1 of the peak"),
        (
            ["schedule.warmup={steps: 12, shape: cosine}"],
            1200,
            "1,200 samples: 12 steps of 100 (of the reference's 25: 300 samples), from reference.lr, cosine",
        ),
        (  # You et al. 2019: epochs times the ratio
            ["scale.rule=legw", "reference.warmup={epochs: 0.5}"],
            2000,
            "2,000 samples: the reference's 0.5 epochs x 4 by the rule, from 0; none added",
        ),
        (  # steps of the reference, which are of 25 samples
            ["scale.rule=legw", "reference.warmup={steps: 12, start: 0.1, shape: cosine}"],
            1200,
            "1,200 samples: the reference's 12 steps of 25 samples x 4 by the rule, from 0.1 of the "
            "learning rate, cosine; none added",
        ),
        (  # the reference's and what scaling adds
            ["reference.warmup={steps: 8}", "schedule.warmup={epochs: 1}"],
            1000,
            "1,000 samples, the longer of two: the reference's 8 steps of 25 samples, from 0; "
            "added: 1 epoch, from reference.lr",
        ),
        (
            ["reference.warmup={steps: 80}"],
            2000,
            "2,000 samples, the longer of two: the reference's 80 steps of 25 samples, from 0; "
            "added: 5/90 of the training (auto; Goyal et al. 2017), from reference.lr",
        ),
        (
            ["reference.warmup={steps: 80}", "schedule.warmup={steps: 0}"],
            2000,
            "2,000 samples: the reference's 80 steps of 25 samples, from 0; "
            "none added, as schedule.warmup = {steps: 0} says",
        ),
        (["schedule.warmup={epochs: 0}"], 0, "none, as schedule.warmup = {epochs: 0} says"),
        (["schedule.warmup={samples: 1500}"], 1500, "1,500 samples, from reference.lr"),
        (
            ["schedule.warmup={steps: 8}", "reference.global_batch_size=100"],
            800,
            (
                "800 samples: 8 steps of 100 samples, no effect: it starts at reference.lr, which is the peak (the "
                "reference's warmup is reference.warmup)"
            ),
        ),
    ],
)
def test_how_long_the_warmup_is_and_why(round_job: Digits, overrides: list[str], samples: int, reason: str) -> None:
    plan = make_plan(round_job(*overrides))
    assert (plan.warmup_samples, plan.reasons["warmup_samples"]) == (samples, reason)


@given(epochs=st.floats(0.1, 3), workers=st.integers(1, 8))
def test_the_warmup_of_legw_takes_as_many_steps_as_the_references(
    round_job: Digits, epochs: float, workers: int
) -> None:
    plan = make_plan(round_job("scale.rule=legw", f"reference.warmup={{epochs: {epochs!r}}}"), workers)
    of_the_reference = epochs * 1000 / 25
    assert plan.warmup_samples / plan.global_batch_size == pytest.approx(of_the_reference, abs=0.6)


ADAM = "reference.optimizer={name: adam}"


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (
            ["scale.rule=legw"],
            "scale.rule = legw multiplies the reference's warmup by batch_ratio, and reference.warmup is missing.\n"
            "  Give the warmup that the reference was tuned with: reference.warmup: {epochs: ...}.",
        ),
        (
            ["scale.rule=auto", "reference.optimizer={name: lamb}"],
            "scale.rule = auto chose legw for lamb, which multiplies the reference's warmup by batch_ratio, and "
            "reference.warmup is missing.\n  Give the warmup that the reference was tuned with: reference.warmup: "
            "{epochs: ...}, or scale.rule: sqrt.",
        ),
        (
            ["scale.rule=legw", "reference.warmup={epochs: 1}", "schedule.warmup={steps: 100}"],
            "scale.rule = legw multiplies the reference's warmup by batch_ratio, and schedule.warmup adds a "
            "second warmup.\n"
            "  Leave schedule.warmup out, and keep reference.warmup.",
        ),
        (
            ["scale.rule=legw", "reference.warmup={epochs: 1}", "scale.num_workers={min: 1, max: 2}"],
            "scale.rule = legw multiplies the reference's warmup by batch_ratio, which changes with the number "
            "of workers: a resize would move the start of the schedule.\n"
            "  Use scale.on_resize: hold_global_batch, or scale.rule: sqrt.",
        ),
        (
            ["schedule={name: inverse_sqrt, warmup: {epochs: 0}}"],
            "schedule.timescale is missing, and there is no warmup whose length it could be.\n"
            "  Give schedule.timescale or schedule.warmup, such as {steps: 4000}.",
        ),
        (
            ["schedule={name: wsd, tail_length: {epochs: 9.5}, warmup: {epochs: 1}}"],
            "schedule.tail_length = 9.5 epochs is 9500 samples, and the warmup leaves 9000 of the training.\n"
            "  The most is {samples: 9000}.",
        ),
        (
            ["schedule={name: one_cycle, climb: {epochs: 10}}"],
            "schedule.climb = 10 epochs leaves no step for the descent.\n"
            "  The peak must come before the last step. Usual is climb: {fraction: 0.3}.",
        ),
        (
            ["schedule={name: multi_step, at: [{epochs: 6}, {epochs: 3}, {samples: 3000}]}"],
            "schedule.at = [6000, 3000, 3000] samples does not ascend.\n  Did you mean [3000, 6000]?",
        ),
        (
            ["schedule={name: multi_step, at: [{fraction: 1e-9}]}"],
            "schedule.at = 0 samples is below 1.\n  The least is 1.",
        ),
        (
            ["schedule={name: cyclical, climb: {epochs: 1}, low: 0.1, decay: 0.9}"],
            "schedule.decay = 0.9 has no effect in mode triangular.\n  Use mode: exp_range.",
        ),
        (
            ["schedule={name: one_cycle, low_momentum: 0.95, high_momentum: 0.85}"],
            "schedule.low_momentum = 0.95 is above high_momentum = 0.85.\n"
            "  Did you mean low_momentum: 0.85, high_momentum: 0.95?",
        ),
        (  # both would set Adam's first beta
            [ADAM, "scale.rule=adam_sde", "schedule={name: one_cycle, low_momentum: 0.85, high_momentum: 0.95}"],
            "schedule.low_momentum cycles the momentum, and scale.rule = adam_sde scales it.\n"
            "  Leave out low_momentum and high_momentum, or scale.rule = adam_sde.",
        ),
        (
            [
                "scale.rule=none",
                "scale.co_scale={momentum: true}",
                "schedule={name: one_cycle, low_momentum: 0.85, high_momentum: 0.95}",
            ],
            "schedule.low_momentum cycles the momentum, and scale.co_scale.momentum scales it.\n"
            "  Leave out low_momentum and high_momentum, or scale.co_scale.momentum.",
        ),
    ],
)
def test_schedules_that_do_not_fit_are_refused(round_job: Digits, overrides: list[str], text: str) -> None:
    with pytest.raises(PlanError) as caught:
        make_plan(round_job(*overrides))
    assert str(caught.value) == text


# Lengths in steps


@pytest.mark.parametrize(
    "schedule",
    [
        "{name: multi_step, at: [{steps: 100}]}",
        "{name: step, every: {steps: 100}}",
        "{name: exponential, every: {steps: 100}, decay: 0.5}",
        "{name: wsd, tail_length: {steps: 20}}",
        "{name: cosine_restarts, first: {steps: 100}}",
        "{name: cyclical, climb: {steps: 100}, low: 0.1}",
        "{name: one_cycle, climb: {steps: 20}}",
        "{name: inverse_sqrt, timescale: {steps: 100}}",
        "{name: cosine, warmup: {steps: 100}}",
        "{name: cosine}",
        "{name: polynomial}",
    ],
)
@pytest.mark.parametrize("rule", ["linear", "sqrt", "none", "power"])
def test_an_elastic_job_has_one_schedule_over_samples_at_every_number_of_workers(
    round_job: Digits, schedule: str, rule: str
) -> None:
    """From ratio 0.5, where nothing is scaled up, to 4: what the schedule does, it does at the same samples."""
    elastic = (
        "scale.num_workers={min: 1, max: 8}",
        "scale.per_worker_batch_size=50",
        "reference.global_batch_size=100",
    )
    options = ["scale.exponent=0.7"] if rule == "power" else []
    job = round_job(*elastic, f"schedule={schedule}", f"scale.rule={rule}", *options)
    plans = [make_plan(job, size) for size in (1, 2, 8)]
    assert len({plan.warmup_samples for plan in plans}) == 1
    assert len({repr(plan.schedule.shape) for plan in plans}) == 1
    climb = plans[0].warmup_samples
    for samples in range(climb, 10_000, 500):
        one, *others = (plan.whole_step_lr_at(samples) / plan.peak_lr for plan in plans)
        assert others == pytest.approx([one] * 2, rel=1e-12, abs=1e-12)
    assert "steps" not in schedule or "steps of the reference" in "".join(plans[-1].reasons.values())


def test_where_the_two_readings_of_a_length_in_steps_differ_both_are_in_the_reason(round_job: Digits) -> None:
    at = "schedule={name: multi_step, at: [{steps: 10}]}"
    fixed = make_plan(round_job(at))
    assert fixed.schedule.shape.corners(10_000) == (1000,)
    assert fixed.reasons["schedule"] == (
        "x 0.1 at 10 steps (steps of 100: 1,000 samples; of the reference: 250), counted from the start of training"
    )
    elastic = make_plan(round_job(at, "scale.num_workers={min: 1, max: 2}"))
    assert elastic.schedule.shape.corners(10_000) == (250,)
    assert elastic.reasons["schedule"] == (
        "x 0.1 at 10 steps (steps of the reference: 250 samples; of 100: 1,000), counted from the start of training"
    )


# The warmup of the reference


def test_at_the_reference_s_batch_its_own_warmup_is_reproduced(round_job: Digits) -> None:
    """torch: LinearLR from 0.001 over 40 steps, then CosineAnnealingLR from there to the end."""
    job = round_job(
        "reference.warmup={steps: 40, start: 0.001}",
        "reference.optimizer={name: adamw}",
        "schedule={name: cosine}",
        "scale.rule=auto",
        "scale.per_worker_batch_size=25",
        "scale.num_workers=1",
    )
    plan = make_plan(job)
    assert (plan.lr_ratio, plan.warmup_samples) == (1.0, 1000)
    lrs = [plan.lr_at(25 * step) for step in (0, 10, 20, 40, 220)]
    climb = [0.01 * (0.001 + 0.999 * step / 40) for step in (0, 10, 20)]
    assert lrs == pytest.approx([*climb, 0.01, 0.005], rel=1e-12)


def test_scaling_adds_its_own_warmup_to_that_of_the_reference(round_job: Digits) -> None:
    plan = make_plan(
        round_job("reference.warmup={steps: 40}", "schedule={name: linear, warmup: {samples: 500, start: base}}")
    )
    assert plan.lr_ratio == 4.0
    lrs = [plan.whole_step_lr_at(samples) for samples in (0, 250, 500, 1000, 5500)]
    expected = [0.0, 0.01 * 0.25 * 2.5, 0.04 * 0.5, 0.04, 0.02]  # the reference's climb x the way from 1 to 4
    assert lrs == pytest.approx(expected, rel=1e-12)
    assert Plan.from_dict(plan.to_dict()) == plan
