"""Each warning when it should appear, and when it nearly should."""

from collections.abc import Callable

import pytest

from scaler.job import Job
from scaler.plan import Plan, make_plan

Digits = Callable[..., Job]


def codes(plan: Plan) -> list[str]:
    return [warning.code for warning in plan.warnings]


def message(plan: Plan, code: str) -> str:
    (found,) = (warning.message for warning in plan.warnings if warning.code == code)
    return found


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
            "few_steps_per_epoch",
            ["scale.per_worker_batch_size=80", "reference.global_batch_size=161"],
            ["scale.per_worker_batch_size=80", "reference.global_batch_size=160"],  # nothing is scaled
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
            "slow_rule_for_sgd",
            ["scale.rule=sqrt"],
            ["scale.rule=sqrt", "reference.optimizer={name: adamw}"],  # where it belongs
        ),
        (
            "slow_rule_for_sgd",
            ["scale.rule=none"],
            ["scale.rule=none", "scale.co_scale={momentum: true}"],  # momentum makes up for the rate
        ),
        (
            "slow_rule_for_sgd",
            ["scale.rule=none", "reference.optimizer={name: 'torch.optim:SGD'}"],
            [
                "scale.rule=none",
                "reference.optimizer={name: 'torch.optim:SGD'}",
                "scale.per_worker_batch_size=4",
            ],  # down
        ),
        (
            "slow_rule_for_sgd",
            ["scale.rule=sqrt", "scale.per_worker_batch_size=9"],
            ["scale.rule=sqrt", "scale.per_worker_batch_size=8"],  # the reference itself
        ),
        (
            "milestone_in_warmup",
            ["schedule={name: multi_step, at: [{samples: 2873}], warmup: {epochs: 2}}"],
            ["schedule={name: multi_step, at: [{samples: 2874}], warmup: {epochs: 2}}"],  # at its end
        ),
        (
            "milestone_after_end",
            ["schedule={name: multi_step, at: [{epochs: 10}, {epochs: 15}]}"],  # of 15
            ["schedule={name: multi_step, at: [{epochs: 10}, {samples: 21554}]}"],
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


POINTS = "scale.batch_schedule={{name: points, points: [{}]}}"


@pytest.mark.parametrize(
    ("code", "overrides", "said"),
    [
        (
            "batch_exceeds_data",
            [
                POINTS.format(
                    "{at: {epochs: 2}, factor: 8}, {at: {epochs: 3}, factor: 11}, {at: {epochs: 4}, factor: 2}"
                )
            ],
            "The global batch of 1100, from sample 3000 on, is larger than the 1000 samples there are: "
            "each step takes all of them, and the rate is scaled for more.",
        ),
        (
            "few_steps_per_epoch",
            [POINTS.format("{at: {epochs: 2}, factor: 1.2}")],
            "An epoch has 9 steps at the global batch of 120, from sample 2000 on: "
            "large-batch rules were shown to hold for many more.",
        ),
        (  # at the reference's batch nothing is scaled, however large it is
            "few_steps_per_epoch",
            ["reference.global_batch_size=200", POINTS.format("{at: {epochs: 2}, factor: 2}")],
            "An epoch has 10 steps",
        ),
        (
            "batch_ratio_beyond_64",
            ["scale.batch_schedule={name: doubling, every: {epochs: 2}, max_global_batch_size: 1700}"],
            "The batch of 1600, from sample 8000 on, is 64 times the reference's",
        ),
        (
            "batch_ratio_beyond_64",
            ["scale.batch_schedule={name: doubling, every: {epochs: 1}, max_global_batch_size: 1700}"],
            "The batch of 1700, from sample 5000 on, is 68 times the reference's: "
            "no rule is known to hold so far out; tune once near it.",
        ),
        (
            "idle_workers",
            [POINTS.format("{at: {epochs: 1}, factor: 0.01}")],
            "The global batch of 1, from sample 1000 on, leaves 1 of 2 workers idle.",
        ),
    ],
)
def test_a_batch_that_grows_is_looked_at_where_it_is_largest(
    round_job: Digits, code: str, overrides: list[str], said: str
) -> None:
    found = {warning.code: warning.message for warning in make_plan(round_job(*overrides)).warnings}
    holds = not said.startswith(("An epoch has 10", "The batch of 1600"))  # on the limit, not beyond it
    assert found.get(code) == (said if holds else None)


@pytest.mark.parametrize(
    ("shown", "nearly", "said"),
    [
        (
            POINTS.format("{at: {epochs: 1}, factor: 2}, {at: {epochs: 10}, factor: 4}, {at: {epochs: 12}, factor: 8}"),
            POINTS.format("{at: {epochs: 1}, factor: 2}, {at: {epochs: 9}, factor: 4}"),
            "10000, 12000",
        ),
        (  # within the last step, which begins at 9900
            POINTS.format("{at: {samples: 9901}, factor: 2}"),
            POINTS.format("{at: {samples: 9900}, factor: 2}"),
            "9901",
        ),
        (
            "scale.batch_schedule={name: doubling, every: {epochs: 10}, max_global_batch_size: 400}",
            "scale.batch_schedule={name: doubling, every: {epochs: 9}, max_global_batch_size: 400}",
            "10000",
        ),
        (
            "scale.batch_schedule={name: noise_scale, every: {epochs: 11}, max_global_batch_size: 400}",
            "scale.batch_schedule={name: noise_scale, every: {epochs: 9}, max_global_batch_size: 400}",
            "11000",
        ),
    ],
)
def test_a_batch_that_would_grow_after_the_end_is_said(round_job: Digits, shown: str, nearly: str, said: str) -> None:
    assert message(make_plan(round_job(shown)), "batch_grows_after_end") == (
        f"The batch would grow at {said} samples, and the training takes 10000: no step begins there."
    )
    assert "batch_grows_after_end" not in codes(make_plan(round_job(nearly)))


def test_parameters_that_are_unfrozen_after_the_end_are_said(round_job: Digits) -> None:
    parameters = {"a": 1, "b": 1, "c": 1}

    def plan(at: str) -> Plan:
        entries = f"{{match: a, freeze: {{epochs: 1}}}}, {{match: b, freeze: {at}}}"
        return make_plan(round_job(f"groups=[{entries}]"), parameters=parameters)

    assert message(plan("{epochs: 10}"), "unfreezes_after_end") == (
        "Parameters are unfrozen at 10000 samples, and the training takes 10000: they are never trained."
    )
    assert "unfreezes_after_end" not in codes(plan("{samples: 9999}"))


def test_a_slow_rule_says_what_it_costs(digits: Digits) -> None:
    assert message(make_plan(digits("scale.rule=sqrt")), "slow_rule_for_sgd") == (
        "rule: sqrt raises sgd's rate 4 times for 16 times the batch: it learns less in as many epochs. "
        "At 32 times the batch ImageNet's error was 26.22% with sqrt, 41.67% with none and 23.74% with linear "
        "(Goyal et al. 2017)."
    )


def test_milestones_are_named_in_samples(digits: Digits) -> None:
    at = "[{epochs: 0.5}, {epochs: 1}, {epochs: 8}, {epochs: 30}, {epochs: 60}]"
    plan = make_plan(digits(f"schedule={{name: multi_step, at: {at}, warmup: {{epochs: 2}}}}"))
    assert message(plan, "milestone_in_warmup") == (
        "The schedule falls at 718, 1437 samples, and the warmup takes 2874: "
        "it falls at the warmup's end, and the peak rate is never reached."
    )
    assert message(plan, "milestone_after_end") == (
        "The schedule falls at 43110, 86220 samples, and the training takes 21555: it never comes to that."
    )


def test_what_divides_is_named_with_its_remedy(digits: Digits) -> None:
    plan = make_plan(digits("reference.optimizer={name: adamw}"))
    assert message(plan, "linear_rule_with_adaptive_optimizer") == (
        "adamw divides by the gradient's running size: rule: sqrt follows its batch noise (Malladi et al. 2022)."
    )
    plan = make_plan(digits("scale.global_batch_size=2", "scale.num_workers=3"))
    assert message(plan, "idle_workers") == "The global batch of 2 leaves 1 of 3 workers idle."
