"""The plan: a frozen value, the same in memory, in ``plan.json`` and on every worker."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import ceil
from operator import attrgetter
from typing import Any, Self

from scaler.core.batch import micro_batch_bounds, step_size, steps_between
from scaler.core.noise_scale import NoiseScaleAverage
from scaler.core.rules import gain_exponent
from scaler.core.schedules import Schedule

SCHEMA_VERSION = 2

_START = attrgetter("start_samples")


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanWarning:
    """Something that a careful person would look at before the run: a stable code, and a sentence."""

    code: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """A stretch of training at one global batch, with what the rule makes of it. Most plans have one."""

    start_samples: int  # where its first step begins
    start_steps: int  # optimizer steps before it
    global_batch_size: int
    per_worker_batch_size: int
    grad_accum_steps: int
    batch_ratio: float
    lr_ratio: float
    peak_lr: float
    weight_decay_ratio: float  # of the groups' own weight decay; in ``optimizer`` it is there already
    ema_decay: float | None  # of train.ema, per step; None without it
    optimizer: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanGroup:
    """Parameters that are treated alike."""

    name: str  # the patterns that make it
    lr_ratio: float  # their rate over ``Plan.lr_at``
    peak_lr: float  # at the start's batch
    weight_decay: float | None  # at the reference's batch; None: the optimizer's
    frozen: bool  # at the start
    unfreeze_at: int | None  # samples; None: never
    num_parameters: int
    tensors: Mapping[str, int]  # parameter name -> number of elements


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A job with every number resolved for one world size. Units: DESIGN's words; ``reasons`` explains each by name.

    Where the batch grows, the numbers that depend on it are those of the start; ``phases`` has them all.
    """

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
    schedule: Schedule
    warmup_samples: int
    warmup_steps: int
    num_samples: int
    total_samples: int  # with adascale, of the reference's training: progress is counted in these
    total_steps: int  # with adascale, the fewest there can be
    steps_per_epoch: int
    eval_every_samples: int
    checkpoint_every_samples: int | None  # None: by time
    checkpoint_every_s: float | None
    rewarmup_samples: int  # the climb after a resize that raises the rate; 0: none
    grow_every_samples: int | None  # how often the batch may follow the noise scale; None: it does not
    phases: tuple[Phase, ...]
    groups: tuple[PlanGroup, ...]
    reacts: tuple[str, ...]  # what may change the rate or the batch in training, by what it measures
    lr_curve: tuple[tuple[int, float], ...]
    reasons: Mapping[str, str]
    warnings: tuple[PlanWarning, ...]

    @property
    def is_measured(self) -> bool:
        """Whether progress is measured (``rule: adascale``) instead of being the samples seen."""
        return self.rule == "adascale"

    @property
    def is_preconditioned(self) -> bool:
        """Whether the noise is measured of the gradient as the optimizer divides it (``adascale`` beside Adam)."""
        return self.is_measured and gain_exponent(self.optimizer["name"], rule=self.rule) != 1.0

    def noise_average(self) -> NoiseScaleAverage:
        """Return the average of the noise scale that a run of this plan begins with."""
        return NoiseScaleAverage.of_adascale(self.batch_ratio) if self.is_measured else NoiseScaleAverage()

    @property
    def most_samples(self) -> int:
        """The most samples that the training may take; ``total_samples`` unless progress is measured."""
        if not self.is_measured:
            return self.total_samples
        return ceil(self.total_samples * max(1.0, self.batch_ratio))

    @property
    def parameters(self) -> Mapping[str, int]:
        """Name -> number of elements of every parameter, as the plan was made for; empty without groups."""
        return {name: count for group in self.groups for name, count in group.tensors.items()}

    def phase_at(self, samples_seen: int) -> Phase:
        """Return the phase of the step that starts after ``samples_seen`` samples."""
        phases = self.phases
        if len(phases) == 1:
            return phases[0]
        return phases[bisect_right(phases, samples_seen, key=_START) - 1]

    def lr_at(self, samples_seen: int, *, progress: float | None = None) -> float:
        """Return the rate of the step that starts after ``samples_seen`` samples, before anything that reacts.

        Args:
            samples_seen: samples in the weights, over all workers; they choose the phase.
            progress: where the schedule is, in samples of the reference's training; None: ``samples_seen``.
        """
        factor = self.schedule.factor(samples_seen if progress is None else progress)
        return self.phase_at(samples_seen).peak_lr * factor

    def momentum_at(self, progress: float) -> float | None:
        """Return the momentum (Adam: beta1) that the schedule asks for; None: the optimizer's own."""
        return self.schedule.momentum(progress)

    def step_size(self, samples_seen: int) -> int:
        """Return how many samples the step that starts after ``samples_seen`` takes, over all workers; 0 at the end."""
        return step_size(
            samples_seen,
            global_batch_size=self.phase_at(samples_seen).global_batch_size,
            num_samples=self.num_samples,
            total_samples=self.most_samples,
        )

    def steps(self, samples_seen: int) -> int:
        """Return how many optimizer steps lead to ``samples_seen``."""
        return steps_to(samples_seen, self.phase_at(samples_seen), num_samples=self.num_samples)

    def micro_batch_bounds(self, step_samples: int, *, rank: int, samples_seen: int) -> list[tuple[int, int]]:
        """Return a worker's micro-batches of a step, as bounds in the step's samples; empty for an empty share."""
        return micro_batch_bounds(
            step_samples,
            world_size=self.world_size,
            rank=rank,
            grad_accum_steps=self.phase_at(samples_seen).grad_accum_steps,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON has it."""
        return {**asdict(self), "schedule": self.schedule.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the plan that ``to_dict`` wrote, in this or a later version: unknown fields are passed over."""
        values = {"checkpoint_every_s": None, "rewarmup_samples": 0, **values}  # plans of before lack them
        known = {field.name: values[field.name] for field in fields(cls)}
        known["lr_curve"] = tuple((int(samples), float(lr)) for samples, lr in values["lr_curve"])
        known["schedule"] = Schedule.from_dict(values["schedule"])
        known["reacts"] = tuple(values["reacts"])
        known["phases"] = _read_phases(values["phases"], num_samples=values["num_samples"])
        for name, kind in (("groups", PlanGroup), ("warnings", PlanWarning)):
            names = [field.name for field in fields(kind)]
            known[name] = tuple(kind(**{key: value[key] for key in names}) for value in values[name])
        return cls(**known)


def steps_to(samples_seen: int, phase: Phase, *, num_samples: int) -> int:
    """Return how many optimizer steps lead to ``samples_seen``, which ``phase`` holds or ends at."""
    inside = steps_between(
        phase.start_samples, samples_seen, global_batch_size=phase.global_batch_size, num_samples=num_samples
    )
    return phase.start_steps + inside


def _read_phases(values: Sequence[Mapping[str, Any]], *, num_samples: int) -> tuple[Phase, ...]:
    """The phases of a plan's JSON; plans of before ``start_steps`` have it counted."""
    names = [field.name for field in fields(Phase)]
    phases: list[Phase] = []
    for value in values:
        counted = steps_to(value["start_samples"], phases[-1], num_samples=num_samples) if phases else 0
        known = {"start_steps": counted, **value}
        phases.append(Phase(**{name: known[name] for name in names}))
    return tuple(phases)
