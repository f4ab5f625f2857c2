"""The plan: a frozen value that is the same in memory, in ``plan.json`` and on every worker."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import ceil
from operator import attrgetter
from typing import Any, Literal, Self

from scaler.core.batch import micro_batch_bounds
from scaler.core.rules import gain_exponent
from scaler.core.schedules import Schedule
from scaler.core.short_step import short_step_momentum
from scaler.core.steps import LastBatch, next_step, step_size
from scaler.errors import RunError
from scaler.plan.phase import Phase, Scaling, steps_to

SCHEMA_VERSION = 4

Purpose = Literal["train", "find_lr"]

_START = attrgetter("start_samples")


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanWarning:
    """Something to look at before the run: a stable code and a sentence."""

    code: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanGroup:
    """Parameters with the same learning rate, weight decay and freezing."""

    name: str  # the patterns that its parameters match
    lr_ratio: float  # its learning rate over ``Plan.lr_at``
    peak_lr: float  # at the batch at the start of training
    weight_decay: float | None  # at the reference's batch; None: the optimizer's
    frozen: bool  # at the start of training
    unfreeze_at: int | None  # samples; None: never
    num_parameters: int
    tensors: Mapping[str, int]  # parameter name -> number of elements


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A job with every number resolved for one world size; ``reasons`` has the reason of each number, by field name.

    Batch sizes and lengths are samples over all workers; fields that end in ``_s`` are seconds. If the batch changes in
    training, the fields that depend on it are those of the start of training, and ``phases`` has all values.

    ``peak_lr = base_lr * lr_ratio`` holds for every plan and every phase.
    """

    schema_version: int
    purpose: Purpose  # train: a training; find_lr: a learning-rate range test
    name: str
    world_size: int
    global_batch_size: int
    per_worker_batch_size: int
    grad_accum_steps: int
    reference_batch_size: int
    base_lr: float  # learning rate of the reference; in a range test, --max at the reference's batch
    rule: str
    rule_reason: str
    batch_ratio: float
    lr_ratio: float
    peak_lr: float
    optimizer: Mapping[str, Any]
    scaling: Scaling  # gives the numbers of any batch size
    schedule: Schedule
    warmup_samples: int
    warmup_steps: int
    num_samples: int
    last_batch: LastBatch  # how the last samples of an epoch are used when they are fewer than a batch
    total_samples: int  # with adascale, samples of the reference's training, which progress is counted in
    total_steps: int  # with adascale, the fewest that are possible
    steps_per_epoch: int
    eval_every_samples: int
    checkpoint_every_samples: int | None  # None: by time
    checkpoint_every_s: float | None  # None: by samples
    rewarmup_samples: int  # length of the climb after a resize that raises the learning rate; 0: none
    grow_every_samples: int | None  # how often the batch may follow the noise scale; None: it does not
    phases: tuple[Phase, ...]
    groups: tuple[PlanGroup, ...]
    reacts: tuple[str, ...]  # what may change the learning rate or the batch in training
    lr_curve: tuple[tuple[int, float], ...]
    reasons: Mapping[str, str]
    warnings: tuple[PlanWarning, ...]

    @property
    def is_measured(self) -> bool:
        """Whether progress is measured (``rule: adascale``); otherwise it is the samples seen."""
        return self.rule == "adascale"

    @property
    def is_preconditioned(self) -> bool:
        """Whether the noise is measured on the preconditioned gradient (``adascale`` with an adaptive optimizer)."""
        return self.is_measured and gain_exponent(self.optimizer["name"], rule=self.rule) != 1.0

    @property
    def most_samples(self) -> int:
        """The most samples that training may take; ``total_samples`` unless progress is measured."""
        if not self.is_measured:
            return self.total_samples
        return ceil(self.total_samples * max(1.0, self.batch_ratio))

    @property
    def parameters(self) -> Mapping[str, int]:
        """Name -> number of elements of every parameter that the plan was made for; empty without groups."""
        return {name: count for group in self.groups for name, count in group.tensors.items()}

    def phase_at(self, samples_seen: int) -> Phase:
        """Return the phase of the step that starts after ``samples_seen`` samples."""
        phases = self.phases
        if len(phases) == 1:
            return phases[0]
        return phases[bisect_right(phases, samples_seen, key=_START) - 1]

    def step_phase(self, samples_seen: int) -> Phase:
        """Return the phase of the step that starts after ``samples_seen`` samples, with the numbers of that step.

        A step of a whole batch has its phase's numbers. A shorter step is a batch of its own size: see
        ``Scaling.short_step``.
        """
        phase, size = self.phase_at(samples_seen), self.step_size(samples_seen)
        if size in (0, phase.global_batch_size):
            return phase
        return self.scaling.short_step(phase, size)

    def lr_at(self, samples_seen: int, *, progress: float | None = None) -> float:
        """Return the planned learning rate of the step that starts after ``samples_seen`` samples.

        What reacts in training (``reacts``) may change it. A short step, at the end of an epoch or of the training, has
        the learning rate of its own size.

        Args:
            samples_seen: samples that have contributed to the weights, over all workers; they choose the phase and the
                step's size.
            progress: the place in the schedule, in samples of the reference's training; None: ``samples_seen``.
        """
        return self.step_phase(samples_seen).peak_lr * self._factor(samples_seen, progress)

    def whole_step_lr_at(self, samples_seen: int, *, progress: float | None = None) -> float:
        """Return the learning rate that a step of a whole global batch would have if it started at ``samples_seen``."""
        return self.phase_at(samples_seen).peak_lr * self._factor(samples_seen, progress)

    def _factor(self, samples_seen: int, progress: float | None) -> float:
        return self.schedule.factor(samples_seen if progress is None else progress)

    def momentum_at(self, progress: float) -> float | None:
        """Return the momentum (Adam: beta1) of a whole step by the schedule; None: the optimizer's own."""
        return self.schedule.momentum(progress)

    def step_momentum(self, samples_seen: int, *, progress: float) -> float | None:
        """Return ``momentum_at(progress)`` of the step that starts after ``samples_seen``, at the size of that step."""
        momentum, whole = self.momentum_at(progress), self.phase_at(samples_seen).global_batch_size
        size = self.step_size(samples_seen)
        if momentum is None or size in (0, whole):
            return momentum
        return short_step_momentum(momentum, optimizer=self.optimizer["name"], share=size / whole)

    def step_size(self, samples_seen: int) -> int:
        """Return how many samples the step that starts after ``samples_seen`` takes, over all workers; 0 at the end.

        If progress is measured, progress decides when training ends, and the last step is a whole one.
        """
        return step_size(
            samples_seen,
            global_batch_size=self.phase_at(samples_seen).global_batch_size,
            num_samples=self.num_samples,
            total_samples=self._end(samples_seen),
            last_batch=self.last_batch,
        )

    def next_step(self, samples_seen: int) -> int:
        """Return where the next step begins: ``samples_seen``, or after the samples that ``last_batch: drop`` skips."""
        return next_step(
            samples_seen,
            global_batch_size=self.phase_at(samples_seen).global_batch_size,
            num_samples=self.num_samples,
            total_samples=self._end(samples_seen),
            last_batch=self.last_batch,
        )

    def _end(self, samples_seen: int) -> int:
        if not self.is_measured:
            return self.total_samples
        longest = max(self.num_samples, self.phase_at(samples_seen).global_batch_size)
        return samples_seen + 2 * longest  # further than any step

    def steps(self, samples_seen: int) -> int:
        """Return how many optimizer steps lead to ``samples_seen``."""
        phase = self.phase_at(samples_seen)
        return steps_to(samples_seen, phase, num_samples=self.num_samples, last_batch=self.last_batch)

    def micro_batch_bounds(self, step_samples: int, *, rank: int, samples_seen: int) -> list[tuple[int, int]]:
        """Return a worker's micro-batches of a step as bounds in the step's samples; empty if it has no samples."""
        return micro_batch_bounds(
            step_samples,
            world_size=self.world_size,
            rank=rank,
            grad_accum_steps=self.phase_at(samples_seen).grad_accum_steps,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain values for ``plan.json``."""
        return {**asdict(self), "schedule": self.schedule.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the plan that ``to_dict`` wrote.

        Raises:
            RunError: another version of scaler wrote it.
        """
        version = values["schema_version"]
        if version != SCHEMA_VERSION:
            raise RunError(
                f"plan.json has schema version {version}, and this scaler reads version {SCHEMA_VERSION}.",
                "Use the version of scaler that wrote it, or start a new run: scaler submit JOB.",
            )
        known = {field.name: values[field.name] for field in fields(cls)}
        known["lr_curve"] = tuple((int(samples), float(lr)) for samples, lr in values["lr_curve"])
        known["schedule"] = Schedule.from_dict(values["schedule"])
        known["reacts"] = tuple(values["reacts"])
        known["scaling"] = Scaling.from_dict(values["scaling"])
        known["phases"] = tuple(Phase(**phase) for phase in values["phases"])
        known["groups"] = tuple(PlanGroup(**group) for group in values["groups"])
        known["warnings"] = tuple(PlanWarning(**warning) for warning in values["warnings"])
        return cls(**known)
