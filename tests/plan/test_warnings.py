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
            ["scale.per_worker_batch_size=80", "reference.global_batch_size=114"],
            ["scale.per_worker_batch_size=80", "reference.global_batch_size=115"],  # next to nothing is scaled
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
            ["scale.rule=none", "scale.co_scale={momentum: true}"],  # momentum replaces the learning rate
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
            "linear_rule_with_adaptive_optimizer",
            ["reference.optimizer={name: adam}", "scale.per_worker_batch_size=16"],
            ["reference.optimizer={name: adam}", "scale.per_worker_batch_size=15"],
        ),
        (
            "linear_rule_with_adaptive_optimizer",
            ["reference.optimizer={name: adam}", "scale.per_worker_batch_size=4"],  # 1/2
            ["reference.optimizer={name: adam}", "reference.global_batch_size=63", "scale.per_worker_batch_size=32"],
        ),
        (
            "fast_rule_for_sgd",
            ["scale.rule=none", "scale.per_worker_batch_size=5"],
            ["scale.rule=none", "scale.per_worker_batch_size=6"],
        ),
        (
            "fast_rule_for_sgd",
            ["scale.rule=sqrt", "scale.per_worker_batch_size=4"],
            ["scale.rule=linear", "scale.per_worker_batch_size=4"],  # holds it
        ),
        (
            "batch_ratio_beyond_64",
            ["reference.global_batch_size=1025", "scale.per_worker_batch_size=8"],
            ["reference.global_batch_size=1024", "scale.per_worker_batch_size=8"],  # 1/64
        ),
        (
            "ema_not_scaled",
            ["train.ema={decay: 0.999}", "scale.per_worker_batch_size=32"],  # 4 times
            ["train.ema={decay: 0.999}", "scale.per_worker_batch_size=31"],
        ),
        (
            "ema_not_scaled",
            ["train.ema={decay: 0.999}", "scale.per_worker_batch_size=2"],  # 1/4
            ["train.ema={decay: 0.999}", "scale.per_worker_batch_size=32", "scale.co_scale={ema: true}"],
        ),
        (
            "weight_decay_timescale_moved",
            ["scale.rule=sqrt", "reference.optimizer={name: adamw}", "scale.per_worker_batch_size=32"],
            ["scale.rule=sqrt", "reference.optimizer={name: adamw}", "scale.per_worker_batch_size=31"],  # 1.97 times
        ),
        (
            "weight_decay_timescale_moved",
            ["scale.rule=sqrt", "reference.optimizer={name: adamw}"],
            ["scale.rule=sqrt", "reference.optimizer={name: adamw}", "scale.co_scale={weight_decay: true}"],
        ),
        (
            "weight_decay_timescale_moved",
            ["scale.rule=sqrt", "reference.optimizer={name: 'torch.optim:Muon', weight_decay: 0.1}"],  # decoupled
            ["scale.rule=sqrt", "reference.optimizer={name: 'torch.optim:Muon', weight_decay: 0.0}"],
        ),
        (
            "weight_decay_timescale_moved",
            ["scale.rule=none", "reference.optimizer={name: sgd, momentum: 0.9, weight_decay: 0.001}"],
            [  # the momentum holds it
                "scale.rule=none",
                "reference.optimizer={name: sgd, momentum: 0.9, weight_decay: 0.001}",
                "scale.co_scale={momentum: true}",
            ],
        ),
        (
            "weight_decay_timescale_moved",
            ["scale.rule=sqrt", "reference.optimizer={name: adamw}"],
            ["scale.rule=sqrt", "reference.optimizer={name: adam, weight_decay: 0.01}"],  # has none
        ),
        (
            "clipping_with_scaled_lr",
            ["train.clip_grad_norm=1", "scale.per_worker_batch_size=16"],
            ["train.clip_grad_norm=1", "scale.per_worker_batch_size=15"],
        ),
        (
            "clipping_with_scaled_lr",
            ["train.clip_grad_norm=1", "scale.rule=adascale"],
            ["train.clip_grad_norm=1", "scale.rule=none"],
        ),
        (
            "averages_too_short",
            ["reference.optimizer={name: adam}", "scale.rule=adam_sde", "scale.betas=power"],  # 0.9 ** 16
            ["reference.optimizer={name: adam, betas: [0.99, 0.999]}", "scale.rule=adam_sde", "scale.betas=power"],
        ),
        (
            "averages_too_short",
            ["reference.optimizer={name: adam, betas: [0.99, 0.99]}", "scale.rule=adam_sde"],  # 0.84
            ["reference.optimizer={name: adam, betas: [0.99, 0.99]}", "scale.rule=sqrt"],
        ),
        (
            "averages_too_short",
            ["reference.optimizer={name: adam, betas: [0.99, 0.95]}", "scale.rule=adam_sde", "scale.betas=power"],
            [  # as short in the reference, which is known good
                "reference.optimizer={name: adam, betas: [0.0, 0.9]}",
                "scale.rule=adam_sde",
                "scale.betas=power",
            ],
        ),
        (
            "averages_too_short",
            ["reference.optimizer={name: rmsprop, alpha: 0.99}", "scale.rule=adam_sde"],
            ["reference.optimizer={name: rmsprop, alpha: 0.999}", "scale.rule=adam_sde"],
        ),
        (
            "averages_too_short",
            ["train.ema={decay: 0.9}", "scale.co_scale={ema: true}"],
            ["train.ema={decay: 0.99}", "scale.co_scale={ema: true}"],
        ),
        (
            "momentum_remembers_long",
            ["scale.rule=none", "scale.co_scale={momentum: true}", "scale.per_worker_batch_size=81"],
            ["scale.rule=none", "scale.co_scale={momentum: true}", "scale.per_worker_batch_size=80"],  # 0.99
        ),
        (
            "slow_rule_for_sgd",
            ["scale.rule=sqrt", "scale.per_worker_batch_size=16"],  # 0.71 of the learning rate per sample
            ["scale.rule=sqrt", "scale.per_worker_batch_size=15"],  # learning rates so close are not distinguished
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
        "warmup_exceeds_training": "The warmup takes 2874 samples and the training 1437: the peak learning rate "
        "is never reached.",
        "batch_exceeds_data": "The global batch of 1600 is larger than the training set of 1437 samples: each "
        "step takes all samples, at the learning rate for that number.",
        "few_steps_per_epoch": "An epoch has 1 step: the papers tested their rules with many more.",
        "batch_ratio_beyond_64": "The batch is 100 times the reference's: no rule is known to hold at this "
        "ratio. Tune a reference with a batch size near it.",
    }


