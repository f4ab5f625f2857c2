"""What a number of samples in a step makes of the reference: the learning rate and every constant of that step."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from scaler.core.rules import Rule, Scaled, scale, scale_beta
from scaler.core.short_step import scale_short_step
from scaler.plan.phase import Phase


@dataclass(frozen=True, kw_only=True, slots=True)
class Scaling:
    """The reference and the rule: from a batch size to a learning rate and an optimizer's constants.

    Args:
        rule: the rule, never ``auto``, with its options.
        reference_batch_size: samples per optimizer step in the reference.
        base_lr: the reference's learning rate.
        optimizer: its name in the job file, or ``module:Class``.
        constants: the reference's options of the optimizer.
        ema_decay: of ``train.ema``, per step of the reference; None without it.
        scale_ema: whether the decay follows the batch (``scale.co_scale.ema``).
    """

    rule: Rule
    reference_batch_size: int
    base_lr: float
    optimizer: str
    constants: Mapping[str, Any]
    ema_decay: float | None
    scale_ema: bool

    def at(self, global_batch_size: int) -> Scaled:
        """Return what the rule makes of a batch, from the reference.

        Raises:
            PlanError: the rule does not hold for this batch; says which it holds for.
        """
        return scale(
            self.rule,
            batch_ratio=global_batch_size / self.reference_batch_size,
            reference_batch_size=self.reference_batch_size,
            optimizer=self.optimizer,
            constants={**self.constants, "lr": self.base_lr},
        )

    def ema_at(self, global_batch_size: int) -> float | None:
        """Return the share of the averaged weights that a step of this batch keeps.

        With ``adascale``, it is of one step of the reference, of which a step is worth the gain.
        """
        if self.ema_decay is None or not self.scale_ema or self.rule.name == "adascale":
            return self.ema_decay
        return scale_beta(self.ema_decay, batch_ratio=global_batch_size / self.reference_batch_size, form="power")

    def short_step(self, phase: Phase, samples: int) -> Phase:
        """Return the phase of one step that has fewer samples than its phase's batch: a batch of its own size.

        See ``scale_short_step``. The average of the weights (``train.ema``) takes it for its share of a step, too.

        Args:
            phase: of the step.
            samples: in the step, over all workers; below ``phase.global_batch_size``.
        """
        share = samples / phase.global_batch_size
        scaled = scale_short_step(
            self.rule,
            samples=samples,
            global_batch_size=phase.global_batch_size,
            reference_batch_size=self.reference_batch_size,
            optimizer=self.optimizer,
            constants={**self.constants, "lr": self.base_lr},
        )
        # A range test has learning rates of its own; the ratio between two batch sizes holds there too.
        is_the_rule_s = phase.peak_lr == self.base_lr * phase.lr_ratio
        peak_lr = self.base_lr * scaled.lr_ratio if is_the_rule_s else phase.peak_lr * scaled.lr_ratio / phase.lr_ratio
        ema = self.ema_at(samples) if self.scale_ema else phase.ema_decay
        return replace(
            phase,
            global_batch_size=samples,
            batch_ratio=scaled.batch_ratio,
            lr_ratio=scaled.lr_ratio,
            peak_lr=peak_lr,
            weight_decay_ratio=scaled.weight_decay_ratio,
            ema_decay=ema if ema is None or self.scale_ema else ema**share,
            optimizer={**phase.optimizer, **plain(scaled.constants), "lr": peak_lr},
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return what ``dataclasses.asdict`` made of it."""
        return cls(**{**values, "rule": Rule(**values["rule"])})


def plain(constants: Mapping[str, Any]) -> dict[str, Any]:
    """Return constants as JSON has them: a tuple is a list."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in constants.items()}
