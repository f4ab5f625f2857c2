"""The batch over the training. The round job: 10 epochs of 1000 samples, 2 workers x 50, the reference's batch 25."""

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from scaler.errors import PlanError
from scaler.job import Job, parse_job
from scaler.job.scale import GrowByDoubling, GrowInsteadOfDecay
from scaler.plan import Plan, grow, make_plan
from scaler.plan.make import require_every_size

Digits = Callable[..., Job]
POINTS = "scale.batch_schedule={{name: points, points: [{}]}}"


def walk(plan: Plan) -> list[int]:
    """Where each step starts, taken one by one, and the end."""
    seen = [0]
    while size := plan.step_size(seen[-1]):
        seen.append(seen[-1] + size)
    return seen


@pytest.mark.parametrize(
    ("schedule", "changes"),
    [
        ("null", [(0, 100)]),
        (
            "{name: doubling, every: {epochs: 3}, max_global_batch_size: 9999}",
            [(0, 100), (3000, 200), (6000, 400), (9000, 800)],
        ),
        (  # stays at the most
            "{name: doubling, every: {epochs: 2}, max_global_batch_size: 350}",
            [(0, 100), (2000, 200), (4000, 350)],
        ),
        ("{name: doubling, every: {epochs: 2}, max_global_batch_size: 100}", [(0, 100)]),  # as large as it may be
        ("{name: doubling, every: {epochs: 10}, max_global_batch_size: 9999}", [(0, 100)]),  # the end is no place
        (  # in steps of the start's batch
            "{name: doubling, every: {steps: 50}, max_global_batch_size: 200}",
            [(0, 100), (5000, 200)],
        ),
        (
            "{name: points, points: [{at: {epochs: 2}, factor: 3}, {at: {fraction: 0.5}, factor: 0.5}]}",
            [(0, 100), (2000, 300), (5000, 50)],  # of the start's batch, up or down
        ),
        (  # a step that has begun is finished: 1050 is within 1000..1100
            "{name: points, points: [{at: {samples: 1050}, factor: 2}]}",
            [(0, 100), (1100, 200)],
        ),
        (  # counted where the steps of the batch before it begin: 1100, 1300, ...
            "{name: points, points: [{at: {samples: 1050}, factor: 2}, {at: {samples: 1400}, factor: 4}]}",
            [(0, 100), (1100, 200), (1500, 400)],
        ),
        (  # a step does not cross an epoch, so the next begins there: 1900 + 300 ends at 2000
            "{name: points, points: [{at: {samples: 1050}, factor: 4}, {at: {samples: 1950}, factor: 8}]}",
            [(0, 100), (1100, 400), (2000, 800)],
        ),
        (  # two within one step: the later counts, and nothing lasts for no step
            "{name: points, points: [{at: {samples: 1010}, factor: 2}, {at: {samples: 1090}, factor: 4}]}",
            [(0, 100), (1100, 400)],
        ),
        (  # there and back within one step: nothing changed
            "{name: points, points: [{at: {samples: 1010}, factor: 2}, {at: {samples: 1090}, factor: 1}]}",
            [(0, 100)],
        ),
        (  # to what it is
            "{name: points, points: [{at: {epochs: 1}, factor: 1}, {at: {epochs: 2}, factor: 2}]}",
            [(0, 100), (2000, 200)],
        ),
        (  # after the last step has begun, or the end
            "{name: points, points: [{at: {samples: 9950}, factor: 2}, {at: {epochs: 20}, factor: 3}]}",
            [(0, 100)],
        ),
        ("{name: points, points: [{at: {epochs: 1}, factor: 0.001}]}", [(0, 100), (1000, 1)]),  # at least a sample
        ("{name: noise_scale, max_global_batch_size: 999}", [(0, 100)]),  # measured, not planned
    ],
)
def test_when_the_batch_changes(round_job: Digits, schedule: str, changes: list[tuple[int, int]]) -> None:
    plan = make_plan(round_job(f"scale.batch_schedule={schedule}"))
    assert [(phase.start_samples, phase.global_batch_size) for phase in plan.phases] == changes
    assert plan.phases[0].global_batch_size == plan.global_batch_size


