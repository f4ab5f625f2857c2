"""What a careful person would look at before the run."""

from collections.abc import Iterator

from scaler.core.optimizers import ADAPTIVE, SGD_FAMILY
from scaler.core.rules import Scaled
from scaler.core.shapes import MultiStep
from scaler.plan.model import Plan, PlanWarning

FEW_STEPS = 10
FAR_RATIO = 64


def find_warnings(plan: Plan, scaled: Scaled) -> tuple[PlanWarning, ...]:
    """Return the warnings that apply to a plan, of which ``scaled`` is the start; their codes are stable."""
    found = (*_of_lengths(plan), *_of_the_batch(plan), *_of_the_rule(plan, scaled))
    return tuple(PlanWarning(code=code, message=message) for applies, code, message in found if applies)


def _of_lengths(plan: Plan) -> Iterator[tuple[bool, str, str]]:
    total, warmup = plan.total_samples, plan.warmup_samples
    yield (
        warmup >= total,
        "warmup_exceeds_training",
        f"The warmup takes {warmup} samples and the training {total}: the peak rate is never reached.",
    )
    places = plan.schedule.shape.at if isinstance(plan.schedule.shape, MultiStep) else ()
    early = [place for place in places if place < warmup]
    late = [place for place in places if place >= total]
    yield (
        bool(early),
        "milestone_in_warmup",
        f"The schedule falls at {_samples(early)}, and the warmup takes {warmup}: "
        "it falls at the warmup's end, and the peak rate is never reached.",
    )
    yield (
        bool(late),
        "milestone_after_end",
        f"The schedule falls at {_samples(late)}, and the training takes {total}: it never comes to that.",
    )


def _of_the_batch(plan: Plan) -> Iterator[tuple[bool, str, str]]:
    batch, per_epoch = plan.global_batch_size, plan.steps_per_epoch
    yield (
        batch > plan.num_samples,
        "batch_exceeds_data",
        f"The global batch of {batch} is larger than the {plan.num_samples} samples there are: "
        "each step takes all of them, and the rate is scaled for more.",
    )
    yield (
        per_epoch < FEW_STEPS and plan.batch_ratio != 1,
        "few_steps_per_epoch",
        f"An epoch has {per_epoch} step{'' if per_epoch == 1 else 's'}: "
        "large-batch rules were shown to hold for many more.",
    )
    yield (
        plan.batch_ratio > FAR_RATIO,
        "batch_ratio_beyond_64",
        f"The batch is {plan.batch_ratio:g} times the reference's: "
        "no rule is known to hold so far out; tune once near it.",
    )
    yield (
        batch < plan.world_size,
        "idle_workers",
        f"The global batch of {batch} leaves {plan.world_size - batch} of {plan.world_size} workers idle.",
    )


def _of_the_rule(plan: Plan, scaled: Scaled) -> Iterator[tuple[bool, str, str]]:
    optimizer = plan.optimizer["name"]
    yield (
        plan.rule == "linear" and optimizer in ADAPTIVE and plan.batch_ratio != 1,
        "linear_rule_with_adaptive_optimizer",
        f"{optimizer} divides by the gradient's running size: "
        "rule: sqrt follows its batch noise (Malladi et al. 2022).",
    )
    yield (
        plan.rule in ("sqrt", "none")
        and optimizer in SGD_FAMILY
        and plan.batch_ratio > 1
        and "momentum" not in scaled.constants,  # which makes up for the rate
        "slow_rule_for_sgd",
        f"rule: {plan.rule} raises {optimizer}'s rate {plan.lr_ratio:.4g} times for {plan.batch_ratio:.4g} times the "
        "batch: it learns less in as many epochs. At 32 times the batch ImageNet's error was 26.22% with sqrt, "
        "41.67% with none and 23.74% with linear (Goyal et al. 2017).",
    )


def _samples(places: list[int]) -> str:
    return ", ".join(map(str, places)) + " samples"