POINTS = "scale.batch_schedule={{name: points, points: [{}]}}"


@pytest.mark.parametrize(
    ("code", "overrides", "text"),
    [
        (
            "batch_exceeds_data",
            [
                POINTS.format(
                    "{at: {epochs: 2}, factor: 8}, {at: {epochs: 3}, factor: 11}, {at: {epochs: 4}, factor: 2}"
                )
            ],
            "The global batch of 1100, from sample 3000 on, is larger than the training set of 1000 samples: "
            "each step takes all samples, at the learning rate for that number.",
        ),
        (
            "few_steps_per_epoch",
            [POINTS.format("{at: {epochs: 2}, factor: 1.2}")],
            "An epoch has 9 steps at the global batch of 120, from sample 2000 on: the papers tested their rules "
            "with many more.",
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
            "The batch of 1700, from sample 5000 on, is 68 times the reference's: no rule is known to hold at "
            "this ratio. Tune a reference with a batch size near it.",
        ),
        (
            "idle_workers",
            [POINTS.format("{at: {epochs: 1}, factor: 0.01}")],
            "The global batch of 1, from sample 1000 on, leaves 1 of 2 workers idle.",
        ),
    ],
)
def test_a_batch_that_grows_is_looked_at_where_it_is_largest(
    round_job: Digits, code: str, overrides: list[str], text: str
) -> None:
    found = {warning.code: warning.message for warning in make_plan(round_job(*overrides)).warnings}
    holds = not text.startswith(("An epoch has 10", "The batch of 1600"))  # on the limit, not beyond it
    assert found.get(code) == (text if holds else None)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    "overrides",
    [
        ["scale.rule=sqrt"],
        ["scale.rule=none", "train.ema={decay: 0.999}", "train.clip_grad_norm=1"],
        ["reference.optimizer={name: adamw}"],
        ["reference.optimizer={name: adamw, weight_decay: 0.1}", "scale.rule=none"],
        ["reference.optimizer={name: adam}", "scale.rule=adam_sde", "scale.betas=power"],
    ],
)
def test_a_batch_that_is_nearly_the_references_has_no_warnings(
    digits: Digits, overrides: list[str], workers: int
) -> None:
    for size in (64, 62, 63):  # ratios of 1.016, 0.984 and 1
        batch = [
            "reference.global_batch_size=63",
            "scale.per_worker_batch_size=null",
            f"scale.global_batch_size={size}",
        ]
        assert make_plan(digits(*batch, *overrides), workers).warnings == ()


FAR = ["reference.global_batch_size=16", "scale.per_worker_batch_size=512"]  # 64 times


