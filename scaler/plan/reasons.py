"""The texts of ``Plan.reasons``: why each number of a plan has its value."""

from scaler.core.scale import Scaled
from scaler.core.unit import shown
from scaler.job import Job
from scaler.plan.lengths import Lengths
from scaler.plan.model import Plan
from scaler.plan.weight_decay import decay_reason


def number_reasons(plan: Plan, job: Job, scaled: Scaled, lengths: Lengths) -> dict[str, str]:
    """Return field name -> reason, of the fields that follow from the plan itself.

    Args:
        plan: the plan, complete except for its reasons and warnings.
        job: the job that the plan is made from.
        scaled: the ratios and constants of the batch at the start of training.
        lengths: of the training.
    """
    units = lengths.units

    def text(samples: int) -> str:
        return units.number(samples, form="")

    grows_at_once = any(0 < phase.start_samples < plan.num_samples for phase in plan.phases)
    changed = "; ".join(f"{name} {reason}" for name, reason in scaled.reasons.items())
    may_scale = plan.is_measured or ("noise_scale" in plan.reacts and plan.rule != "none")
    scales = may_scale or any(phase.lr_ratio != 1.0 for phase in plan.phases)
    same = "as in the reference; only the learning rate is scaled" if scales else "as in the reference"
    return {
        "total_samples": _total_reason(plan, job, lengths),
        **_steps_reason(plan),
        **_ema_reason(plan, job),
        "batch_ratio": f"{text(plan.reference_batch_size)} -> {text(plan.global_batch_size)} {units.many}, "
        f"{_times(plan.batch_ratio)}",
        "lr_ratio": f"{_times(plan.lr_ratio)}: {plan.rule_reason}{_horizon(plan)}",
        **_decay_reason(plan, job),
        "peak_lr": f"{plan.base_lr:g} x {plan.lr_ratio:g}"
        + (f", times the measured gain of 1 to {plan.batch_ratio:.4g}" if plan.is_measured else ""),
        "steps_per_epoch": f"{text(plan.num_samples)} {units.many} in steps of {text(plan.global_batch_size)}"
        + (", changing within the epoch" if grows_at_once else _rest_reason(plan)),
        "optimizer": changed or same,
    }


def kappa_reason(plan: Plan) -> str:
    """Return how ``scale.horizon`` makes kappa of the batch and the length of the training; empty without it."""
    longer, before = plan.scaling.rule.horizon_ratio, plan.reference_samples
    if longer is None or before is None:
        return ""
    return (
        f"batch ratio {plan.batch_ratio:.4g} / length ratio {longer:.4g} ({plan.units.number(before)} -> "
        f"{plan.units.place(plan.total_samples)} {plan.units.many})"
    )


def _decay_reason(plan: Plan, job: Job) -> dict[str, str]:
    reason = decay_reason(plan, job)
    return {"weight_decay_timescale": reason} if reason else {}


def _horizon(plan: Plan) -> str:
    reason = kappa_reason(plan)
    return f"; the root of {plan.scaling.rule.kappa(plan.batch_ratio):.4g} = {reason}" if reason else ""


def _rest_reason(plan: Plan) -> str:
    """Return how the last samples of an epoch are used when they are fewer than a batch."""
    rest = plan.num_samples % plan.global_batch_size
    if not rest:
        return ""
    left = plan.units.number(rest, form="")
    if plan.last_batch == "scale":
        return f", the last of {left} at peak_lr {plan.scaling.short_step(plan.phases[0], rest).peak_lr:.4g}"
    return f"; {left} left out" if plan.last_batch == "drop" else f"; {left} carried into the next epoch"


def _ema_reason(plan: Plan, job: Job) -> dict[str, str]:
    if job.train.ema is None:
        return {}
    if not job.scale.co_scale.ema:
        return {"ema_decay": "as in the reference, per step"}
    rule = plan.scaling.rule
    power = "the measured gain" if plan.is_measured else f"{rule.kappa(plan.batch_ratio):.4g}"
    held = "in samples (Busbridge et al. 2023)" if rule.horizon_ratio is None else "as a share of the training"
    return {"ema_decay": f"{job.train.ema.decay:g} ** {power}: holds its memory {held}"}


def _total_reason(plan: Plan, job: Job, lengths: Lengths) -> str:
    train, units = job.train, lengths.units
    if train.epochs is not None:
        asked = f"epochs: {train.epochs:g}"
    else:
        asked = (
            f"steps: {train.steps}{lengths.both_readings(train)}"
            if train.steps is not None
            else f"samples: {train.samples}"
            if train.tokens is None
            else f"tokens: {shown(train.tokens)}"
        )
        asked += f", {plan.total_samples / plan.num_samples:.3g} epochs"
    if plan.is_measured:
        asked += f" of the reference's {units.many}; at most {units.place(plan.most_samples, form='')} of data"
    if plan.reference_samples is not None:
        longer = units.at(plan.total_samples) / units.size(plan.reference_samples)
        asked += "," if longer == 1 else f", {longer:.4g} times"
        asked += f" as long as the reference's training of {units.number(plan.reference_samples)} {units.many}"
    end = f"{units.place(plan.end_samples, form='')} {units.many}"
    return asked if plan.stop_samples is None else f"{asked}; this run stops after {end} of it"


def _steps_reason(plan: Plan) -> dict[str, str]:
    """Return the steps at a constant batch, if the batch changes."""
    before = plan.steps_at_first_batch
    if before is None:
        return {}
    steps = "step" if before == 1 else "steps"
    return {"total_steps": f"{before:,} {steps} at a constant batch of {plan.units.number(plan.global_batch_size)}"}


def _times(ratio: float) -> str:
    return f"{ratio:.4g}x"
