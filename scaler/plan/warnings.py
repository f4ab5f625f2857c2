"""What a careful person would look at before the run."""

from scaler.core.rules import ADAPTIVE
from scaler.plan.model import Plan, PlanWarning

FEW_STEPS = 10
FAR_RATIO = 64


def find_warnings(plan: Plan) -> tuple[PlanWarning, ...]:
    """Return the warnings that apply to a plan; their codes are stable."""
    batch, optimizer, per_epoch = plan.global_batch_size, plan.optimizer["name"], plan.steps_per_epoch
    found: list[tuple[bool, str, str]] = [
        (
            plan.warmup_samples >= plan.total_samples,
            "warmup_exceeds_training",
            f"The warmup takes {plan.warmup_samples} samples and the training {plan.total_samples}: "
            "the peak rate is never reached.",
        ),
        (
            batch > plan.num_samples,
            "batch_exceeds_data",
            f"The global batch of {batch} is larger than the {plan.num_samples} samples there are: "
            "each step takes all of them, and the rate is scaled for more.",
        ),
        (
            per_epoch < FEW_STEPS,
            "few_steps_per_epoch",
            f"An epoch has {per_epoch} step{'' if per_epoch == 1 else 's'}: "
            "large-batch rules were shown to hold for many more.",
        ),
        (
            plan.batch_ratio > FAR_RATIO,
            "batch_ratio_beyond_64",
            f"The batch is {plan.batch_ratio:g} times the reference's: "
            "no rule is known to hold so far out; tune once near it.",
        ),
        (
            plan.rule == "linear" and optimizer in ADAPTIVE and plan.batch_ratio != 1,
            "linear_rule_with_adaptive_optimizer",
            f"{optimizer} divides by the gradient's running size: "
            "rule: sqrt follows its batch noise (Malladi et al. 2022).",
        ),
        (
            batch < plan.world_size,
            "idle_workers",
            f"The global batch of {batch} leaves {plan.world_size - batch} of {plan.world_size} workers idle.",
        ),
    ]
    return tuple(PlanWarning(code=code, message=message) for applies, code, message in found if applies)
