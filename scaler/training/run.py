"""One worker's part of a run: where it is in its plan, what it records, and what it reacts to.

The built-in loop (``loop.py``) and a loop of one's own (``own_loop/``) are both written on this class.
"""

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from time import time
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scaler.core.noise_scale import GradientSquares
from scaler.job import Job
from scaler.metrics.events import AttemptStarted, Diverged, Evaluated, Event, LrLowered
from scaler.metrics.mean import Mean
from scaler.plan import Phase, Plan
from scaler.training.best import BestValue
from scaler.training.clock import Clock, Mark
from scaler.training.controllers import Controllers
from scaler.training.gradients.step import StepMeasures
from scaler.training.position import Position
from scaler.training.recorder import Recorder, RecordsTo, StepMeasurement


class PlannedStep(NamedTuple):
    """What the plan and the controllers say of a step, right before an optimizer takes it."""

    number: int  # steps before it
    samples: int  # in it, over all workers
    samples_seen: int  # before it, over all workers
    progress: float
    phase: Phase  # with the constants of the step's own size
    share: float  # of its peak learning rate
    worth: float  # in steps of the reference; 1 unless ``rule: adascale``

    @property
    def lr(self) -> float:
        """The learning rate of a group that has the reference's."""
        return self.phase.peak_lr * self.share


class Run:
    """Plan, position, controllers and records of one worker in one attempt.

    Args:
        job: of the run.
        plan: of this attempt.
        context: this worker's; gets the records and events.
        clock: of the device.

    Attributes:
        position: where the training is in its plan.
        controllers: what reacts to measurements and evaluations.
        recorder: of this worker.
        best: the best evaluation so far.
        divergence: why the training has diverged; None: it has not.
    """

    def __init__(self, job: Job, plan: Plan, context: RecordsTo, clock: Clock) -> None:
        self._context = context
        self.controllers = Controllers(job, plan)
        self.position = Position(job, plan, self.controllers)
        self.recorder = Recorder(context, clock)
        self.best = BestValue(job.checkpoint.best)
        self.divergence: str | None = None

    @property
    def plan(self) -> Plan:
        """The plan, with the batches grown so far."""
        return self.position.plan

    @property
    def samples_seen(self) -> int:
        """Samples that have contributed to the weights, over all workers."""
        return self.position.samples_seen

    def event(self, kind: Callable[..., Event], **values: Any) -> None:
        """Record an event of this attempt; ``values`` are the fields of its kind."""
        where = {"time": time(), "attempt": self._context.attempt, "samples_seen": self.samples_seen}
        self.recorder.event(kind(**{**where, **values}))

    def begin_attempt(self, *, data_order: str | None, flops_per_sample: float | None = None) -> None:
        """Record that an attempt begins here.

        Args:
            data_order: as in ``AttemptStarted``.
            flops_per_sample: as in ``Recipe``.
        """
        phase, ramp, plan = self.position.next_phase(), self.position.ramp, self.plan
        self.event(
            AttemptStarted,
            start_samples=self.samples_seen,
            world_size=plan.world_size,
            data_parallel_size=plan.data_parallel_size,
            mesh=plan.mesh,
            global_batch_size=phase.global_batch_size,
            per_worker_batch_size=phase.per_worker_batch_size,
            peak_lr=phase.peak_lr,
            ramp=ramp.to_dict() if ramp is not None else None,
            flops_per_sample=flops_per_sample,
            data_order=data_order,
        )

    def next_lr(self) -> float:
        """Return the learning rate of the next step, if it has a whole batch."""
        return self.position.lr(self.position.next_phase())

    def planned_step(self, samples: int) -> PlannedStep:
        """Return what the plan says of the next step; a short step is a batch of its own size.

        Args:
            samples: in the step, over all workers; at most the phase's batch.
        """
        position, plan = self.position, self.plan
        phase = plan.step_phase(position.samples_seen, samples=samples)
        seen = position.samples_seen
        number, share, worth = plan.steps(seen), position.share(phase), self.controllers.gain(phase.batch_ratio)
        return PlannedStep(number, samples, seen, position.progress, phase, share, worth)

    def end_step(
        self,
        step: PlannedStep,
        *,
        lr: float,
        began: Mark,
        measures: StepMeasures,
        grad_norm: Tensor,
        squares: GradientSquares | None = None,
        noise_scale: float | None = None,
    ) -> None:
        """Record a step that was taken, and move on.

        Args:
            step: as ``planned_step`` returned it.
            lr: that the optimizer used.
            began: the step.
            measures: of this worker's share.
            grad_norm: of the whole gradient.
            squares: estimates of the gradient's noise; None: it was not measured.
            noise_scale: its average; None: it is not known.
        """
        about = step.number, step.samples_seen, step.progress, lr, step.lr
        self.recorder.add(StepMeasurement(*about, began, measures, grad_norm, squares, noise_scale))
        self.position.advance(step.samples, worth=step.worth)

    def evaluated(self, values: Mapping[str, float], *, seconds: float) -> None:
        """Record an evaluation of the present weights, and let the plateau controller react to it.

        Args:
            values: by name, the same on every worker.
            seconds: that it took.
        """
        known = {name: value if isfinite(value) else None for name, value in values.items()}
        self.event(Evaluated, values=known, seconds=seconds)
        lowered = self.controllers.add_evaluation(values)
        if lowered is not None and self.position.next_size():  # at the end there is no learning rate to lower
            self.event(LrLowered, by="plateau", factor=lowered.factor, reason=lowered.reason)

    def hand_over(self, events: Sequence[Event] = ()) -> None:
        """Hand over all records and events that are kept, and ``events``."""
        self.recorder.hand_over(samples_seen=self.samples_seen, events=events)

    def unchecked_losses(self) -> Tensor:
        """Return the losses of the steps that were handed over since the last call, for the divergence guard.

        Returns:
            ``(steps, 2)``, float64: sum of weight times loss, and sum of the weights, of this worker.
        """
        records = self.recorder.unchecked_records()
        means = [Mean() for _ in records]
        for mean, record in zip(means, records, strict=True):
            mean.add(record.loss, record.loss_weight)
        return torch.tensor([(mean.total, mean.weight) for mean in means], dtype=torch.float64).reshape(-1, 2)

    def check_losses(self, sums: Tensor) -> None:
        """Give losses to the divergence guard, which may set ``divergence``.

        Args:
            sums: ``unchecked_losses`` of all workers, summed.
        """
        losses = [Mean(total, weight).value for total, weight in sums.tolist()]
        self.divergence = self.controllers.add_losses([loss for loss in losses if loss is not None])

    def report_divergence(self, *, goes_back: bool) -> str:
        """Record that the training has diverged, and return the reason; ``divergence`` is None again.

        Args:
            goes_back: whether the training goes back to a checkpoint.
        """
        reason, self.divergence = self.divergence, None
        assert reason is not None
        self.event(Diverged, reason=reason, goes_back=goes_back)
        return reason

    def end_attempt(self, events: Sequence[Event] = ()) -> None:
        """Hand everything over: no record of this attempt follows."""
        self.recorder.end_attempt()
        self.hand_over(events)

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain values, the same on every worker, for a checkpoint."""
        return {
            "controllers": self.controllers.state_dict(),
            "checkpoints": self.best.state_dict(),
            **self.position.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state. Learning rates and constants are not restored: they are this plan's."""
        self.controllers.load_state_dict(state["controllers"])
        self.position.load_state_dict(state)
        self.best.load_state_dict(state["checkpoints"])
