"""The training loop: the same on one worker and on many, on Ray and in a plain process.

Everything is a function of ``samples_seen``; the loop has no other counter. It is one class because its methods change
the same state: what is checked, measured, handed over, saved and undone depends on the order of these calls.
"""

from collections.abc import Callable, Iterator
from math import isfinite
from time import perf_counter, time
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from scaler.errors import TrainingError
from scaler.job import Job
from scaler.metrics.events import (
    SAVING,
    WAITING,
    AttemptStarted,
    BatchGrown,
    CheckpointPassedOver,
    Diverged,
    Evaluated,
    Event,
    LrLowered,
    MicroBatchHalved,
    RecordsThinned,
    TriedOut,
)
from scaler.metrics.mean import Mean
from scaler.plan import Plan
from scaler.training.activity import Activity
from scaler.training.checkpoints.files import find_checkpoint
from scaler.training.checkpoints.state import load_checkpoint
from scaler.training.checkpoints.writer import CheckpointWriter
from scaler.training.clock import clock_for
from scaler.training.controllers import Controllers
from scaler.training.data.batches import batches
from scaler.training.data.order import StepIndices
from scaler.training.data.sources import gather_places, load_places
from scaler.training.data.stream import own_order
from scaler.training.device import is_out_of_memory
from scaler.training.evaluation.evaluator import Evaluator
from scaler.training.gradients.gather import several_micro_batches
from scaler.training.position import Position
from scaler.training.process_group import from_rank_0, max_over_workers, sum_over_workers
from scaler.training.randomness import gather_random_states, seed_worker, set_random_state
from scaler.training.recipe import Recipe
from scaler.training.recipe.check import require_planned
from scaler.training.recorder import HandOverInterval, Recorder, StepMeasurement
from scaler.training.start_checks.batch_norm import is_single_sample_error, single_sample_error
from scaler.training.start_checks.data_digests import Digests
from scaler.training.start_checks.same_model import require_same_model
from scaler.training.start_checks.start import Start, check_start
from scaler.training.stepper import Stepper, WholeGradient
from scaler.training.worker_context import AttemptEnd, Leave, WorkerContext