def test_the_learning_rate_follows_the_batch_by_the_rule_always_from_the_reference(round_job: Digits) -> None:
    job = round_job("scale.batch_schedule={name: doubling, every: {epochs: 3}, max_global_batch_size: 400}")
    plan = make_plan(job)
    assert [phase.batch_ratio for phase in plan.phases] == [4.0, 8.0, 16.0]
    assert [phase.peak_lr for phase in plan.phases] == [0.01 * 4, 0.01 * 8, 0.01 * 16]
    assert [phase.optimizer["lr"] for phase in plan.phases] == [0.04, 0.08, 0.16]
    assert [plan.whole_step_lr_at(samples) for samples in (2999, 3000, 6000)] == [0.04, 0.08, 0.16]
    assert (2999, 0.04) in plan.lr_curve
    assert (3000, 0.08) in plan.lr_curve
    assert (plan.batch_ratio, plan.lr_ratio, plan.peak_lr) == (4.0, 4.0, 0.04)  # the start's


def test_accumulation_is_solved_anew_and_no_micro_batch_is_larger_than_at_the_start(round_job: Digits) -> None:
    job = round_job("scale.batch_schedule={name: doubling, every: {epochs: 2}, max_global_batch_size: 450}")
    phases = make_plan(job, 3).phases  # 3 x 50
    found = [(phase.global_batch_size, phase.per_worker_batch_size, phase.grad_accum_steps) for phase in phases]
    assert found == [(150, 50, 1), (300, 50, 2), (450, 50, 3)]
    phases = make_plan(
        round_job("scale.batch_schedule={name: points, points: [{at: {epochs: 1}, factor: 1.3}]}")
    ).phases
    found = [(phase.global_batch_size, phase.per_worker_batch_size, phase.grad_accum_steps) for phase in phases]
    assert found == [(100, 50, 1), (130, 33, 2)]  # 65 each, in two


def test_every_constant_follows_the_batch(round_job: Digits) -> None:
    plan = make_plan(
        round_job(
            "reference.optimizer={name: adamw}",
            "scale.rule=adam_sde",
            "scale.co_scale={weight_decay: true, ema: true}",
            "train.ema={decay: 0.99}",
            POINTS.format("{at: {epochs: 1}, factor: 2}, {at: {epochs: 2}, factor: 0.25}"),
        )
    )
    one, two, reference = plan.phases
    assert one.optimizer["betas"] == pytest.approx([0.6, 0.996])
    assert two.optimizer["betas"] == pytest.approx([0.2, 0.992])
    assert [phase.weight_decay_ratio for phase in plan.phases] == pytest.approx([2.0, 8**0.5, 1.0])
    assert [phase.optimizer["weight_decay"] for phase in plan.phases] == pytest.approx([0.02, 0.01 * 8**0.5, 0.01])
    assert [phase.ema_decay for phase in plan.phases] == [0.99**4, 0.99**8, 0.99]  # Busbridge et al. 2023
    # At the reference's batch again: every constant to the last bit.
    assert reference.optimizer == {
        "name": "adamw",
        "lr": 0.01,
        "betas": [0.9, 0.999],
        "eps": 1e-8,
        "weight_decay": 0.01,
        "amsgrad": False,
    }
    assert (reference.batch_ratio, reference.lr_ratio) == (1.0, 1.0)


def test_nothing_but_the_learning_rate_follows_unless_asked_for(round_job: Digits) -> None:
    plan = make_plan(
        round_job(
            "reference.optimizer={name: adamw}",
            "scale.rule=sqrt",
            "train.ema={decay: 0.99}",
            "scale.batch_schedule={name: doubling, every: {epochs: 2}, max_global_batch_size: 400}",
        )
    )
    constants = [{key: value for key, value in phase.optimizer.items() if key != "lr"} for phase in plan.phases]
    assert constants == 3 * [constants[0]]
    assert [(phase.ema_decay, phase.weight_decay_ratio) for phase in plan.phases] == 3 * [(0.99, 1.0)]
    assert make_plan(round_job()).phases[0].ema_decay is None


# Any numbers: the phases, the walk and the counts agree.


