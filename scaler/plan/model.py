"""The plan: a frozen value, the same in memory, in ``plan.json`` and on every worker."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from scaler.core.batch import micro_batch_bounds, step_size
from scaler.core.schedules import schedule_factor

SCHEMA_VERSION = 1


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

    def micro_batch_bounds(self, step_samples: int, *, rank: int) -> list[tuple[int, int]]:
        """Return a worker's micro-batches of a step, as bounds in the step's samples; empty for an empty share."""
        return micro_batch_bounds(
            step_samples, world_size=self.world_size, rank=rank, grad_accum_steps=self.grad_accum_steps
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON has it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the plan that ``to_dict`` wrote, in this or a later version: unknown fields are passed over."""
        known = {field.name: values[field.name] for field in fields(cls)}
        known["lr_curve"] = tuple((int(samples), float(lr)) for samples, lr in values["lr_curve"])
        known["warnings"] = tuple(
            PlanWarning(code=warning["code"], message=warning["message"]) for warning in values["warnings"]
        )
        return cls(**known)
