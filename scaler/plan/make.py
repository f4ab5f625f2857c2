"""``make_plan``: a job and a world size in, a plan out."""

from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

from scaler.core.batch import Batch, samples_in, steps_in, strong_batch, weak_batch
from scaler.core.rules import choose_rule, lr_ratio
from scaler.errors import PlanError
from scaler.job.model import OPTIMIZER_OPTIONS, Job, Length, Warmup
from scaler.plan.model import SCHEMA_VERSION, Plan
from scaler.plan.warnings import find_warnings

CURVE_POINTS = 200
AUTO_WARMUP = 5 / 90  # Goyal et al. 2017: 5 of 90 epochs


def make_plan(job: Job, world_size: int | None = None, *, num_samples: int | None = None) -> Plan:
    """Return the plan of ``job`` on ``world_size`` workers, always from the reference.

    Args:
        job: the job.
        world_size: workers, >= 1; None: as many as the job asks for at most.
        num_samples: size of the training set, where the job does not give it (``train.num_samples`` wins).

    Raises:
        PlanError: numbers that do not fit together; says which would.
    """
    world_size = job.scale.max_workers if world_size is None else world_size
    num_samples = job.train.num_samples if job.train.num_samples is not None else num_samples
    if num_samples is None:
        raise PlanError(
            "train.num_samples is missing, and the plan counts epochs in samples.",
            "Give the size of the training set: train.num_samples.",
        )
    batch, batch_reason = _batch(job, world_size)
    reference = job.reference
    ratio = batch.global_batch_size / reference.global_batch_size
    rule, rule_reason = choose_rule(job.scale.rule, optimizer=reference.optimizer.name)
    scaled = lr_ratio(rule, batch_ratio=ratio)
    peak_lr = reference.lr * scaled
    if not isfinite(peak_lr):
        raise PlanError(f"peak_lr = {reference.lr:g} x {scaled:g} is too large for a number.", "Lower reference.lr.")

    lengths = _Lengths(global_batch_size=batch.global_batch_size, num_samples=num_samples)
    total_samples = lengths.samples(job.train)
    warmup_samples, warmup_start, warmup_reason = _warmup(job.schedule.warmup, scaled, total_samples, lengths)
    plan = Plan(
        schema_version=SCHEMA_VERSION,
        name=job.name,
        world_size=world_size,
        global_batch_size=batch.global_batch_size,
        per_worker_batch_size=batch.per_worker_batch_size,
        grad_accum_steps=batch.grad_accum_steps,
        reference_batch_size=reference.global_batch_size,
        base_lr=reference.lr,
        rule=rule,
        rule_reason=rule_reason,
        batch_ratio=ratio,
        lr_ratio=scaled,
        peak_lr=peak_lr,
        optimizer=_optimizer(job, peak_lr),
        schedule=job.schedule.name,
        final_fraction=job.schedule.final_fraction,
        warmup_start=warmup_start,
        warmup_samples=warmup_samples,
        warmup_steps=lengths.steps(warmup_samples),
        num_samples=num_samples,
        total_samples=total_samples,
        total_steps=lengths.steps(total_samples),
        steps_per_epoch=lengths.steps(num_samples),
        eval_every_samples=lengths.interval(job.train.eval_every),
        checkpoint_every_samples=lengths.interval(job.checkpoint.every),
        lr_curve=(),
        reasons={},
        warnings=(),
    )
    points = _curve_points(total_samples, warmup_samples)
    return replace(
        plan,
        lr_curve=tuple((samples, plan.lr_at(samples)) for samples in points),
        reasons={
            "global_batch_size": batch_reason,
            "warmup_samples": warmup_reason,
            "total_samples": _total_reason(job, total_samples / num_samples),
            **_reasons(plan),
        },
        warnings=find_warnings(plan),
    )


def _optimizer(job: Job, peak_lr: float) -> dict[str, Any]:
    """The optimizer as it will be built, in the types that JSON has."""
    optimizer = job.reference.optimizer
    options = {**OPTIMIZER_OPTIONS.get(optimizer.name, {}), **optimizer.options}
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}
    return {"name": optimizer.name, "lr": peak_lr, **plain}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Lengths:
    """Turns lengths in any unit into samples, and samples into steps."""

    global_batch_size: int
    num_samples: int

    def samples(self, length: Length) -> int:
        """A length in samples; steps are walked, so that short last batches count as what they are."""
        if length.samples is not None:
            return length.samples
        if length.steps is not None:
            return samples_in(length.steps, global_batch_size=self.global_batch_size, num_samples=self.num_samples)
        return max(1, round((length.epochs or 0.0) * self.num_samples))

    def interval(self, length: Length) -> int:
        """How often something is due; a step counts as a whole global batch, so that the interval is one number."""
        return length.steps * self.global_batch_size if length.steps is not None else self.samples(length)

    def steps(self, samples: int) -> int:
        """Optimizer steps from the start of training to ``samples``."""
        return steps_in(samples, global_batch_size=self.global_batch_size, num_samples=self.num_samples)


