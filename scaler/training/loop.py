"""The training loop: the same on one worker and on many, on Ray and in a plain process.

It is written on ``Run``, as a loop of one's own is. Everything is a function of ``samples_seen``; the loop has no other
counter.
"""

from torch import Tensor

from scaler.job import Job
from scaler.metrics.events import TriedOut
from scaler.plan import Plan
from scaler.training.activity import Activity
from scaler.training.checkpoints.state import load_checkpoint
from scaler.training.checkpoints.writer import CheckpointWriter
from scaler.training.clock import clock_for
from scaler.training.data.sources import load_places
from scaler.training.data.stream import own_order
from scaler.training.evaluation.evaluator import Evaluator
from scaler.training.growth import grow_when_due
from scaler.training.hand_over import HandOver
from scaler.training.randomness import seed_worker, set_random_state
from scaler.training.recipe import Recipe
from scaler.training.recipe.check import require_planned
from scaler.training.recovery import Recovery
from scaler.training.run import Run
from scaler.training.saving import Saving
from scaler.training.start_checks.same_model import require_same_model
from scaler.training.start_checks.start import Start, check_start
from scaler.training.stepper import Stepper
from scaler.training.steps import Steps
from scaler.training.worker_context import AttemptEnd, Leave, WorkerContext


class Training:
    """One worker's part of one attempt of the worker group.

    Args:
        recipe: model, data and loss.
        job: the job of the run.
        plan: every number, for the context's world size.
        context: this worker's rank, device and folder.
        activity: updated with what this worker is doing, for a watchdog; None: nobody watches.

    Raises:
        RecipeError: the training set's size or the model's parameters differ from the plan's, or the model differs
            between workers.
        JobFileError: the optimizer cannot be built, lacks a momentum that the schedule moves, or averages its weights
            itself although ``train.ema`` is set.
    """

    def __init__(
        self, recipe: Recipe, job: Job, plan: Plan, context: WorkerContext, activity: Activity | None = None
    ) -> None:
        require_same_model(recipe.model, world_size=context.world_size)
        require_planned(recipe, job, plan)
        self._recipe, self._job, self._context = recipe, job, context
        clock = clock_for(context.device)
        self._activity = activity = activity or Activity()
        self._run = run = Run(job, plan, context, clock)
        self._stepper = Stepper(recipe, job, plan, context, clock=clock, activity=activity, values=run.recorder.values)
        is_sharded = self._stepper.parallel.is_sharded
        self._evaluation = Evaluator(
            recipe, context, self._stepper.module, self._stepper.average, activity, is_sharded=is_sharded
        )
        self._checkpoints = checkpoints = CheckpointWriter(job, context, run.best, is_sharded=is_sharded)
        self._steps = Steps(recipe, job, run, context, self._stepper, clock)
        self._hand_over = HandOver(run, context, checkpoints, activity)
        self._saving = Saving(
            recipe.train_data, run, context, self._stepper, self._evaluation, checkpoints, self._hand_over, activity
        )
        self._recovery = Recovery(run, context, checkpoints, self.restore)
        self._random: Tensor | None = None  # this worker's random state in the checkpoint

    @property
    def samples_seen(self) -> int:
        """Samples that have contributed to the weights, over all workers."""
        return self._run.samples_seen

    @property
    def plan(self) -> Plan:
        """The plan, with the batches grown so far."""
        return self._run.plan

    def restore(self, samples_seen: int) -> None:
        """Continue from a checkpoint. Learning rates and constants are not restored: they are this plan's.

        Raises:
            RunError: the checkpoint is incomplete or altered.
            RecipeError: it holds another model than the recipe builds.
        """
        position = self._run.position
        state = load_checkpoint(self._context.folder, samples_seen, place=self._stepper.place)
        self._run.load_state_dict(state)
        self._stepper.load_state_dict(state, position.phase, samples_seen=samples_seen)
        if position.next_size():  # the checkpoint at the end of training holds the weights for evaluation
            self._stepper.set_mode(training=True)
        self._saving.is_complete = state["is_end"] and not position.next_size()
        self._saving.digests = state["data"]
        load_places(self._recipe.train_data, state.get("places", ()))
        rows = state["random"]
        self._random = rows[self._context.rank] if len(rows) == self._context.world_size else None

    def run(self) -> AttemptEnd:
        """Train to the end, or until this worker is asked to leave; a checkpoint exists in both cases.

        Raises:
            RecipeError: the loss is not a mean over samples, or the evaluation cannot be used.
            TrainingError: the training diverged, and the job says to stop, or allows no further return to a checkpoint.
            RunError: the last checkpoint cannot be written.
        """
        run, position, steps, saving = self._run, self._run.position, self._steps, self._saving
        self._begin()
        try:
            while size := position.next_size():
                start = run.samples_seen
                if not steps.take(size):
                    continue
                asked = self._hand_over.when_due()
                if grow_when_due(run, start):  # before the checkpoint
                    steps.restart()
                saving.when_due(start, now=asked.save or asked.leave is not Leave.NOT)
                if run.divergence is not None:
                    self._recovery.go_back()
                    self._begin_attempt()
                elif asked.leave is not Leave.NOT and position.next_size():
                    saving.finish()
                    return AttemptEnd.STOPPED if asked.leave is Leave.STOP else AttemptEnd.YIELDED
            if not saving.is_complete:
                saving.when_due(run.samples_seen, now=False)
            saving.finish()
            return AttemptEnd.FINISHED
        finally:  # after an error too: the measurements help to find its cause
            run.end_attempt(self._checkpoints.events())

    def _begin(self) -> None:
        """Check the start, and begin the attempt."""
        start = self._check_start() if self._run.position.next_size() else None
        self._begin_attempt()
        if start is not None:
            self._run.event(TriedOut, seconds=start.seconds, loss_not_checked=start.loss_not_checked)
        if self.samples_seen == 0 and self._run.controllers.may_go_back():
            self._saving.save()
            self._run.recorder.begin()

    def _check_start(self) -> Start:
        start = check_start(
            self._recipe,
            self._job,
            self.plan,
            self._context,
            model=self._stepper.module,
            evaluation=self._evaluation,
            activity=self._activity,
            samples_seen=self.samples_seen,
            digests=self._saving.digests,
            is_sharded=self._stepper.parallel.is_sharded,
        )
        self._saving.digests, self._steps.gathers = start.digests, start.gathers
        self._stepper.compile()  # after the checks, whose many small batches would each be compiled
        return start

    def _begin_attempt(self) -> None:
        """Begin an attempt where the run is, with the checkpoint's random state; without one, each worker's differs."""
        if self._random is not None:
            set_random_state(self._random, self._context.device)
        else:  # workers built the same model from one seed; their dropout must differ
            seed_worker(self._job.train.seed, rank=self._context.rank, samples_seen=self.samples_seen)
        self._run.begin_attempt(
            data_order=own_order(self._recipe.train_data), flops_per_sample=self._recipe.flops_per_sample
        )
        self._steps.restart()
        self._run.recorder.begin()
