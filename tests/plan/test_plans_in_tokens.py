"""Plans of jobs that count tokens."""

from dataclasses import replace
from typing import Any

import pytest

from scaler.errors import JobFileError, PlanError
from scaler.job import Job, parse_job
from scaler.plan import Plan, make_plan
from scaler.plan.kept_lengths import require_same_lengths

TOKENS = 64  # of a sample


def job_of(unit: str = "tokens", *, scale: dict[str, Any] | None = None, **sections: Any) -> Job:
    """Return the same job in tokens or in samples."""
    size = TOKENS if unit == "tokens" else 1
    length: dict[str, Any] = {"unit": "tokens", "tokens_per_sample": TOKENS} if unit == "tokens" else {}
    return parse_job(
        {
            "name": "t",
            "recipe": "r:build",
            "reference": {
                "global_batch_size": 4 * size,
                "lr": 0.002,
                "optimizer": {"name": "adamw", "weight_decay": 0.1},
            },
            "scale": {"num_workers": 2, "global_batch_size": 32 * size, "per_worker_batch_size": 8 * size}
            | (scale or {}),
            "schedule": {"name": "cosine", "warmup": {unit: 640 * size}} | sections.pop("schedule", {}),
            "train": {**length, unit: 12_800 * size, "num_samples": 6400, "eval_every": {unit: 1600 * size}}
            | sections.pop("train", {}),
            **sections,
        },
        source="job",
    )


def in_samples(plan: Plan) -> Plan:
    """Return a plan without its unit and its texts."""
    phases = tuple(replace(phase, tokens_per_sample=None) for phase in plan.phases)
    scaling = replace(plan.scaling, tokens_per_sample=None)
    codes = tuple(replace(warning, message="") for warning in plan.warnings)
    return replace(
        plan, unit="samples", tokens_per_sample=None, phases=phases, scaling=scaling, reasons={}, warnings=codes
    )


@pytest.mark.parametrize(
    "scale",
    [
        {},
        {"rule": "adam_sde"},
        {"global_batch_size": None},
        {"batch_schedule": {"name": "points", "points": [{"at": {"epochs": 1}, "factor": 2}]}},
    ],
)
def test_a_job_in_tokens_has_the_plan_of_the_same_job_in_samples(scale: dict[str, Any]) -> None:
    tokens, samples = (make_plan(job_of(unit, scale=scale)) for unit in ("tokens", "samples"))
    assert in_samples(tokens) == in_samples(samples)
    assert (tokens.unit, tokens.tokens_per_sample, samples.unit) == ("tokens", TOKENS, "samples")
    assert Plan.from_dict(tokens.to_dict()) == tokens


def test_every_batch_size_of_the_job_is_in_tokens() -> None:
    growth = {"name": "noise_scale", "every": {"tokens": 6400}, "max_global_batch_size": 64 * TOKENS}
    plan = make_plan(job_of(scale={"batch_schedule": growth, "rule": "gain", "noise_scale": 100.0 * TOKENS}))
    same = {**growth, "every": {"samples": 100}, "max_global_batch_size": 64}
    assert in_samples(plan) == in_samples(
        make_plan(job_of("samples", scale={"batch_schedule": same, "rule": "gain", "noise_scale": 100.0}))
    )
    assert plan.grow_every_samples == 100


def test_lengths_in_samples_stay_samples_in_a_job_of_tokens() -> None:
    plan = make_plan(job_of(train={"tokens": None, "samples": 12_800}, schedule={"warmup": {"samples": 640}}))
    assert (plan.total_samples, plan.warmup_samples) == (12_800, 640)


def test_the_reasons_speak_tokens() -> None:
    reasons = make_plan(job_of()).reasons
    assert reasons["batch_ratio"] == "256 -> 2,048 tokens, 8x"
    assert reasons["total_samples"] == "tokens: 819k, 2 epochs"
    assert reasons["warmup_samples"] == "41k tokens, from reference.lr"
    assert reasons["steps_per_epoch"] == "410k tokens in steps of 2,048"
    assert reasons["global_batch_size"] == (
        "fixed by scale.global_batch_size; 2 workers, each up to 512 tokens x 2 micro-steps"
    )


def test_a_resume_keeps_lengths_of_both_units() -> None:
    at = [{"steps": 100}, {"tokens": 409_600}]
    schedule = {"name": "multi_step", "at": at, "warmup": {"tokens": 0}}
    before, now = (job_of(schedule=schedule, scale={"global_batch_size": batch * TOKENS}) for batch in (32, 16))
    with pytest.raises(JobFileError) as caught:
        require_same_lengths(before, make_plan(before), now, make_plan(now))
    assert caught.value.problem == (
        "the global batch is 1,024 tokens now and was 2,048, which would change the schedule."
    )
    assert "Keep it: --set 'schedule.at=[{samples: 3200}, {samples: 6400}]'" in caught.value.remedy


