"""The plan: a frozen value that is the same in memory, in ``plan.json`` and on every worker."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from math import ceil
from operator import attrgetter
from typing import Any, Literal, Self

from scaler.core.batch import Batch, micro_batch_bounds
from scaler.core.mesh import DIMENSIONS
from scaler.core.rules import gain_exponent
from scaler.core.schedules import Schedule
from scaler.core.short_step import short_step_momentum
from scaler.core.steps import LastBatch, next_step, step_size
from scaler.core.unit import Unit
from scaler.errors import RunError
from scaler.plan.phase import Phase, Scaling, steps_to, units_of

SCHEMA_VERSION = 4

Purpose = Literal["train", "find_lr"]

_START = attrgetter("start_samples")


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanWarning:
    """A warning to read before the run: a stable code and a sentence."""

    code: str  # stable name
    message: str  # one sentence


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanGroup:
    """Parameters with the same learning rate, weight decay and freezing."""

    name: str  # patterns of parameter names that define it
    lr_ratio: float  # its learning rate over the plan's
    peak_lr: float  # its peak learning rate at the global batch of the start
    weight_decay: float | None  # at the global batch of the reference; None: the optimizer's
    frozen: bool  # whether it is frozen at the start
    unfreeze_at: int | None  # samples seen at which it is unfrozen; None: never
    num_parameters: int  # elements of all its tensors
    tensors: Mapping[str, int]  # number of elements by parameter name
    optimizer: str | None = None  # which of ``optimizers`` trains it; None: ``optimizer``


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanParameter:
    """One parameter of the model."""

    size: int  # elements
    kind: Literal["matrix", "embedding", "other"] = "other"  # matrix: two dimensions, and not an embedding's
    other_names: tuple[str, ...] = ()  # of tied weights, which have several names


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanOptimizer:
    """One of several optimizers whose reference differs from the job's (``reference.optimizers``, ``fallback``)."""

    name: str  # its name in the recipe or in the job; fallback: that of reference.optimizer
    peak_lr: float  # its peak learning rate at the global batch of the start
    optimizer: Mapping[str, Any]  # name and options at the global batch of the start
    scaling: Scaling  # its reference and rule, for a step of any batch size
    tensors: Mapping[str, int] = field(default_factory=dict)  # elements by parameter name; empty: the recipe has them

    def phase(self, phase: Phase) -> Phase:
        """Return a phase of the plan with this optimizer's learning rate and constants."""
        batch = Batch(
            global_batch_size=phase.global_batch_size,
            per_worker_batch_size=phase.per_worker_batch_size,
            grad_accum_steps=phase.grad_accum_steps,
        )
        return self.scaling.phase(
            batch,
            start_samples=phase.start_samples,
            start_steps=phase.start_steps,
            tokens_per_sample=phase.tokens_per_sample,
        )[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanMemory:
    """Memory that the training takes besides activations, gathered blocks and the work of the optimizer's step."""

    num_parameters: int  # elements of all weights
    weights_gib: float  # of the whole model
    gradients_gib: float  # of all trained weights
    optimizer_gib: float  # state of the optimizers
    average_gib: float  # of train.ema; 0: none
    worker_gib: float  # all of these, on each worker
    ddp_gib: float  # on each worker with strategy: ddp
    fsdp_gib: float  # on each worker with strategy: fsdp


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A job with every number resolved for one world size; ``reasons`` has the reason of each number, by field name.

    Batch sizes and lengths are samples over all workers; fields that end in ``_s`` are seconds. If the batch changes in
    training, the fields that depend on it are those of the start of training, and ``phases`` has all values.

    ``peak_lr = base_lr * lr_ratio`` holds for every plan and every phase.
    """

    schema_version: int  # version of these fields: 4
    purpose: Purpose  # train: a training; find_lr: a learning-rate range test
    # what the job counts, for texts; batch sizes and lengths of the plan are in samples in both cases
    unit: Literal["samples", "tokens"] = "samples"
    tokens_per_sample: int | None = None  # tokens of one sample at the start of training; None: the unit is samples
    name: str  # name of the job
    world_size: int  # workers that the plan is for
    data_parallel_size: int  # workers with samples of their own, among which the batch is divided: replicate x shard
    mesh: Mapping[str, int]  # workers in each dimension: replicate, shard, tensor, context, pipeline, expert
    global_batch_size: int  # samples per optimizer step, over all workers
    per_worker_batch_size: int  # samples in one forward/backward on one worker
    grad_accum_steps: int  # forward/backwards per optimizer step
    reference_batch_size: int  # global batch size of the reference
    base_lr: float  # learning rate of the reference; in a range test, --max at the reference's batch
    rule: str  # rule that scales the learning rate; never auto
    rule_reason: str  # why this rule
    batch_ratio: float  # global_batch_size / reference_batch_size
    lr_ratio: float  # ratio of learning rates that the rule gives for batch_ratio
    peak_lr: float  # base_lr * lr_ratio, the peak learning rate
    optimizer: Mapping[str, Any]  # name and options of the optimizer, as it will be built
    scaling: Scaling  # the reference and the rule, for a step of any batch size
    schedule: Schedule  # shape (name and its lengths in samples), warmup and reference_warmup (samples, start, shape)
    warmup_samples: int  # length of the warmup in samples; 0: none
    warmup_steps: int  # length of the warmup in steps
    num_samples: int  # size of the training set in samples
    last_batch: LastBatch  # what happens to the rest of an epoch that is smaller than the batch
    total_samples: int  # samples of the whole training; with adascale, samples of the reference's training
    # samples over which weight decay alone shrinks a weight to 1/e, at the peak learning rate of the start of training;
    # None: there is none, or its speed is not known
    weight_decay_timescale: float | None = None
    total_steps: int  # steps of the whole training; with adascale, the fewest possible
    steps_at_first_batch: int | None = None  # total_steps if the batch did not change; None: no change is planned
    reference_samples: int | None = None  # samples of the training that the reference was tuned in; None: not known
    stop_samples: int | None = None  # where train.stop_after ends the run, counted as total_samples; None: at the end
    steps_per_epoch: int  # optimizer steps in an epoch
    eval_every_samples: int  # samples from one evaluation to the next
    eval_every_tokens: int | None = None  # instead, with lengths that change in training; None: by samples
    checkpoint_every_samples: int | None  # samples from one checkpoint to the next; None: by time
    checkpoint_every_tokens: int | None = None  # as eval_every_tokens
    checkpoint_every_s: float | None  # seconds from one checkpoint to the next; None: by samples
    rewarmup_samples: int  # length of the rewarmup after a resize that raises the learning rate; 0: none
    # samples between two checks of whether the noise allows a larger batch; None: the batch does not follow the noise
    grow_every_samples: int | None
    phases: tuple[Phase, ...]  # parts of training at one global batch size; most plans have one
    groups: tuple[PlanGroup, ...]  # groups of parameters with their own learning rate or weight decay
    optimizers: tuple[PlanOptimizer, ...] = ()  # of several optimizers, those with a reference of their own
    # of the model that the plan was made for; empty unless groups or optimizers depend on them
    parameters: Mapping[str, PlanParameter] = field(default_factory=dict)
    memory: PlanMemory | None = None  # None: not known, as the plan was made without the model
    # what can change the learning rate or the batch in training: adascale, noise_scale, plateau, divergence
    reacts: tuple[str, ...]
    lr_curve: tuple[tuple[int, float], ...]  # points [samples_seen, learning rate] of the schedule, for drawing
    reasons: Mapping[str, str]  # the reason of each value, by the field's name
    warnings: tuple[PlanWarning, ...]  # to read before the run

    @property
    def units(self) -> Unit:
        """The unit of the job, which converts samples of this plan for texts."""
        return units_of(self.phases)

    @property
    def is_constant_length(self) -> bool:
        """Whether samples have the same number of tokens in the whole training, or the unit is samples."""
        return len(self.phases) == 1 or len({phase.tokens_per_sample for phase in self.phases}) == 1

    def progress_at(self, samples_seen: int) -> float:
        """Return the place in the schedule, in samples of the length that samples have at the start of training.

        It is ``samples_seen``, unless ``train.sequence_lengths`` changes the tokens of a sample.
        """
        if self.is_constant_length:
            return samples_seen
        assert self.tokens_per_sample is not None
        return self.units.at(samples_seen) / self.tokens_per_sample

    def samples_at(self, progress: float) -> int:
        """Return the samples seen at a place in the schedule: the inverse of ``progress_at``, in whole samples."""
        if self.is_constant_length:
            return round(progress)
        assert self.tokens_per_sample is not None
        return round(self.units.samples_at(progress * self.tokens_per_sample))

    @property
    def is_measured(self) -> bool:
        """Whether progress is measured (``rule: adascale``); otherwise it is the samples seen."""
        return self.rule == "adascale"

    @property
    def is_preconditioned(self) -> bool:
        """Whether the noise is measured on the preconditioned gradient (``adascale`` with an adaptive optimizer)."""
        return self.is_measured and gain_exponent(self.optimizer["name"], rule=self.rule) != 1.0

    @property
    def end_samples(self) -> int:
        """Where this run ends: ``total_samples``, unless ``train.stop_after`` ends it earlier."""
        return self.total_samples if self.stop_samples is None else min(self.stop_samples, self.total_samples)

    @property
    def end_progress(self) -> float:
        """The place in the schedule at which this run ends."""
        return self.end_samples if self.is_measured else self.progress_at(self.end_samples)

    @property
    def most_samples(self) -> int:
        """The most samples that this run may take; ``end_samples`` unless progress is measured."""
        if not self.is_measured:
            return self.end_samples
        return ceil(self.end_samples * max(1.0, self.batch_ratio))

    @property
    def tensors(self) -> Mapping[str, int]:
        """Elements of the tensors of ``optimizer``, by name; empty if the job does not split the parameters."""
        owned = {name for own in self.optimizers for name in own.tensors}
        return {name: each.size for name, each in self.parameters.items() if owned and name not in owned}

    def is_eval_due(self, start: int, samples_seen: int) -> bool:
        """Return whether an evaluation is due after the step that began at ``start`` samples."""
        return self._is_due(start, samples_seen, samples=self.eval_every_samples, tokens=self.eval_every_tokens)

    def is_checkpoint_due(self, start: int, samples_seen: int) -> bool:
        """Return whether a checkpoint is due, by samples or tokens, after the step that began at ``start`` samples."""
        every = self.checkpoint_every_samples
        return self._is_due(start, samples_seen, samples=every, tokens=self.checkpoint_every_tokens)

    def _is_due(self, start: int, samples_seen: int, *, samples: int | None, tokens: int | None) -> bool:
        if tokens is not None:
            return self.units.at(start) // tokens != self.units.at(samples_seen) // tokens
        return samples is not None and start // samples != samples_seen // samples

    def phase_at(self, samples_seen: int) -> Phase:
        """Return the phase of the step that starts after ``samples_seen`` samples."""
        phases = self.phases
        if len(phases) == 1:
            return phases[0]
        return phases[bisect_right(phases, samples_seen, key=_START) - 1]

    def step_phase(self, samples_seen: int, *, samples: int | None = None) -> Phase:
        """Return the phase of the step that starts after ``samples_seen`` samples, with the numbers of that step.

        A step of a whole batch has its phase's numbers. A shorter step is a batch of its own size: see
        ``Scaling.short_step``.

        Args:
            samples_seen: samples in the weights before the step.
            samples: in the step, at most a global batch, where a loop of one's own decides it; None: as planned.
        """
        phase = self.phase_at(samples_seen)
        size = self.step_size(samples_seen) if samples is None else samples
        if size in (0, phase.global_batch_size):
            return phase
        return self.scaling.short_step(phase, size)

    def lr_at(self, samples_seen: int, *, progress: float | None = None, samples: int | None = None) -> float:
        """Return the planned learning rate of the step that starts after ``samples_seen`` samples.

        The controllers in ``reacts`` may change it in training. A short step, at the end of an epoch or of training,
        has the learning rate of its own size.

        Args:
            samples_seen: samples that have contributed to the weights, over all workers; they choose the phase and the
                step's size.
            progress: the place in the schedule, in samples of the reference's training; None: ``samples_seen``.
            samples: in the step, where a loop of one's own decides it; None: as planned.
        """
        return self.step_phase(samples_seen, samples=samples).peak_lr * self._factor(samples_seen, progress)

    def whole_step_lr_at(self, samples_seen: int, *, progress: float | None = None) -> float:
        """Return the learning rate that a step of a whole global batch would have if it started at ``samples_seen``."""
        return self.phase_at(samples_seen).peak_lr * self._factor(samples_seen, progress)

    def _factor(self, samples_seen: int, progress: float | None) -> float:
        return self.schedule.factor(self.progress_at(samples_seen) if progress is None else progress)

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
            return self.end_samples
        longest = max(self.num_samples, self.phase_at(samples_seen).global_batch_size)
        return samples_seen + 2 * longest  # further than any step

    def steps(self, samples_seen: int) -> int:
        """Return how many optimizer steps lead to ``samples_seen``."""
        phase = self.phase_at(samples_seen)
        return steps_to(samples_seen, phase, num_samples=self.num_samples, last_batch=self.last_batch)

    def micro_batch_bounds(self, step_samples: int, *, rank: int, samples_seen: int) -> list[tuple[int, int]]:
        """Return a worker's micro-batches of a step as bounds in the step's samples; empty if it has no samples.

        Args:
            step_samples: samples in the step, over all workers.
            rank: of the worker among those with samples of their own, in [0, ``data_parallel_size``).
            samples_seen: before the step.
        """
        return micro_batch_bounds(
            step_samples,
            world_size=self.data_parallel_size,
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
        known = {each.name: values[each.name] for each in fields(cls) if each.name in values}
        size = values["world_size"]  # a plan without a mesh is of an older scaler, which had copies only
        known |= {"data_parallel_size": values.get("data_parallel_size", size)}
        known |= {"mesh": values.get("mesh", dict.fromkeys(DIMENSIONS, 1) | {"replicate": size})}
        known["lr_curve"] = tuple((int(samples), float(lr)) for samples, lr in values["lr_curve"])
        known["schedule"] = Schedule.from_dict(values["schedule"])
        known["reacts"] = tuple(values["reacts"])
        known["scaling"] = Scaling.from_dict(values["scaling"])
        known["phases"] = tuple(Phase(**phase) for phase in values["phases"])
        known["groups"] = tuple(PlanGroup(**group) for group in values["groups"])
        known["optimizers"] = tuple(
            PlanOptimizer(**{**own, "scaling": Scaling.from_dict(own["scaling"])})
            for own in values.get("optimizers", ())
        )
        known["parameters"] = {
            name: PlanParameter(**{**each, "other_names": tuple(each["other_names"])})
            for name, each in values.get("parameters", {}).items()
        }
        if values.get("memory") is not None:
            known["memory"] = PlanMemory(**values["memory"])
        known["warnings"] = tuple(PlanWarning(**warning) for warning in values["warnings"])
        return cls(**known)
