"""A phase of training at one global batch, and how the reference and the rule give the numbers of any batch size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, Self

from scaler.core.batch import Batch
from scaler.core.betas import scale_beta
from scaler.core.rules import CoScale, Rule
from scaler.core.scale import Scaled, scale
from scaler.core.short_step import scale_short_step
from scaler.core.steps import LastBatch, steps_between
from scaler.core.unit import Unit
from scaler.errors import PlanError


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """A part of training at one global batch, with the numbers that the rule gives. Most plans have one phase."""

    start_samples: int  # samples seen at its first step
    start_steps: int  # optimizer steps before it
    global_batch_size: int  # samples per optimizer step, over all workers
    per_worker_batch_size: int  # samples in one forward/backward on one worker
    grad_accum_steps: int  # forward/backwards per optimizer step
    batch_ratio: float  # global_batch_size / reference_batch_size
    lr_ratio: float  # ratio of learning rates that the rule gives for batch_ratio
    peak_lr: float  # peak learning rate at this global batch size
    weight_decay_ratio: float  # multiplies the groups' own weight decay; ``optimizer`` has it already
    ema_decay: float | None  # of train.ema, per step; with adascale and co_scale.ema, per step of the reference
    optimizer: Mapping[str, Any]  # name and options of the optimizer at this global batch size
    tokens_per_sample: int | None = None  # of a job that counts tokens; None: the job counts samples


def units_of(phases: Sequence[Phase]) -> Unit:
    """Return the unit of a plan's job, by the phases of the plan."""
    lengths = ((phase.start_samples, phase.tokens_per_sample) for phase in phases)
    return Unit(lengths=tuple((start, tokens) for start, tokens in lengths if tokens is not None))


def steps_to(samples_seen: int, phase: Phase, *, num_samples: int, last_batch: LastBatch) -> int:
    """Return how many optimizer steps lead to ``samples_seen``, which is in ``phase`` or at its end."""
    inside = steps_between(
        phase.start_samples,
        samples_seen,
        global_batch_size=phase.global_batch_size,
        num_samples=num_samples,
        last_batch=last_batch,
    )
    return phase.start_steps + inside