@pytest.mark.parametrize(
    ("overrides", "code", "text"),
    [
        (
            ["reference.global_batch_size=8192", "scale.per_worker_batch_size=1"],
            "batch_ratio_beyond_64",
            (
                "The batch is 1/4096 of the reference's: no rule is known to hold at this ratio. Tune a reference "
                "with a batch size near it."
            ),
        ),
        (
            ["scale.rule=none", "scale.per_worker_batch_size=1"],
            "fast_rule_for_sgd",
            "At 1/8 of the reference's batch rule: none gives sgd 8 times the reference's learning rate per sample: it "
            "may be too high. rule: linear holds it (Goyal et al. 2017).",
        ),
        (
            [*FAR, "train.ema={decay: 0.999}"],
            "ema_not_scaled",
            "At 64 times the reference's batch train.ema remembers 1,023,488 samples, 64 times the reference's, "
            "because every step keeps 0.999 of the average. scale.co_scale.ema: true holds its memory (Busbridge "
            "et al. 2023).",
        ),
        (
            [*FAR, "scale.rule=auto", "reference.lr=0.001", "reference.optimizer={name: adamw, weight_decay: 0.1}"],
            "weight_decay_timescale_moved",
            "At 64 times the reference's batch adamw's weight decay has a timescale of 1,280,000 samples, 8 times the "
            "reference's. scale.co_scale.weight_decay: true holds it (Wang and Aitchison 2024).",
        ),
        (
            ["train.clip_grad_norm=1", "scale.per_worker_batch_size=256"],
            "clipping_with_scaled_lr",
            "At 32 times the reference's batch a step that train.clip_grad_norm = 1 clips is 32 times as long, "
            "and fewer steps are clipped, because the gradient's norm is smaller. rule: linear holds only for "
            "steps that are not clipped. Look at the recorded gradient norms near this batch, and tune the "
            "clipping there.",
        ),
        (
            ["train.clip_grad_norm=1", "scale.per_worker_batch_size=2"],  # a quarter of the reference's batch
            "clipping_with_scaled_lr",
            "At 1/4 of the reference's batch a step that train.clip_grad_norm = 1 clips is 0.25 times as long, and "
            "more steps are clipped, because the gradient's norm is larger. rule: linear holds only for steps that are "
            "not clipped. Look at the recorded gradient norms near this batch, and tune the clipping there.",
        ),
        (
            ["train.clip_grad_norm=1", "reference.optimizer={name: adamw}", "scale.rule=sqrt"],
            "clipping_with_scaled_lr",
            "At 16 times the reference's batch and train.clip_grad_norm = 1, fewer steps are clipped, because the "
            "gradient's norm is smaller. adamw divides by the size of its gradients, so the clip does not limit the "
            "length of a step: it lowers the weight of large gradients in the running averages. Look at the recorded "
            "gradient norms near this batch, and tune the clipping there.",
        ),
        (
            [
                "train.clip_grad_norm=1",
                "reference.optimizer={name: adamw}",
                "scale={horizon: true, num_workers: 1, per_worker_batch_size: 16}",  # the reference's own batch
                "reference.epochs=1",
            ],
            "clipping_with_scaled_lr",
            "At the reference's batch and train.clip_grad_norm = 1, as many steps are clipped as in the "
            "reference. adamw divides by the size of its gradients, so the clip does not limit the length of a step: "
            "it lowers the weight of large gradients in the running averages. Look at the recorded gradient norms near "
            "this batch, and tune the clipping there.",
        ),
        (
            ["train.clip_grad_norm=1", "reference.optimizer={name: 'my_pkg:Mine'}"],
            "clipping_with_scaled_lr",
            "At 16 times the reference's batch and train.clip_grad_norm = 1, fewer steps are clipped, because the "
            "gradient's norm is smaller. If the step of my_pkg:Mine is proportional to the gradient, a clipped step is "
            "16 times as long. Look at the recorded gradient norms near this batch, and tune the clipping there.",
        ),
        (
            [*FAR, "scale.rule=none", "scale.co_scale={momentum: true}"],
            "momentum_remembers_long",
            "At 64 times the reference's batch scale.co_scale.momentum gives a momentum of 0.9984, which "
            "averages over 640 steps. Raising it with the batch lost accuracy (Smith et al. 2018): rule: linear "
            "raises the learning rate instead.",
        ),
        (
            [*FAR, "reference.optimizer={name: adam}", "scale.rule=adam_sde", "scale.betas=power"],
            "averages_too_short",
            "At 64 times the reference's batch beta1 = 0.00118 averages over 1 step and beta2 = 0.938 averages "
            "over 16 steps: too few for an average. Use a smaller batch, or a reference with a larger one.",
        ),
    ],
)
def test_each_warning_of_a_batch_far_from_the_references_says_by_how_much(
    digits: Digits, overrides: list[str], code: str, text: str
) -> None:
    assert message(make_plan(digits(*overrides)), code) == text