def make_job(
    *, num_samples: int, total: int, micro: int, reference: int, workers: int, batch_schedule: Any, **scale: Any
) -> Job:
    if batch_schedule is not None and "max_global_batch_size" in batch_schedule:  # a most below the start is refused
        start = workers * micro * scale.get("grad_accum_steps", 1)
        batch_schedule = {**batch_schedule, "max_global_batch_size": start + batch_schedule["max_global_batch_size"]}
    return parse_job(
        {
            "name": "a",
            "recipe": "a:b",
            "reference": {"global_batch_size": reference, "lr": 0.1, "optimizer": {"name": "sgd"}},
            "scale": {
                "num_workers": workers,
                "per_worker_batch_size": micro,
                "rule": "linear",
                "batch_schedule": batch_schedule,
                **scale,
            },
            "schedule": {"name": "cosine"},
            "train": {"samples": total, "num_samples": num_samples},
        },
        source="here",
    )


points = st.dictionaries(st.integers(1, 900), st.floats(0.1, 8), min_size=1, max_size=5).map(
    lambda found: {
        "name": "points",
        "points": [{"at": {"samples": at}, "factor": factor} for at, factor in sorted(found.items())],
    }
)
doubling = st.builds(
    lambda every, most: {"name": "doubling", "every": {"samples": every}, "max_global_batch_size": most},
    st.integers(1, 300),
    st.integers(1, 2000),
)
instead = st.builds(
    lambda growth, most: {"name": "instead_of_decay", "growth": growth, "max_global_batch_size": most},
    st.floats(1.01, 8),
    st.integers(1, 2000),
)
jobs = st.builds(
    make_job,
    num_samples=st.integers(1, 200),
    total=st.integers(1, 900),
    micro=st.integers(1, 40),
    reference=st.integers(1, 64),
    workers=st.integers(1, 5),
    grad_accum_steps=st.integers(1, 3),
    batch_schedule=st.none() | points | doubling | instead,
)


@given(job=jobs)
def test_walking_agrees_with_what_the_plan_counts(job: Job) -> None:
    plan = make_plan(job)
    walked = walk(plan)
    assert walked[-1] == plan.total_samples
    assert len(walked) - 1 == plan.total_steps
    assert [plan.steps(seen) for seen in walked] == list(range(len(walked)))
    assert [walked[phase.start_steps] for phase in plan.phases] == [phase.start_samples for phase in plan.phases]
    assert plan.steps_per_epoch == plan.steps(plan.num_samples)
    starts = [phase.start_samples for phase in plan.phases]
    assert starts[0] == 0
    assert set(starts) <= set(walked), "a change within a step"
    assert all(before < after < plan.total_samples for before, after in pairwise(starts))
    assert all(one.global_batch_size != two.global_batch_size for one, two in pairwise(plan.phases))


@given(job=jobs, data=st.data())
def test_between_steps_the_started_step_counts(job: Job, data: st.DataObject) -> None:
    plan = make_plan(job)
    walked = walk(plan)
    samples = data.draw(st.integers(0, plan.total_samples))
    assert plan.steps(samples) == sum(start < samples for start in walked[:-1])


@given(job=jobs)
def test_every_step_stays_within_its_epoch_its_batch_and_every_workers_memory(job: Job) -> None:
    plan = make_plan(job)
    for seen, after in pairwise(walk(plan)):
        phase = plan.phase_at(seen)
        assert phase.start_samples <= seen
        assert after - seen <= phase.global_batch_size
        assert seen // plan.num_samples == (after - 1) // plan.num_samples
        micro = [
            bounds
            for rank in range(plan.world_size)
            for bounds in plan.micro_batch_bounds(after - seen, rank=rank, samples_seen=seen)
        ]
        assert sum(stop - start for start, stop in micro) == after - seen
        assert max(stop - start for start, stop in micro) <= phase.per_worker_batch_size
        assert phase.per_worker_batch_size <= plan.per_worker_batch_size