def _reasons(plan: Plan) -> dict[str, str]:
    """Why the numbers are what they are, where the plan itself tells."""
    rest = plan.num_samples % plan.global_batch_size
    return {
        "batch_ratio": f"{plan.reference_batch_size} -> {plan.global_batch_size} samples, {_times(plan.batch_ratio)}",
        "lr_ratio": f"{_times(plan.lr_ratio)}: {plan.rule_reason}",
        "peak_lr": f"{plan.base_lr:g} x {plan.lr_ratio:g}",
        "schedule": _schedule_reason(plan.schedule, plan.final_fraction),
        "steps_per_epoch": f"{plan.num_samples} samples in steps of {plan.global_batch_size}"
        + (f", the last of {rest}" if rest else ""),
        "optimizer": "as in the reference; only the rate is scaled",
    }


def _batch(job: Job, world_size: int) -> tuple[Batch, str]:
    """The batch on ``world_size`` workers, and why it is so large."""
    scale = job.scale
    held = scale.on_resize == "hold_global_batch" and not isinstance(scale.num_workers, int)
    fixed = scale.global_batch_size
    if fixed is None and held:
        assert scale.per_worker_batch_size is not None  # the job's own check
        fixed = scale.max_workers * scale.per_worker_batch_size * (scale.grad_accum_steps or 1)
    if fixed is None:
        assert scale.per_worker_batch_size is not None  # the job's own check
        accum = scale.grad_accum_steps or 1
        batch = weak_batch(
            num_workers=world_size, per_worker_batch_size=scale.per_worker_batch_size, grad_accum_steps=accum
        )
        return batch, f"{_workers(world_size)} x {batch.per_worker_batch_size} samples x {_micro_steps(accum)}"
    batch = strong_batch(
        num_workers=world_size,
        global_batch_size=fixed,
        per_worker_batch_size=scale.per_worker_batch_size,
        grad_accum_steps=None if held else scale.grad_accum_steps,
    )
    why = (
        "fixed by scale.global_batch_size" if scale.global_batch_size else f"held, as on {_workers(scale.max_workers)}"
    )
    shared = f"{_workers(world_size)}, each up to {batch.per_worker_batch_size} samples x "
    return batch, f"{why}; {shared}{_micro_steps(batch.grad_accum_steps)}"


def _warmup(warmup: str | Warmup, scaled: float, total_samples: int, lengths: _Lengths) -> tuple[int, float, str]:
    """The warmup's length in samples, the share of the peak it starts at, and why."""
    from_base = min(1.0, 1.0 / scaled)
    if not isinstance(warmup, Warmup):
        if scaled <= 1.0:
            return 0, 1.0, "auto: none, for the rate is not scaled up"
        return (
            round(AUTO_WARMUP * total_samples),
            from_base,
            "auto: 5/90 of the training (Goyal et al. 2017), from base_lr",
        )
    start = from_base if warmup.start == "base" else float(warmup.start)
    where = "from base_lr" if warmup.start == "base" and scaled > 1.0 else f"from {start:g} of the peak"
    if warmup.fraction is not None:
        samples = round(warmup.fraction * total_samples)
    elif 0 in (warmup.epochs, warmup.steps, warmup.samples):
        samples = 0
    else:
        samples = lengths.samples(warmup)
    unit = next(name for name in ("epochs", "steps", "samples", "fraction") if getattr(warmup, name) is not None)
    return samples, start, f"{unit}: {getattr(warmup, unit):g}, {where}"


def _curve_points(total_samples: int, warmup_samples: int) -> list[int]:
    """Where the curve is drawn: evenly, and at the corners."""
    even = {round(i * total_samples / CURVE_POINTS) for i in range(CURVE_POINTS + 1)}
    return sorted(even | ({warmup_samples} if warmup_samples <= total_samples else set()))


def _total_reason(job: Job, epochs: float) -> str:
    train = job.train
    if train.epochs is not None:
        return f"epochs: {train.epochs:g}"
    asked = f"steps: {train.steps}" if train.steps is not None else f"samples: {train.samples}"
    return f"{asked}, {epochs:.3g} epochs"


def _schedule_reason(name: str, final_fraction: float) -> str:
    if name == "constant":
        return "the peak rate to the end"
    return f"half a cosine from the end of the warmup to {final_fraction:g} of the peak at the end"


def _times(ratio: float) -> str:
    return f"{ratio:.4g}x"


def _workers(number: int) -> str:
    return f"{number} worker{'s' if number != 1 else ''}"


def _micro_steps(number: int) -> str:
    return f"{number} micro-step{'s' if number != 1 else ''}"