GROWING = {
    "points": (POINTS.format("{at: {epochs: 1}, factor: 16}"), "from sample 1000 on"),
    "doubling": (
        "scale.batch_schedule={name: doubling, every: {epochs: 1}, max_global_batch_size: 800}",
        "from sample 4000 on",
    ),
    "noise_scale": (
        "scale.batch_schedule={name: noise_scale, max_global_batch_size: 800}",
        "if the noise scale lets it grow so far",
    ),
}


@pytest.mark.parametrize("growth", GROWING)
@pytest.mark.parametrize(
    ("code", "overrides", "start"),
    [
        ("linear_rule_with_adaptive_optimizer", ["reference.optimizer={name: adamw}"], "adamw divides"),
        ("slow_rule_for_sgd", ["scale.rule=sqrt"], "rule: sqrt raises"),
        ("ema_not_scaled", ["train.ema={decay: 0.99}"], "At 16 times"),
        (
            "weight_decay_timescale_moved",
            ["reference.optimizer={name: adamw, weight_decay: 0.1}", "scale.rule=sqrt"],
            "At 16 times",
        ),
        ("clipping_with_scaled_lr", ["train.clip_grad_norm=1"], "At 16 times"),
        (
            "averages_too_short",
            ["reference.optimizer={name: adam}", "scale.rule=adam_sde", "scale.betas=power"],
            "At 16 times",
        ),
        ("momentum_remembers_long", ["scale.rule=none", "scale.co_scale={momentum: true}"], "At 16 times"),
        ("batch_ratio_beyond_64", ["reference.global_batch_size=12"], "The batch of 800"),
    ],
)
def test_effects_of_later_batches_are_reported_with_their_start(
    round_job: Digits, growth: str, code: str, overrides: list[str], start: str
) -> None:
    """The start is the reference's own batch, 50, and it grows to 16 times that."""
    schedule, when = GROWING[growth]
    base = ["reference.global_batch_size=50", "scale.per_worker_batch_size=25", "scale.global_batch_size=50"]
    plan = make_plan(round_job(*base, schedule, *overrides))
    assert code not in codes(make_plan(round_job(*base, *overrides)))
    text = message(plan, code)
    assert text.startswith(start)
    assert when in text


def test_a_constant_lr_while_the_batch_grows_is_no_warning(round_job: Digits) -> None:
    """Smith et al. 2018: a batch that grows under rule: none replaces a learning rate that falls."""
    base = ["reference.global_batch_size=100", "scale.rule=none", GROWING["points"][0]]
    sgd = "reference.optimizer={name: sgd, momentum: 0.9, weight_decay: 0.001}"
    assert {"slow_rule_for_sgd", "weight_decay_timescale_moved"}.isdisjoint(codes(make_plan(round_job(*base, sgd))))


@pytest.mark.parametrize(
    ("shown", "nearly", "text"),
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
def test_a_batch_that_would_grow_after_the_end_is_a_warning(
    round_job: Digits, shown: str, nearly: str, text: str
) -> None:
    assert message(make_plan(round_job(shown)), "batch_grows_after_end") == (
        f"The batch would grow at {text} samples, and the training takes 10000: no step begins there."
    )
    assert "batch_grows_after_end" not in codes(make_plan(round_job(nearly)))


def test_parameters_that_are_unfrozen_after_the_end_are_a_warning(round_job: Digits) -> None:
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
        "rule: sqrt raises sgd's learning rate 4 times for 16 times the batch: it learns less in the same number "
        "of epochs. At 32 times the batch, ImageNet's error was 26.22% with sqrt, 41.67% with none and 23.74% "
        "with linear (Goyal et al. 2017)."
    )


def test_milestones_are_named_in_samples(digits: Digits) -> None:
    at = "[{epochs: 0.5}, {epochs: 1}, {epochs: 8}, {epochs: 30}, {epochs: 60}]"
    plan = make_plan(digits(f"schedule={{name: multi_step, at: {at}, warmup: {{epochs: 2}}}}"))
    assert message(plan, "milestone_in_warmup") == (
        "The schedule falls at 718, 1437 samples, and the warmup takes 2874: it falls at the warmup's end, and "
        "the peak learning rate is never reached."
    )
    assert message(plan, "milestone_after_end") == (
        "The schedule falls at 43110, 86220 samples, and the training takes 21555: these falls are never reached."
    )


def test_what_divides_is_named_with_its_remedy(digits: Digits) -> None:
    plan = make_plan(digits("reference.optimizer={name: adamw}"))
    assert message(plan, "linear_rule_with_adaptive_optimizer") == (
        "adamw divides the gradient by its running size, and rule: linear is for optimizers that do not: use "
        "rule: sqrt (Malladi et al. 2022)."
    )
    plan = make_plan(digits("scale.global_batch_size=2", "scale.num_workers=3"))
    assert message(plan, "idle_workers") == "The global batch of 2 leaves 1 of 3 workers idle."