@dataclass(frozen=True, kw_only=True, slots=True)
class Scaling:
    """The reference and the rule: they give the learning rate and the optimizer's constants of any batch size.

    Args:
        rule: the rule, never ``auto``, with its options.
        reference_batch_size: samples per optimizer step in the reference.
        base_lr: the reference's learning rate.
        optimizer: its name in the job file, or ``module:Class``.
        constants: the reference's options of the optimizer.
        ema_decay: of ``train.ema``, per step of the reference; None without it.
        tokens_per_sample: of the samples in ``reference_batch_size``; None in a job that counts samples.
    """

    rule: Rule
    reference_batch_size: int
    base_lr: float
    optimizer: str
    constants: Mapping[str, Any]
    ema_decay: float | None
    tokens_per_sample: int | None = None

    def phase(
        self, batch: Batch, *, start_samples: int, start_steps: int, tokens_per_sample: int | None = None
    ) -> tuple[Phase, Scaled]:
        """Return a phase at a batch, and the ratios and constants of that batch; always from the reference.

        Args:
            batch: of the phase, in its own samples.
            start_samples: samples seen at its first step.
            start_steps: optimizer steps before it.
            tokens_per_sample: of the phase, where it is not the reference's.

        Raises:
            PlanError: the rule does not hold at this batch, or the learning rate is not finite.
        """
        tokens = self.tokens_per_sample if tokens_per_sample is None else tokens_per_sample
        size = self._of_reference(batch.global_batch_size, tokens)
        scaled = self.at(size)
        peak_lr = self.base_lr * scaled.lr_ratio
        if not isfinite(peak_lr):
            raise PlanError(
                f"peak_lr = {self.base_lr:g} x {scaled.lr_ratio:g} is too large for a number.", "Lower reference.lr."
            )
        phase = Phase(
            start_samples=start_samples,
            start_steps=start_steps,
            global_batch_size=batch.global_batch_size,
            per_worker_batch_size=batch.per_worker_batch_size,
            grad_accum_steps=batch.grad_accum_steps,
            batch_ratio=scaled.batch_ratio,
            lr_ratio=scaled.lr_ratio,
            peak_lr=peak_lr,
            weight_decay_ratio=scaled.weight_decay_ratio,
            ema_decay=self.ema_at(size),
            optimizer={"name": self.optimizer, "lr": peak_lr, **self.constants, **as_json(scaled.constants)},
            tokens_per_sample=tokens,
        )
        return phase, scaled

    def _of_reference(self, samples: int, tokens_per_sample: int | None) -> float:
        """Return how many samples of the reference's length have the tokens of these samples."""
        if tokens_per_sample == self.tokens_per_sample:
            return samples
        assert tokens_per_sample is not None
        assert self.tokens_per_sample is not None
        return samples * tokens_per_sample / self.tokens_per_sample

    def at(self, global_batch_size: float) -> Scaled:
        """Return the ratios and constants that the rule gives for a batch size, from the reference.

        Args:
            global_batch_size: in samples of the reference's length.

        Raises:
            PlanError: the rule does not hold at this batch size; names the sizes that it holds at.
        """
        return scale(
            self.rule,
            batch_ratio=global_batch_size / self.reference_batch_size,
            reference_batch_size=self.reference_batch_size,
            optimizer=self.optimizer,
            constants={**self.constants, "lr": self.base_lr},
        )

    def ema_at(self, global_batch_size: float) -> float | None:
        """Return the share of the averaged weights that a step of this batch size keeps.

        It holds the memory of the average in samples; with a horizon, as a share of the training. With ``adascale`` it
        is the share that a step of the reference keeps; a step counts as ``gain`` such steps.
        """
        if self.ema_decay is None or not self.rule.co_scale.ema or self.rule.name == "adascale":
            return self.ema_decay
        ratio = self.rule.kappa(global_batch_size / self.reference_batch_size)
        return scale_beta(self.ema_decay, batch_ratio=ratio, form="power")

    def short_step(self, phase: Phase, samples: int) -> Phase:
        """Return the phase of one step that has fewer samples than its phase's batch: a batch of its own size.

        See ``scale_short_step``. In the average of the weights (``train.ema``), the step also counts as its share.

        Args:
            phase: the phase of the step.
            samples: in the step, over all workers; below ``phase.global_batch_size``.
        """
        share = samples / phase.global_batch_size
        size = self._of_reference(samples, phase.tokens_per_sample)
        scaled = scale_short_step(
            self.rule,
            samples=size,
            global_batch_size=self._of_reference(phase.global_batch_size, phase.tokens_per_sample),
            reference_batch_size=self.reference_batch_size,
            optimizer=self.optimizer,
            constants={**self.constants, "lr": self.base_lr},
        )
        peak_lr = self.base_lr * scaled.lr_ratio
        is_scaled = self.rule.co_scale.ema
        ema = self.ema_at(size) if is_scaled else phase.ema_decay
        return replace(
            phase,
            global_batch_size=samples,
            batch_ratio=scaled.batch_ratio,
            lr_ratio=scaled.lr_ratio,
            peak_lr=peak_lr,
            weight_decay_ratio=scaled.weight_decay_ratio,
            ema_decay=ema if ema is None or is_scaled else ema**share,
            optimizer={**phase.optimizer, **as_json(scaled.constants), "lr": peak_lr},
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the scaling that ``dataclasses.asdict`` wrote."""
        rule = {**values["rule"], "co_scale": CoScale(**values["rule"]["co_scale"])}
        if rule.get("beta2_range") is not None:
            rule["beta2_range"] = tuple(rule["beta2_range"])
        return cls(**{**values, "rule": Rule(**rule)})


def as_json(constants: Mapping[str, Any]) -> dict[str, Any]:
    """Return constants as they are after a round trip through JSON: a tuple is a list."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in constants.items()}