# A number of tokens that changes in training


LONGER = [
    {"at": {"tokens": 100_000}, "tokens_per_sample": 128},
    {"at": {"tokens": 409_600}, "tokens_per_sample": 256},
]


def test_longer_samples_keep_the_tokens_of_a_batch_and_its_learning_rate() -> None:
    plan = make_plan(job_of(train={"sequence_lengths": LONGER}))
    assert [(phase.tokens_per_sample, phase.global_batch_size) for phase in plan.phases] == [
        (64, 32),
        (128, 16),
        (256, 8),
    ]
    assert {phase.per_worker_batch_size * (phase.tokens_per_sample or 0) for phase in plan.phases} == {512}
    for name in ("peak_lr", "batch_ratio", "grad_accum_steps", "optimizer"):
        values = [getattr(phase, name) for phase in plan.phases]
        assert values == values[:1] * 3
    # The first step that begins at the point or after it: 49 steps of 2,048 tokens are 100,352.
    assert [plan.units.at(phase.start_samples) for phase in plan.phases] == [0, 100_352, 409_600]
    assert plan.units.at(plan.total_samples) == 819_200
    assert plan.total_steps == 400


def test_the_schedule_follows_the_tokens() -> None:
    """At every step the learning rate is that of the job whose samples have one length."""
    longer, constant = make_plan(job_of(train={"sequence_lengths": LONGER})), make_plan(job_of())
    seen = other = steps = 0
    while size := longer.step_size(seen):
        assert longer.units.at(seen) == constant.units.at(other)
        assert longer.lr_at(seen) == pytest.approx(constant.lr_at(other), rel=1e-12)
        assert longer.steps(seen) == steps
        seen, other, steps = seen + size, other + constant.step_size(other), steps + 1
    assert (seen, steps) == (longer.total_samples, 400)
    assert longer.warmup_steps == constant.warmup_steps


def test_evaluations_in_tokens_are_as_many_with_longer_samples() -> None:
    plan = make_plan(job_of(train={"sequence_lengths": LONGER}))
    seen, due = 0, []
    while size := plan.step_size(seen):
        if plan.is_eval_due(seen, seen + size):
            due.append(plan.units.at(seen + size))
        seen += size
    assert due == [102_400 * number for number in range(1, 9)]


def test_a_short_step_of_longer_samples_is_a_batch_of_its_tokens() -> None:
    plan = make_plan(job_of(train={"sequence_lengths": LONGER, "num_samples": 1001}))
    places = range(plan.phases[1].start_samples, plan.total_samples)
    end = next(seen for seen in places if plan.step_size(seen) not in (0, 16, 8))
    step, phase = plan.step_phase(end), plan.phase_at(end)
    assert step.batch_ratio == pytest.approx(phase.batch_ratio * plan.step_size(end) / phase.global_batch_size)


def test_a_point_after_the_end_is_warned_of() -> None:
    late = [{"at": {"tokens": 10**9}, "tokens_per_sample": 128}]
    found = make_plan(job_of(train={"sequence_lengths": late})).warnings
    (warning,) = [warning for warning in found if warning.code == "longer_samples_after_end"]
    assert warning.message == (
        "Samples would get another length at 1B tokens, and the training takes 819k: no step begins there."
    )


# What is refused


@pytest.mark.parametrize(
    ("scale", "train", "problem", "remedy"),
    [
        (
            {"global_batch_size": 2000},
            {},
            "scale.global_batch_size = 2000 tokens is not a whole number of samples of 64 tokens.",
            "The nearest are 1984 and 2048.",
        ),
        (
            {"per_worker_batch_size": 32},
            {},
            "scale.per_worker_batch_size = 32 is below the 64 tokens of one sample: with train.unit = tokens, batch "
            "sizes are in tokens.",
            "For 32 samples, write 2048.",
        ),
        (
            {},
            {"tokens_per_sample": None},
            "train.unit = tokens, and the tokens of a sample are not known.",
            "Give train.tokens_per_sample, or return scaler.Recipe(tokens_per_sample=...).",
        ),
        (
            {},
            {"sequence_lengths": [{"at": {"tokens": 6400}, "tokens_per_sample": 192}]},
            "scale.global_batch_size = 2048 tokens is not a whole number of samples of 192 tokens, which "
            "train.sequence_lengths.0 gives them.",
            "The nearest are 1920 and 2112.",
        ),
        (
            {},
            {"sequence_lengths": [LONGER[1], LONGER[0]]},
            "train.sequence_lengths.1.at is 100k tokens, the point before 410k.",
            "Write the points in ascending order.\n"
            "Batch sizes in this message are in samples of 64 tokens; those of the job are in tokens.",
        ),
        (
            {"rule": "adam_sde", "global_batch_size": 4096 * TOKENS},
            {},
            "scale.rule = adam_sde needs batch_ratio * (1 - beta1) < 1, but 1024 * (1 - 0.9) = 102.4.",
            "Use betas: power, rule: sqrt, or a global batch of at most 39 (reference 4).\n"
            "Batch sizes in this message are in samples of 64 tokens; those of the job are in tokens.",
        ),
    ],
)
def test_batches_that_do_not_fit_are_refused(
    scale: dict[str, Any], train: dict[str, Any], problem: str, remedy: str
) -> None:
    with pytest.raises(PlanError) as caught:
        make_plan(job_of(scale=scale, train=train))
    assert (caught.value.problem, caught.value.remedy) == (problem, remedy)