@given(job=jobs, data=st.data())
def test_a_plan_that_grew_on_the_way_counts_the_steps_that_were_taken(job: Job, data: st.DataObject) -> None:
    plan = make_plan(job)
    walked = walk(plan)
    now = data.draw(st.sampled_from(walked[:-1]))
    size = data.draw(st.integers(1, 300))
    grown = grow(plan, job, samples_seen=now, global_batch_size=size)
    after = walk(grown)
    assert [seen for seen in after if seen <= now] == [seen for seen in walked if seen <= now]
    assert [grown.steps(seen) for seen in after] == list(range(len(after)))
    assert [after[phase.start_steps] for phase in grown.phases] == [phase.start_samples for phase in grown.phases]
    assert after[-1] == plan.total_samples
    assert grown.phase_at(now).global_batch_size == size
    assert grown.phase_at(now).peak_lr == pytest.approx(0.1 * size / plan.reference_batch_size)
    assert grown.phases[-1].per_worker_batch_size <= plan.per_worker_batch_size
    assert Plan.from_dict(json.loads(json.dumps(grown.to_dict()))) == grown


@given(job=jobs, workers=st.integers(1, 5))
def test_a_fixed_batch_changes_at_the_same_samples_on_any_number_of_workers(job: Job, workers: int) -> None:
    values = job.model_dump()
    values["scale"] |= {"global_batch_size": 24, "grad_accum_steps": None}
    growth = job.scale.batch_schedule
    assume(not isinstance(growth, GrowByDoubling | GrowInsteadOfDecay) or growth.max_global_batch_size >= 24)
    fixed = parse_job(values, source="here")
    one, other = make_plan(fixed, 1), make_plan(fixed, workers)
    assert [(p.start_samples, p.global_batch_size, p.peak_lr) for p in one.phases] == [
        (p.start_samples, p.global_batch_size, p.peak_lr) for p in other.phases
    ]
    assume(len(one.phases) > 1)
    assert walk(one) == walk(other)


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (
            [POINTS.format("{at: {epochs: 5}, factor: 2}, {at: {epochs: 2}, factor: 4}")],
            "scale.batch_schedule.points are at 5000, 2000 samples.\n  Write them in ascending order.",
        ),
        (
            [POINTS.format("{at: {epochs: 5}, factor: 2}, {at: {fraction: 0.5}, factor: 4}")],
            "scale.batch_schedule.points are at 5000, 5000 samples.\n  Write them in ascending order.",
        ),
        (
            [POINTS.format("{at: {fraction: 1e-9}, factor: 2}")],
            "scale.batch_schedule.points begin at 0 samples, which is the start of training.\n"
            "  The first batch follows from the other keys of scale; put the first point later.",
        ),
        (
            [
                POINTS.format(", ".join(f"{{at: {{steps: {3 * n}}}, factor: {1 + n % 2}}}" for n in range(1, 1002))),
                "train.epochs=1000",
            ],
            "scale.batch_schedule changes the batch more than 1000 times.\n  Let it change less often.",
        ),
        (
            ["scale.batch_schedule={name: doubling, every: {epochs: 2}, max_global_batch_size: 99}"],
            "scale.batch_schedule.max_global_batch_size = 99 is below the 100 samples of the first batch: the "
            "batch would never grow.\n"
            "  Set it above 100, or leave scale.batch_schedule out.",
        ),
        (
            ["scale.batch_schedule={name: noise_scale, max_global_batch_size: 99}"],
            "scale.batch_schedule.max_global_batch_size = 99 is below the 100 samples of the first batch: the "
            "batch would never grow.\n"
            "  Set it above 100, or leave scale.batch_schedule out.",
        ),
        (  # the rule must hold at every batch there will be: 25 -> 100 does, 400 does not
            [
                "reference.optimizer={name: adam}",
                "scale.rule=adam_sde",
                "scale.batch_schedule={name: doubling, every: {epochs: 2}, max_global_batch_size: 400}",
            ],
            "scale.rule = adam_sde needs batch_ratio * (1 - beta1) < 1, but 16 * (1 - 0.9) = 1.6.\n"
            "  Use betas: power, rule: sqrt, or a global batch of at most 249 (reference 25).",
        ),
    ],
)
def test_changes_that_cannot_be_are_refused(round_job: Digits, overrides: list[str], text: str) -> None:
    with pytest.raises(PlanError) as caught:
        make_plan(round_job(*overrides))
    assert str(caught.value) == text


def test_a_phase_has_the_steps_before_it(round_job: Digits) -> None:
    job = round_job("scale.batch_schedule={name: doubling, every: {epochs: 3}, max_global_batch_size: 400}")
    plan = make_plan(job)
    assert [phase.start_steps for phase in plan.phases] == [0, 30, 45]  # 3 epochs of 10 steps, 3 of 5


