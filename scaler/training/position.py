"""Where a training is in its plan, and the learning rate there."""

from collections.abc import Mapping
from typing import Any

from scaler.core.batch_growth import batch_instead_of_decay
from scaler.core.resize_ramp import ResizeRamp, ramp_after
from scaler.job import Job
from scaler.job.scale import GrowInsteadOfDecay
from scaler.plan import Phase, Plan, grow, limit_micro_batches, regrow
from scaler.training.controllers import Controllers


class Position:
    """Where a training is in its plan; the same on every worker.

    Args:
        job: the job of the run.
        plan: of this attempt.
        controllers: their measurements change the learning rate, and the batch where it grows with the noise.

    Attributes:
        plan: the plan, with the batches grown so far.
        phase: the phase of the last step, or of the first one before it.
        samples_seen: samples that have contributed to the weights.
        progress: where the schedule is, in samples: ``Plan.progress_at``, unless the plan measures progress.
        ramp: the climb to a higher learning rate after a resize; None: there is no climb.
    """

    def __init__(self, job: Job, plan: Plan, controllers: Controllers) -> None:
        self._job, self._controllers = job, controllers
        self._first_plan = self.plan = plan
        self.phase = plan.phases[0]
        self.samples_seen = 0
        self.progress = 0.0
        self.ramp: ResizeRamp | None = None

    def next_size(self) -> int:
        """Return the samples in the next step; 0 at the end."""
        done = self.progress if self.plan.is_measured else self.samples_seen
        left = self.plan.end_samples - done
        return self.plan.step_size(self.samples_seen) if left > 1e-6 else 0  # progress is a rounded sum

    def next_phase(self) -> Phase:
        """Return the phase of the next step."""
        return self.plan.phase_at(self.samples_seen)

    def begin_step(self) -> Phase:
        """Enter the phase of the next step, and return it."""
        self.phase = self.next_phase()
        return self.phase

    def lr(self, step: Phase) -> float:
        """Return the learning rate of the next step.

        Args:
            step: its phase, with the constants of its own size (``Plan.step_phase``).
        """
        return step.peak_lr * self.share(step)

    def share(self, step: Phase) -> float:
        """Return the share of its peak learning rate that the next step has.

        Args:
            step: its phase, with the constants of its own size.
        """
        factor = self.plan.schedule.factor(self.progress) * self._controllers.lr_factor(step.batch_ratio)
        return factor * self._ramp_factor()

    def advance(self, size: int, *, worth: float) -> None:
        """Move on after a step of ``size`` samples that was worth ``worth`` steps of the reference."""
        self.samples_seen = self.plan.next_step(self.samples_seen + size)
        if self.plan.is_measured:
            self.progress += worth * self.plan.reference_batch_size
        else:
            self.progress = float(self.plan.progress_at(self.samples_seen))

    def halve_micro_batches(self) -> int:
        """Halve the largest micro-batch from the next step on; return its new size in samples."""
        half = self.phase.per_worker_batch_size // 2
        self.plan = limit_micro_batches(self.plan, half)
        self._first_plan = limit_micro_batches(self._first_plan, half)
        return half

    def is_grow_check_due(self, start: int) -> bool:
        """Return whether the batch may grow with the noise after the step that began at ``start``."""
        every = self.plan.grow_every_samples
        return every is not None and start // every != self.samples_seen // every

    def batch_instead_of_decay(self) -> int:
        """Return the batch that replaces the fall of the learning rate so far; the present one if none does."""
        growth = self._job.scale.batch_schedule
        if not isinstance(growth, GrowInsteadOfDecay):
            return self.phase.global_batch_size
        first = self.plan.phases[0].global_batch_size
        return batch_instead_of_decay(self.plan.schedule, self.progress, first=first, most=growth.max_global_batch_size)

    def grow(self, global_batch_size: int) -> Phase:
        """Let the batch be ``global_batch_size`` from the next step on; return its phase."""
        self.plan = grow(self.plan, self._job, samples_seen=self.samples_seen, global_batch_size=global_batch_size)
        growth = global_batch_size / self.plan.phases[0].global_batch_size
        self._controllers.growth.append((self.samples_seen, growth))
        return self.next_phase()

    def align(self) -> None:
        """Skip the rest of an epoch that is too small for a step of the present batch."""
        self.samples_seen = self.plan.next_step(self.samples_seen)

    def state_dict(self) -> dict[str, Any]:
        """Return the position as plain values, for a checkpoint."""
        return {
            "samples_seen": self.samples_seen,
            "progress": self.progress,
            "is_end": not self.next_size(),
            "global_batch_size": self.next_phase().global_batch_size,
            "lr": self._whole_step_lr() * self._ramp_factor(),  # of the next whole batch
            "ramp": self.ramp.to_dict() if self.ramp is not None else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state, after the controllers have loaded theirs. The plan is this attempt's."""
        self.samples_seen, self.progress = state["samples_seen"], state["progress"]
        growth = self._controllers.growth
        assert not growth or self._job.scale.batch_follows_noise
        self.plan = regrow(self._first_plan, self._job, growth)
        self.phase = self.next_phase()
        self._controllers.add_measurement(None, batch_ratio=self.phase.batch_ratio)
        self.align()  # the batch may have changed
        self.ramp = self._ramp_after(state)

    def _whole_step_lr(self) -> float:
        """Return the learning rate of the next whole batch, without a ramp."""
        lr = self.plan.whole_step_lr_at(self.samples_seen, progress=self.progress)
        return lr * self._controllers.lr_factor(self.next_phase().batch_ratio)

    def _ramp_factor(self) -> float:
        return self.ramp.at(self.samples_seen) if self.ramp is not None else 1.0

    def _ramp_after(self, state: Mapping[str, Any]) -> ResizeRamp | None:
        """Return the saved ramp; or a new one, if another batch size raises the learning rate by much."""
        rewarmup = self._job.scale.rewarmup
        if state["global_batch_size"] == self.phase.global_batch_size:
            return ResizeRamp.from_dict(state["ramp"])
        if rewarmup is None:
            return None
        before, now, length = state["lr"], self._whole_step_lr(), self.plan.rewarmup_samples
        return ramp_after(before, now, above=rewarmup.above, start=self.samples_seen, length=length)
