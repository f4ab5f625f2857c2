"""How long weight decay takes in a plan: its timescale in samples, and as a share of the training."""

from dataclasses import dataclass

from scaler.core.timescales import weight_decay_timescale
from scaler.core.unit import unit_with
from scaler.job import Job
from scaler.plan.model import Plan
from scaler.plan.phase import Phase


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanDecay:
    """The weight decay of a plan that has a timescale: the optimizer's, or else the largest of a group.

    Args:
        name: of the optimizer.
        weight_decay: at the reference's batch.
        reference: timescale in the reference, in samples of the first length.
        base_lr: learning rate of the reference.
        reference_batch_size: of the reference.
    """

    name: str
    weight_decay: float
    reference: float
    base_lr: float
    reference_batch_size: int

    def timescale(self, phase: Phase) -> float:
        """Return the timescale in samples of the first length, at the peak learning rate of a phase."""
        constants = {**phase.optimizer, "weight_decay": self.weight_decay * phase.weight_decay_ratio}
        lr, batch = self.base_lr * phase.lr_ratio, round(self.reference_batch_size * phase.batch_ratio)
        found = weight_decay_timescale(self.name, constants=constants, lr=lr, global_batch_size=batch)
        assert found is not None  # its optimizer has one in the reference
        return found


def plan_decay(plan: Plan, job: Job) -> PlanDecay | None:
    """Return the weight decay of a plan; None without weight decay, or if its timescale is not known.

    See ``scaler.core.timescales``.
    """
    name, reference = plan.optimizer["name"], job.reference.optimizer.with_defaults
    own = [group.weight_decay for group in plan.groups if group.weight_decay]
    decay = reference.get("weight_decay") or max(own, default=0.0)
    before = weight_decay_timescale(
        name,
        constants={**reference, "weight_decay": decay},
        lr=plan.scaling.base_lr,
        global_batch_size=plan.reference_batch_size,
    )
    if not decay or before is None:
        return None
    return PlanDecay(
        name=name,
        weight_decay=decay,
        reference=before,
        base_lr=plan.scaling.base_lr,
        reference_batch_size=plan.reference_batch_size,
    )


def decay_reason(plan: Plan, job: Job) -> str:
    """Return the timescale of weight decay as text, beside the reference's; empty without one.

    With ``adascale`` it is the timescale at a gain of 1, because the gain is measured in training.
    """
    decay = plan_decay(plan, job)
    if decay is None:
        return ""
    now, before = decay.timescale(plan.phases[0]), plan.reference_samples
    total = plan.units.at(plan.total_samples) / plan.units.tokens_per_sample()  # in samples of the first length
    share = f", {_share(decay.reference / before)} its training" if before is not None else ""
    gain = ", divided by the measured gain" if plan.is_measured else ""
    return f"{_share(now / total)} the training{gain}; in the reference {_text(plan, decay.reference)}{share}"


def _share(share: float) -> str:
    return f"{share:.3g} {'of' if share < 1.0 else 'times'}"


def _text(plan: Plan, samples: float) -> str:
    unit = unit_with(plan.tokens_per_sample)
    return f"{unit.number(samples, form=',.0f' if samples >= 100 else '.3g')} {unit.many}"