class Training:
    """One worker's part of one attempt of the worker group.

    Args:
        recipe: model, data and loss.
        job: the job of the run.
        plan: every number, for the context's world size.
        context: this worker's rank, device and folder.

    Attributes:
        activity: what this worker is doing now, for the watchdog.

    Raises:
        RecipeError: the training set's size or the model's parameters differ from the plan's, or the model differs
            between workers.
        JobFileError: the optimizer cannot be built, lacks a momentum that the schedule moves, or averages its weights
            itself although ``train.ema`` is set.
    """

    def __init__(self, recipe: Recipe, job: Job, plan: Plan, context: WorkerContext) -> None:
        require_same_model(recipe.model, world_size=context.world_size)
        require_planned(recipe, job, plan)
        self._recipe, self._job, self._context = recipe, job, context
        self._device, self._world_size = context.device, context.world_size
        self._clock = clock_for(self._device)
        self.activity = Activity()
        self._stepper = Stepper(recipe, job, plan, context, clock=self._clock, activity=self.activity)
        self._controllers = Controllers(job, plan)
        self._position = Position(job, plan, self._controllers)
        stepper = self._stepper
        self._evaluation = Evaluator(recipe, context, stepper.module, stepper.average, self.activity)
        self._recorder = Recorder(context, self._clock)
        self._checkpoints = CheckpointWriter(job, context)
        self._is_complete = False  # the end of training has been evaluated and saved
        self._random: Tensor | None = None  # this worker's random state in the checkpoint
        self._interval = HandOverInterval()
        self._digests: Digests = {}  # of the data that the checkpoint was trained on
        self._divergence: str | None = None  # why the training has diverged; None: it has not
        self._gathers = False  # whether the loss is over the global batch: then its gradient has no independent parts

    @property
    def samples_seen(self) -> int:
        """Samples that have contributed to the weights, over all workers."""
        return self._position.samples_seen

    @property
    def plan(self) -> Plan:
        """The plan, with the batches grown so far."""
        return self._position.plan

    def restore(self, samples_seen: int) -> None:
        """Continue from a checkpoint. Learning rates and constants are not restored: they are this plan's.

        Raises:
            RunError: the checkpoint is incomplete or altered.
            RecipeError: it holds another model than the recipe builds.
        """
        state = load_checkpoint(self._context.folder, samples_seen)
        self._controllers.load_state_dict(state["controllers"])
        self._position.load_state_dict(state)
        self._stepper.load_state_dict(state, self._position.phase, samples_seen=samples_seen)
        if self._position.next_size():  # the checkpoint at the end of training holds the weights for evaluation
            self._stepper.set_mode(training=True)
        self._checkpoints.load_state_dict(state["checkpoints"])
        self._is_complete = state["is_end"] and not self._position.next_size()
        self._digests = state["data"]
        load_places(self._recipe.train_data, state.get("places", ()))
        rows = state["random"]
        self._random = rows[self._context.rank] if len(rows) == self._world_size else None

    def run(self) -> AttemptEnd:
        """Train to the end, or until this worker is asked to leave; a checkpoint exists in both cases.

        Raises:
            RecipeError: the loss is not a mean over samples, or the evaluation cannot be used.
            TrainingError: the training diverged, and the job says to stop, or allows no further return to a checkpoint.
            RunError: the last checkpoint cannot be written.
        """
        position = self._position
        start = self._check_start() if position.next_size() else None
        self._begin_attempt()
        if start is not None:
            self._event(TriedOut, seconds=start.seconds, loss_not_checked=start.loss_not_checked)
        self._seed()
        self._recorder.begin()
        if self.samples_seen == 0 and self._controllers.may_go_back():
            self._save()
            self._recorder.add_pause("checkpoint_s")
        source = self._batches()
        self._recorder.begin()
        try:
            while size := position.next_size():
                began_at = position.samples_seen
                self._stepper.freeze(began_at)
                if not self._step(source, size):
                    source = self._batches()
                    continue
                leave, save_now = self._hand_over_together() if self._interval.is_due() else (Leave.NOT, False)
                grown = self._divergence is None and self._grow_when_due(began_at)  # before the checkpoint
                self._save_and_evaluate_when_due(began_at, now=save_now or leave is not Leave.NOT)
                gone_back = self._divergence is not None
                if gone_back:
                    self._go_back()
                elif leave is not Leave.NOT and position.next_size():
                    self._end_saving()
                    return AttemptEnd.STOPPED if leave is Leave.STOP else AttemptEnd.YIELDED
                if grown or gone_back:
                    source = self._batches()
            if not self._is_complete:
                self._save_and_evaluate_when_due(self.samples_seen, now=False)
            self._end_saving()
            return AttemptEnd.FINISHED
        finally:  # after an error too: the measurements help to find its cause
            self._recorder.end_attempt()
            self._hand_over()

    def _check_start(self) -> Start:
        start = check_start(
            self._recipe,
            self._job,
            self.plan,
            self._context,
            model=self._stepper.module,
            evaluation=self._evaluation,
            activity=self.activity,
            samples_seen=self.samples_seen,
            digests=self._digests,
        )
        self._digests, self._gathers = start.digests, start.gathers
        self._stepper.compile()  # after the checks, whose many small batches would each be compiled
        return start

    def _batches(self) -> Iterator[Any]:
        recipe, train, rank = self._recipe, self._job.train, self._context.rank
        is_own = own_order(recipe.train_data) is not None
        indices = StepIndices(self.plan, seed=train.seed, rank=rank, samples_seen=self.samples_seen, own_order=is_own)
        return batches(
            recipe,
            recipe.train_data,
            indices,
            data_workers=train.data_workers,
            pin=train.pin_memory and self._device.type == "cuda",
            seeds=indices.seeds(),
            seed=train.seed,
        )

    def _seed(self) -> None:
        """Restore the checkpoint's random state; without one, seed each worker differently."""
        if self._random is not None:
            set_random_state(self._random, self._device)
        else:  # workers built the same model from one seed; their dropout must differ
            seed_worker(self._job.train.seed, rank=self._context.rank, samples_seen=self.samples_seen)

    def _step(self, source: Iterator[Any], size: int) -> bool:
        """Take a step of ``size`` samples; return False when it must be tried again in smaller micro-batches."""
        position, controllers = self._position, self._controllers
        plan, samples_seen, progress = position.plan, position.samples_seen, position.progress
        began = self._clock.mark()
        phase = position.begin_step()
        self._stepper.enter(phase)
        step = plan.steps(samples_seen)
        gradient = self._gradient(source, size, measure=self._is_measured(step))
        if gradient is None:
            return False
        is_measured = gradient.measures.parts is not None
        if is_measured:
            controllers.add_measurement(gradient.squares, batch_ratio=phase.batch_ratio)
        own = plan.step_phase(samples_seen)
        lr = position.lr(own)
        worth = controllers.gain(own.batch_ratio)  # in steps of the reference, where it is measured
        used = self._stepper.update(
            gradient,
            own,
            lr=lr,
            momentum=plan.step_momentum(samples_seen, progress=progress),
            reference_steps=worth if plan.is_measured and self._job.scale.co_scale.ema else 1.0,
        )
        self._recorder.add(
            StepMeasurement(
                step=step,
                samples_seen=samples_seen,
                progress=progress,
                lr=used,
                lr_planned=lr,
                began=began,
                measures=gradient.measures,
                grad_norm=gradient.norm,
                squares=gradient.squares,
                noise_scale=controllers.noise.noise_scale if is_measured else None,
            )
        )
        position.advance(size, worth=worth)
        return True

    def _is_measured(self, step: int) -> bool:
        """Return whether the noise of this step's gradient is measured."""
        every = 1 if self.plan.is_measured else self._job.train.noise_scale_every
        return every is not None and step % every == 0 and not self._gathers and self._stepper.can_measure_noise()

    def _gradient(self, source: Iterator[Any], size: int, *, measure: bool) -> WholeGradient | None:
        """Compute the step's gradient; None when memory did not suffice, and micro-batches are now half as large."""
        plan = self.plan
        bounds = plan.micro_batch_bounds(size, rank=self._context.rank, samples_seen=self.samples_seen)
        sizes = [stop - start for start, stop in bounds]
        try:
            return self._stepper.gradient(source, sizes, plan, step_samples=size, measure=measure)
        except Exception as error:
            if 1 in sizes and is_single_sample_error(error):
                raise single_sample_error(plan, samples_seen=self.samples_seen) from error
            # In a group the others wait inside an all-reduce: then the whole group starts again.
            is_alone = self._world_size == 1
            if not (is_alone and self._job.scale.per_worker_batch_size == "auto" and is_out_of_memory(error)):
                raise
            if self._position.phase.per_worker_batch_size == 1:
                raise TrainingError(
                    "out of memory with one sample in a forward/backward.",
                    "Use a smaller model, or workers with more memory.",
                ) from error
            if self._gathers:
                raise several_micro_batches(2) from error
        self._halve_micro_batches()
        return None

    def _halve_micro_batches(self) -> None:
        self._stepper.renew()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        half = self._position.halve_micro_batches()
        self._event(MicroBatchHalved, per_worker_batch_size=half)

    def _hand_over_together(self) -> tuple[Leave, bool]:
        """Hand records over, and agree with all workers on what to do next; every second or more, at the same step.

        Returns:
            Whether to leave, and whether a checkpoint is due by the clock.
        """
        step_time_s, began = self._interval.step_time_s(), perf_counter()
        self._hand_over()
        self._check_losses()
        wanted = self._context.wanted_steps(self._recorder.steps_per_record)
        leaves, is_due = self._context.leave_requested(), self._checkpoints.is_due()
        mine = [leaves, is_due, step_time_s, wanted, -self._interval.cost_s]
        if self._world_size > 1:
            self.activity.begin(WAITING)
        agreed = max_over_workers(mine, world_size=self._world_size, device=self._device)
        leave, save, step_time_s, steps, minus_cost_s = agreed
        self._interval.set_next(step_time_s, cost_s=-minus_cost_s)
        self._interval.cost_s = perf_counter() - began
        self._thin(int(steps))
        return Leave(int(leave)), bool(save)

    def _thin(self, steps: int) -> None:
        """Let each record cover ``steps`` steps from here on, but no more than are handed over together."""
        steps = min(steps, self._interval.steps)
        if steps > self._recorder.steps_per_record:
            self._recorder.steps_per_record = steps
            self._event(RecordsThinned, steps=steps, reason="the collector cannot keep up")

    def _hand_over(self) -> None:
        self._recorder.hand_over(samples_seen=self.samples_seen, events=self._checkpoints.events())

    def _check_losses(self) -> None:
        """Give the divergence guard the losses since the last call, as means over all workers."""
        records = self._recorder.unchecked_records()
        means = [Mean() for _ in records]
        for mean, record in zip(means, records, strict=True):
            mean.add(record.loss, record.loss_weight)
        sums = torch.tensor([(mean.total, mean.weight) for mean in means], dtype=torch.float64).reshape(-1, 2)
        sums = sum_over_workers(sums, world_size=self._world_size, device=self._device)
        losses = [Mean(total, weight).value for total, weight in sums.tolist()]
        self._divergence = self._controllers.add_losses([loss for loss in losses if loss is not None])

    def _go_back(self) -> None:
        """Load the last checkpoint and lower the learning rate; or stop.

        Raises:
            TrainingError: the job says to stop, or allows no further return to a checkpoint.
        """
        reason, self._divergence = self._divergence, None
        assert reason is not None
        goes_back, times = self._controllers.may_go_back(), self._controllers.times_gone_back + 1
        self._event(Diverged, reason=reason, goes_back=goes_back)
        if not goes_back:
            raise self._controllers.divergence_error(reason)
        start = [0, 0]
        if self._context.rank == 0:
            self._checkpoints.wait()
            found, passed_over = find_checkpoint(self._context.folder)
            for samples, why in passed_over:
                self._event(CheckpointPassedOver, samples_seen=samples, reason=why)
            if found is None:
                raise TrainingError(f"{reason}, and no checkpoint to go back to can be read.", "Submit the job again.")
            start = [found, self._context.next_attempt()]
        samples_seen, attempt = from_rank_0(start, world_size=self._world_size, device=self._device)
        self._recorder.end_attempt()
        self._hand_over()
        self._recorder.unchecked_records()  # these steps are undone
        self.restore(samples_seen)
        self._controllers.set_times_gone_back(times=times)
        self._context.attempt = attempt
        self._seed()
        self._begin_attempt()
        self._recorder.begin()

    def _grow_when_due(self, start: int) -> bool:
        """Grow the batch from the next step on if the job and the measured noise ask for it; return whether it did."""
        position = self._position
        if not position.is_grow_check_due(start):
            return False
        grown = self._controllers.next_batch(position.phase.global_batch_size)
        if grown is None or not position.next_size():
            return False
        phase = position.grow(grown)
        self._event(BatchGrown, global_batch_size=grown, peak_lr=phase.peak_lr)
        position.align()
        return True

    def _begin_attempt(self) -> None:
        phase, ramp = self._position.next_phase(), self._position.ramp
        self._event(
            AttemptStarted,
            start_samples=self.samples_seen,
            world_size=self._context.world_size,
            global_batch_size=phase.global_batch_size,
            per_worker_batch_size=phase.per_worker_batch_size,
            peak_lr=phase.peak_lr,
            ramp=ramp.to_dict() if ramp is not None else None,
            flops_per_sample=self._recipe.flops_per_sample,
            data_order=own_order(self._recipe.train_data),
        )

    def _save_and_evaluate_when_due(self, start: int, *, now: bool) -> None:
        """Save and evaluate as the plan says, and at the end of the training.

        Args:
            start: where the last step began, in samples.
            now: whether to save even if no checkpoint is due.
        """
        is_end = self._position.next_size() == 0

        def due(every: int | None) -> bool:
            return is_end or (every is not None and start // every != self.samples_seen // every)

        save = due(self.plan.checkpoint_every_samples) or now
        evaluate = due(self.plan.eval_every_samples) and self._evaluation.is_there
        if not (save or evaluate) or self._divergence is not None:
            return
        self._stepper.broadcast_buffers()
        if evaluate or is_end:
            self._stepper.set_mode(training=False)
        values = self._evaluate() if evaluate else None
        is_best = values is not None and self._checkpoints.is_best(values)
        if evaluate and not is_end:
            self._stepper.set_mode(training=True)
        if evaluate:
            self._recorder.add_pause("evaluation_s")
        if save or is_best:
            self._save(values, is_best=is_best)
            self._recorder.add_pause("checkpoint_s")
        self._is_complete = is_end
        self._interval.end_at_next_step()

    def _evaluate(self) -> dict[str, float]:
        began = perf_counter()
        values = self._evaluation.values(self.plan)
        known = {name: value if isfinite(value) else None for name, value in values.items()}
        self._event(Evaluated, values=known, seconds=perf_counter() - began)
        lowered = self._controllers.add_evaluation(values)
        if lowered is not None and self._position.next_size():  # at the end there is no learning rate to lower
            self._event(LrLowered, by="plateau", factor=lowered.factor, reason=lowered.reason)
        return values

    def _save(self, values: dict[str, float] | None = None, *, is_best: bool = False) -> None:
        """Start to write a checkpoint, unless the training has diverged. Training waits for a copy in memory only.

        Args:
            values: of an evaluation of these weights; None: they were not evaluated.
            is_best: whether these are the best so far.
        """
        began, context = perf_counter(), self._context
        self._hand_over()
        self._check_losses()
        if self._divergence is None and self._controllers.is_guarded:
            self._divergence = self._stepper.broken_weight()
        if self._divergence is not None:
            return
        if self._position.next_size() and self._controllers.is_suspect():
            return
        if is_best and values is not None:
            self._checkpoints.keep_as_best(values)
        self.activity.begin(SAVING)
        states = gather_random_states(self._device, world_size=context.world_size)
        places = gather_places(self._recipe.train_data, world_size=context.world_size)
        if context.rank == 0:
            state = {**self._state(), "random": states, "places": places}
            self._checkpoints.save(state, self.plan, values=values, is_best=is_best, began=began)

    def _state(self) -> dict[str, Any]:
        """Return everything that the next attempt needs to continue exactly, except the plan, which it makes itself."""
        return {
            **self._stepper.state_dict(),
            "controllers": self._controllers.state_dict(),
            "data": self._digests,
            "checkpoints": self._checkpoints.state_dict(),
            **self._position.state_dict(),
        }

    def _end_saving(self) -> None:
        """Wait on every worker for the last checkpoint: a worker that leaves earlier may end rank 0 too."""
        self.activity.begin(SAVING)
        if self._context.rank == 0:
            self._checkpoints.finish()
        if self._world_size > 1:
            self.activity.begin(WAITING)
            dist.barrier()
        self._recorder.add_pause("checkpoint_s")

    def _event(self, kind: Callable[..., Event], **values: Any) -> None:
        """Record an event of this attempt; ``values`` are the fields of its kind."""
        where = {"time": time(), "attempt": self._context.attempt, "samples_seen": self.samples_seen}
        self._recorder.event(kind(**{**where, **values}))