def test_with_many_phases_a_step_looks_at_few_of_them(round_job: Digits) -> None:
    points = ", ".join(f"{{at: {{samples: {20 * n}}}, factor: {0.01 * (1 + n % 7)}}}" for n in range(1, 401))
    plan = make_plan(round_job(POINTS.format(points)))
    assert len(plan.phases) == 397  # the first points come in one step of 100
    walked = walk(plan)
    assert [plan.steps(seen) for seen in walked] == list(range(len(walked)))
    for seen in walked:
        assert plan.phase_at(seen) == max(
            (phase for phase in plan.phases if phase.start_samples <= seen), key=lambda phase: phase.start_samples
        )


NOISE = "scale.batch_schedule={{name: noise_scale, max_global_batch_size: {}}}"


@pytest.mark.parametrize(
    ("overrides", "most", "refused_because"),
    [
        (
            ["reference.optimizer={name: adam}", "scale.rule=adam_sde"],
            249,
            "scale.rule = adam_sde needs batch_ratio * (1 - beta1) < 1, but 10 * (1 - 0.9) = 1.\n"
            "  Use betas: power, rule: sqrt, or a global batch of at most 249 (reference 25).",
        ),
        (
            ["reference.optimizer={name: rmsprop, alpha: 0.95}", "scale.rule=adam_sde"],
            499,
            "scale.rule = adam_sde needs batch_ratio * (1 - alpha) < 1, but 20 * (1 - 0.95) = 1.\n"
            "  Use betas: power, rule: sqrt, or a global batch of at most 499 (reference 25).",
        ),
        (
            [
                "reference.lr=0.1",
                "reference.optimizer={name: adamw, weight_decay: 0.1}",
                "scale.rule=none",
                "scale.co_scale={weight_decay: true}",
            ],
            250,
            "scale.co_scale.weight_decay holds a timescale of 2500 samples, and a step of 251 would take 10% of the "
            "weights.\n  Lower weight_decay, or use a global batch of at most 250 (reference 25).",
        ),
    ],
)
def test_a_batch_that_a_measured_noise_scale_may_lead_to_is_refused_when_planned_where_the_rule_does_not_hold(
    round_job: Digits, overrides: list[str], most: int, refused_because: str
) -> None:
    """What a plan may become is planned: no run dies of it on the way."""
    job = round_job(*overrides, NOISE.format(most))
    plan = make_plan(job)
    assert plan.reacts == ("noise_scale",)
    for size in range(plan.global_batch_size, most + 1):
        assert grow(plan, job, samples_seen=1000, global_batch_size=size).phases[-1].global_batch_size == size
    with pytest.raises(PlanError) as caught:
        make_plan(round_job(*overrides, NOISE.format(most + 1)))
    assert str(caught.value) == (
        f"scale.batch_schedule.max_global_batch_size = {most + 1}: the batch may grow to this, and {refused_because}"
    )


def test_a_rule_that_does_not_hold_on_some_size_of_an_elastic_job_is_refused_before_it_runs(round_job: Digits) -> None:
    job = round_job(
        "reference={global_batch_size: 600, lr: 0.1, optimizer: {name: sgd, momentum: 0.9}}",
        "scale={num_workers: {min: 1, max: 4}, per_worker_batch_size: 50, rule: none, co_scale: {momentum: true}}",
    )
    with pytest.raises(PlanError) as caught:
        require_every_size(job, make_plan(job))
    assert str(caught.value) == (
        "on 1 worker: scale.co_scale.momentum: 1 - (1 - 0.9) / 0.0833333 is below 0.\n"
        "  Use a global batch of at least 60 (reference 600)."
    )
    adam = ["reference.optimizer={name: adam}", "scale.rule=adam_sde", "scale.num_workers={min: 2, max: 4}"]
    fits = round_job(*adam, NOISE.format(240))
    require_every_size(fits, make_plan(fits))
    with pytest.raises(PlanError, match=r"max_global_batch_size = 250: the batch may grow to this, and scale\.rule"):
        make_plan(round_job(*adam, NOISE.format(250)), 2)
