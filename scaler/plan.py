"""From a job and a world size to a plan: every number resolved, each with its reason.

``make_plan`` is pure and loads neither torch nor Ray. What ``scaler plan`` prints is what ``scaler submit`` runs.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from scaler.core.batch import Batch, samples_in, step_size, steps_in, strong_batch, weak_batch
from scaler.core.rules import ADAPTIVE, choose_rule, lr_ratio
from scaler.core.schedules import schedule_factor
from scaler.errors import PlanError
from scaler.job.model import OPTIMIZER_OPTIONS, Job, Length, Warmup

SCHEMA_VERSION = 1
CURVE_POINTS = 200
AUTO_WARMUP = 5 / 90  # Goyal et al. 2017: 5 of 90 epochs


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanWarning:
    """Something that a careful person would look at before the run: a stable code, and a sentence."""

    code: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A job with every number resolved for one world size. Units: DESIGN's words; ``reasons`` explains each by name."""

    schema_version: int
    name: str
    world_size: int
    global_batch_size: int
    per_worker_batch_size: int
    grad_accum_steps: int
    reference_batch_size: int
    base_lr: float
    rule: str
    rule_reason: str
    batch_ratio: float
    lr_ratio: float
    peak_lr: float
    optimizer: Mapping[str, Any]
    schedule: str
    final_fraction: float
    warmup_start: float
    warmup_samples: int
    warmup_steps: int
    num_samples: int
    total_samples: int
    total_steps: int
    steps_per_epoch: int
    eval_every_samples: int
    checkpoint_every_samples: int
    lr_curve: tuple[tuple[int, float], ...]
    reasons: Mapping[str, str]
    warnings: tuple[PlanWarning, ...]

    def lr_at(self, samples_seen: int) -> float:
        """Return the learning rate of the step that starts after ``samples_seen`` samples."""
        return self.peak_lr * schedule_factor(
            samples_seen,
            name=self.schedule,
            total_samples=self.total_samples,
            warmup_samples=self.warmup_samples,
            warmup_start=self.warmup_start,
            final_fraction=self.final_fraction,
        )

    def step_size(self, samples_seen: int) -> int:
        """Return how many samples the step that starts after ``samples_seen`` takes, over all workers; 0 at the end."""
        return step_size(
            samples_seen,
            global_batch_size=self.global_batch_size,
            num_samples=self.num_samples,
            total_samples=self.total_samples,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON has it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the plan that ``to_dict`` wrote, in this or a later version: unknown fields are passed over."""
        known = {field.name: values[field.name] for field in fields(cls)}
        known["lr_curve"] = tuple((int(samples), float(lr)) for samples, lr in values["lr_curve"])
        known["warnings"] = tuple(PlanWarning(**warning) for warning in values["warnings"])
        return cls(**known)


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
    optimizer_name = reference.optimizer.name
    ratio = batch.global_batch_size / reference.global_batch_size
    rule, rule_reason = choose_rule(job.scale.rule, optimizer=optimizer_name)
    scaled = lr_ratio(rule, batch_ratio=ratio)
    peak_lr = reference.lr * scaled

    def in_samples(length: Length) -> int:
        """A length in samples; steps are walked, so that short last batches count as what they are."""
        if length.samples is not None:
            return length.samples
        if length.steps is not None:
            return samples_in(length.steps, global_batch_size=batch.global_batch_size, num_samples=num_samples)
        return max(1, round((length.epochs or 0.0) * num_samples))

    total_samples = in_samples(job.train)
    warmup_samples, warmup_start, warmup_reason = _warmup(job.schedule.warmup, scaled, total_samples, in_samples)

    def interval(length: Length) -> int:
        """How often something is due; a step counts as a whole global batch, so that the interval is one number."""
        return length.steps * batch.global_batch_size if length.steps is not None else in_samples(length)

    def steps(samples: int) -> int:
        return steps_in(samples, global_batch_size=batch.global_batch_size, num_samples=num_samples)

    def lr_at(samples_seen: int) -> float:
        return peak_lr * schedule_factor(
            samples_seen,
            name=job.schedule.name,
            total_samples=total_samples,
            warmup_samples=warmup_samples,
            warmup_start=warmup_start,
            final_fraction=job.schedule.final_fraction,
        )

    options = {**OPTIMIZER_OPTIONS.get(optimizer_name, {}), **reference.optimizer.options}
    total_steps, steps_per_epoch = steps(total_samples), steps(num_samples)
    return Plan(
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
        optimizer={"name": optimizer_name, "lr": peak_lr, **options},
        schedule=job.schedule.name,
        final_fraction=job.schedule.final_fraction,
        warmup_start=warmup_start,
        warmup_samples=warmup_samples,
        warmup_steps=steps(warmup_samples),
        num_samples=num_samples,
        total_samples=total_samples,
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        eval_every_samples=interval(job.train.eval_every),
        checkpoint_every_samples=interval(job.checkpoint.every),
        lr_curve=tuple((samples, lr_at(samples)) for samples in _curve_points(total_samples, warmup_samples)),
        reasons={
            "global_batch_size": batch_reason,
            "batch_ratio": f"{reference.global_batch_size} -> {batch.global_batch_size} samples, {_times(ratio)}",
            "lr_ratio": f"{_times(scaled)}: {rule_reason}",
            "peak_lr": f"{reference.lr:g} x {scaled:g}",
            "warmup_samples": warmup_reason,
            "schedule": _schedule_reason(job.schedule.name, job.schedule.final_fraction),
            "total_samples": _total_reason(job, total_samples / num_samples),
            "steps_per_epoch": f"{num_samples} samples in steps of {batch.global_batch_size}"
            + (f", the last of {rest}" if (rest := num_samples % batch.global_batch_size) else ""),
            "optimizer": "as in the reference; only the rate is scaled",
        },
        warnings=_warnings(
            rule=rule,
            optimizer=optimizer_name,
            ratio=ratio,
            batch=batch,
            num_samples=num_samples,
            steps_per_epoch=steps_per_epoch,
            warmup_samples=warmup_samples,
            total_samples=total_samples,
            world_size=world_size,
        ),
    )


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


def _warmup(warmup: Any, scaled: float, total_samples: int, in_samples: Any) -> tuple[int, float, str]:
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
    where = "from base_lr" if warmup.start == "base" else f"from {start:g} of the peak"
    if warmup.fraction is not None:
        samples = round(warmup.fraction * total_samples)
    elif 0 in (warmup.epochs, warmup.steps, warmup.samples):
        samples = 0
    else:
        samples = in_samples(warmup)
    unit = next(name for name in ("epochs", "steps", "samples", "fraction") if getattr(warmup, name) is not None)
    return samples, start, f"{unit}: {getattr(warmup, unit):g}, {where}"


def _curve_points(total_samples: int, warmup_samples: int) -> list[int]:
    """Where the curve is drawn: evenly, and at the corners."""
    even = {round(i * total_samples / CURVE_POINTS) for i in range(CURVE_POINTS + 1)}
    return sorted(even | ({warmup_samples} if warmup_samples <= total_samples else set()))


def _warnings(
    *,
    rule: str,
    optimizer: str,
    ratio: float,
    batch: Batch,
    num_samples: int,
    steps_per_epoch: int,
    warmup_samples: int,
    total_samples: int,
    world_size: int,
) -> tuple[PlanWarning, ...]:
    found: list[tuple[bool, str, str]] = [
        (
            warmup_samples >= total_samples,
            "warmup_exceeds_training",
            f"The warmup takes {warmup_samples} samples and the training {total_samples}: the peak rate is never reached.",
        ),
        (
            batch.global_batch_size > num_samples,
            "batch_exceeds_data",
            f"The global batch of {batch.global_batch_size} is larger than the {num_samples} samples there are: "
            f"each step takes all of them, and the rate is scaled for more.",
        ),
        (
            steps_per_epoch < 10,
            "few_steps_per_epoch",
            f"An epoch has {steps_per_epoch} steps: large-batch rules were shown to hold for many more.",
        ),
        (
            ratio > 64,
            "batch_ratio_beyond_64",
            f"The batch is {ratio:g} times the reference's: no rule is known to hold so far out; tune once near it.",
        ),
        (
            rule == "linear" and optimizer in ADAPTIVE and ratio != 1,
            "linear_rule_with_adaptive_optimizer",
            f"{optimizer} divides by the gradient's running size: rule: sqrt follows its batch noise (Malladi et al. 2022).",
        ),
        (
            batch.global_batch_size < world_size,
            "idle_workers",
            f"The global batch of {batch.global_batch_size} leaves {world_size - batch.global_batch_size} "
            f"of {world_size} workers without a sample.",
        ),
    ]
    return tuple(PlanWarning(code=code, message=message) for applies, code, message in found if applies)


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