@pytest.mark.parametrize(
    ("sections", "text"),
    [
        (
            {"train": {"unit": "samples", "tokens_per_sample": None, "tokens": None, "epochs": 1}},
            "job: schedule.warmup = {tokens: 40960}, and train.unit = samples.\n"
            "  Write train.unit: tokens, train.tokens_per_sample, and every batch size in tokens; or give "
            "schedule.warmup in samples.",
        ),
        (
            {"train": {"unit": "samples"}},
            "job: train.tokens_per_sample is given, and train.unit = samples.\n"
            "  Write train.unit: tokens, and every batch size in tokens; or leave it out.",
        ),
        (
            {"train": {"sequence_lengths": LONGER}, "schedule": {"warmup": {"epochs": 1}}},
            "job: schedule.warmup is in epochs, whose tokens train.sequence_lengths changes.\n"
            "  Give it in tokens, in steps or as a fraction.",
        ),
        (
            {"train": {"sequence_lengths": LONGER, "tokens": None, "steps": 10}},
            "job: train.steps = 10 is not a fixed number of samples: train.sequence_lengths changes them.\n"
            "  Give train.tokens, train.epochs or train.samples.",
        ),
        (
            {"train": {"sequence_lengths": [{"at": {"steps": 10}, "tokens_per_sample": 128}]}},
            "job: train.sequence_lengths.0.at = {steps: 10} is not a fixed number of samples.\n"
            "  Give it in tokens, samples or epochs.",
        ),
        (
            {"train": {"sequence_lengths": LONGER}, "scale": {"rule": "adascale"}},
            "job: train.sequence_lengths and scale.rule = adascale both change the samples of a step.\n"
            "  Leave one of them out.",
        ),
        (
            {
                "train": {"sequence_lengths": LONGER},
                "scale": {"num_workers": {"min": 1, "max": 2}, "global_batch_size": None},
            },
            "job: train.sequence_lengths needs a batch that does not follow the number of workers.\n"
            "  Leave train.sequence_lengths out, or give scale.global_batch_size.",
        ),
    ],
)
def test_keys_that_do_not_fit_the_unit_are_refused(sections: dict[str, Any], text: str) -> None:
    with pytest.raises(JobFileError) as caught:
        job_of(**sections)
    assert str(caught.value) == text


def test_the_timescale_of_weight_decay_is_a_share_of_the_trainings_tokens() -> None:
    longer = {"sequence_lengths": [{"at": {"tokens": 400_000}, "tokens_per_sample": 128}]}
    same, other = (make_plan(job_of(train=train)).reasons["weight_decay_timescale"] for train in ({}, longer))
    assert same == other


MIXED = {"sequence_lengths": [{"at": {"tokens": 400_000}, "tokens_per_sample": 128}]}


def test_a_schedule_that_ends_with_the_last_step_follows_the_tokens() -> None:
    one_cycle = {"name": "one_cycle"}
    same, longer = (make_plan(job_of(schedule=one_cycle, train=train)) for train in ({}, MIXED))
    ends = [round(plan.progress_at(plan.total_samples)) for plan in (same, longer)]
    assert ends[0] == ends[1]
    assert same.schedule == longer.schedule


def test_a_range_of_beta2_is_held_against_the_tokens_of_a_batch() -> None:
    scale = {"rule": "adam_sde", "beta2_range": [0.9, 0.9999], "global_batch_size": 4 * 4 * TOKENS}
    shorter = {"sequence_lengths": [{"at": {"tokens": 400_000}, "tokens_per_sample": TOKENS // 4}]}
    plan = make_plan(job_of(scale=scale, train=shorter))
    assert [phase.batch_ratio for phase in plan.phases] == [4.0, 4.0]
    assert "beta2_range_binds" not in [warning.code for warning in plan.warnings]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"train": {**MIXED, "stop_after": {"steps": 100}}}, "train.stop_after is in steps"),
        ({"train": MIXED, "groups": [{"match": "*", "freeze": {"fraction": 0.5}}]}, "groups.0.freeze is in fractions"),
    ],
)
def test_points_that_count_samples_are_refused_where_their_tokens_change(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(JobFileError, match=key):
        job_of(**changes)
