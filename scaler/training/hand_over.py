"""When a worker hands over its records; there all workers agree on what to do next."""

from time import perf_counter
from typing import NamedTuple

from scaler.metrics.events import WAITING, RecordsThinned
from scaler.training.activity import Activity
from scaler.training.checkpoints.writer import CheckpointWriter
from scaler.training.process_group import max_over_workers, sum_over_workers
from scaler.training.run import Run
from scaler.training.worker_context import Leave, WorkerContext

HAND_OVER_S = 1.0  # the time between two hand-overs ...
COST_SHARE = 0.05  # ... unless they would take more than this share of the time ...
LONGEST_S = 5.0  # ... and never longer than this: a request to stop is read at a hand-over


class HandOverInterval:
    """Decides at which steps records are handed over; all workers agree on it.

    Attributes:
        steps: steps from one hand-over to the next, unless an evaluation or a checkpoint comes between.
        cost_s: seconds that this worker took for the last hand-over.
    """

    def __init__(self) -> None:
        self.cost_s = 0.0
        self._taken = 0
        self._due = self.steps = 1
        self._began = perf_counter()

    def is_due(self) -> bool:
        """Count a step, and return whether records are handed over after it."""
        self._taken += 1
        return self._taken >= self._due

    def step_time_s(self) -> float:
        """Return this worker's mean time per step since the last hand-over, in seconds."""
        return (perf_counter() - self._began) / max(self._taken, 1)

    def set_next(self, step_time_s: float, *, cost_s: float) -> None:
        """Set the next hand-over ``HAND_OVER_S`` from now, or later where the workers are slow to agree.

        The interval grows at most tenfold, because first steps are slow.

        Args:
            step_time_s: the time per step that all workers agreed on.
            cost_s: the least that the last hand-over cost a worker; the others have also waited for each other.
        """
        interval_s = min(max(HAND_OVER_S, cost_s / COST_SHARE), LONGEST_S)
        self.steps = max(1, min(int(interval_s / max(step_time_s, 1e-9)), 10 * self.steps))
        self._due = self.steps
        self._taken, self._began = 0, perf_counter()

    def end_at_next_step(self) -> None:
        """Hand over after the next step: a stop may have been requested during an evaluation or a save."""
        self._due = 1


class Asked(NamedTuple):
    """What all workers do after a step."""

    leave: Leave = Leave.NOT
    save: bool = False  # a checkpoint is due by the clock


class HandOver:
    """Hands over the records of one worker, at the same steps as every other worker.

    Args:
        run: this worker's part of the run.
        context: says whether to leave.
        checkpoints: say whether one is due by the clock.
        activity: updated with what this worker is doing.

    Attributes:
        interval: decides at which steps.
    """

    def __init__(self, run: Run, context: WorkerContext, checkpoints: CheckpointWriter, activity: Activity) -> None:
        self._run, self._context, self._checkpoints, self._activity = run, context, checkpoints, activity
        self.interval = HandOverInterval()

    def when_due(self) -> Asked:
        """Count a step; every second or more, hand records over and agree with all workers on what to do next."""
        if not self.interval.is_due():
            return Asked()
        step_time_s, began = self.interval.step_time_s(), perf_counter()
        self.now()
        wanted = self._context.wanted_steps(self._run.recorder.steps_per_record)
        leaves, is_due = self._context.leave_requested(), self._checkpoints.is_due()
        if self._context.world_size > 1:
            self._activity.begin(WAITING)
        leave, save, step_time_s, steps, minus_cost_s = max_over_workers(
            [leaves, is_due, step_time_s, wanted, -self.interval.cost_s],
            world_size=self._context.world_size,
            device=self._context.device,
        )
        self.interval.set_next(step_time_s, cost_s=-minus_cost_s)
        self.interval.cost_s = perf_counter() - began
        self._thin(int(steps))
        return Asked(Leave(int(leave)), bool(save))

    def now(self) -> None:
        """Hand records over, and give the divergence guard their losses, as means over all workers."""
        self._run.hand_over(self._checkpoints.events())
        losses = self._run.unchecked_losses()
        self._run.check_losses(
            sum_over_workers(losses, world_size=self._context.world_size, device=self._context.device)
        )

    def _thin(self, steps: int) -> None:
        """Let each record cover ``steps`` steps from here on, but no more than are handed over together."""
        steps, recorder = min(steps, self.interval.steps), self._run.recorder
        if steps > recorder.steps_per_record:
            recorder.steps_per_record = steps
            self._run.event(RecordsThinned, steps=steps, reason="the collector cannot keep up")
