"""The training loop: the same on one worker and on many, on Ray and in a plain process.

Everything is a function of ``samples_seen``. Nothing here counts anything else.
"""

from collections.abc import Iterator
from math import isfinite
from time import perf_counter
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from scaler.core.resize_ramp import ResizeRamp, ramp_after
from scaler.errors import TrainingError
from scaler.job import Job
from scaler.job.scale import GrowWithNoise
from scaler.metrics.means import Mean
from scaler.plan import Plan, grow, limit_micro_batches, regrow
from scaler.training.activity import SAVING, WAITING, Watch
from scaler.training.checkpoint import load_checkpoint
from scaler.training.checkpoint_files import find_checkpoint
from scaler.training.checkpoints import Checkpoints
from scaler.training.clock import clock_for
from scaler.training.controllers import Controllers
from scaler.training.data import StepIndices, batches
from scaler.training.evaluation import Evaluation
from scaler.training.fingerprint import Digests
from scaler.training.gather import several_micro_batches
from scaler.training.gradients import is_out_of_memory
from scaler.training.group import require_same_model
from scaler.training.hand_over import Pace
from scaler.training.randomness import gather_random_states, seed_worker, set_random_state
from scaler.training.recipe import Recipe, require_planned
from scaler.training.recorder import Recorder, Step
from scaler.training.shares import is_too_few_for_norm, share_of_one
from scaler.training.start import Start, check_start
from scaler.training.stepper import Stepper, WholeGradient
from scaler.training.worker_context import Ending, Leave, WorkerContext


class Training:
    """One worker's part in one life of the worker group.

    Args:
        recipe: model, data and loss.
        job: what was asked for.
        plan: every number, for the context' world size.
        context: where this worker is.

    Raises:
        RecipeError: the training set's size, or the model's parameters, are not the plan's, or the model differs
            between workers.
        JobFileError: the optimizer cannot be built, or lacks what the job moves or averages.
    """

    def __init__(self, recipe: Recipe, job: Job, plan: Plan, context: WorkerContext) -> None:
        require_same_model(recipe.model, world_size=context.world_size)
        require_planned(recipe, job, plan)
        self._recipe, self._job, self._plan, self._context = recipe, job, plan, context
        self._first_plan = plan  # before the batch grew with the noise
        self._device = context.device
        self._clock = clock_for(self._device)
        self.watch = Watch()
        self._stepper = Stepper(recipe, job, plan, context, clock=self._clock, watch=self.watch)
        self._phase = plan.phases[0]
        self._controllers = Controllers(job, plan)
        stepper = self._stepper
        self._evaluation = Evaluation(recipe, context, stepper.module, stepper.average, self.watch)
        self._recorder = Recorder(context, self._clock)
        self._checkpoints = Checkpoints(job, context)
        self._is_complete = False  # a checkpoint holds the end already, evaluated
        self._ramp: ResizeRamp | None = None  # after a resize that raised the rate
        self._random: Tensor | None = None  # what a checkpoint says of this worker's random numbers
        self._pace = Pace()
        self._digests: Digests = {}  # of the data that a checkpoint was trained on
        self._astray: str | None = None  # why the training has diverged, when it has
        self._gathers = False  # whether the loss is over the global batch: its gradient has no parts then
        self.samples_seen = 0
        self.progress = 0.0  # where the schedule is: samples_seen, unless the plan measures progress

    def restore(self, samples_seen: int) -> None:
        """Go on from a checkpoint. Rates and constants are not restored: they are this plan's.

        Raises:
            RunError: the checkpoint is torn or altered.
            RecipeError: it holds another model than the recipe builds.
        """
        context = self._context
        state = load_checkpoint(context.folder, samples_seen)
        self._controllers.load_state_dict(state["controllers"])
        self.samples_seen, self.progress = samples_seen, state["progress"]
        growth = self._controllers.growth
        assert not growth or isinstance(self._job.scale.batch_schedule, GrowWithNoise)
        self._plan = regrow(self._plan, self._job, growth)
        self._phase = self._plan.phase_at(samples_seen)
        self._stepper.load_state_dict(state, self._phase, samples_seen=samples_seen)
        self._controllers.measured(None, batch_ratio=self._phase.batch_ratio)
        self.samples_seen = self._plan.next_step(samples_seen)  # the batch may be another now, and the rest too small
        if self._next_size():  # the checkpoint of an end holds the evaluation's weights
            self._stepper.set_mode(training=True)
        self._checkpoints.load_state_dict(state["checkpoints"])
        self._is_complete = state["is_end"] and not self._next_size()
        self._ramp = self._ramp_after(state)
        self._digests = state.get("data", {})  # checkpoints of before lack them
        rows = state["random"]
        self._random = rows[context.rank] if len(rows) == context.world_size else None

    def run(self) -> Ending:
        """Train to the end, or until somebody asks this worker to leave; then a checkpoint is there.

        Raises:
            RecipeError: the loss is not a mean over samples, or the evaluation cannot be used.
            TrainingError: the loss went astray, and the job says to stop then, or it went back often enough.
            RunError: the last checkpoint cannot be written.
        """
        start = self._check_start() if self._next_size() else None
        self._begin_attempt()
        if start is not None:
            self._event("tried_out", **start.event)
        self._seed()
        self._recorder.begin()
        if self.samples_seen == 0 and self._controllers.may_go_back():
            self._save()
            self._recorder.stood_still("checkpoint_s")
        source = self._batches()
        self._recorder.begin()
        try:
            while size := self._next_size():
                began_at = self.samples_seen
                self._stepper.freeze(began_at)
                if not self._step(source, size):
                    source = self._batches()
                    continue
                leave, is_time = self._hand_over_together() if self._pace.is_due() else (Leave.NOT, False)
                grown = self._astray is None and self._grow_when_due(began_at)  # before it is saved
                self._save_and_evaluate_when_due(began_at, now=is_time or leave is not Leave.NOT)
                gone_back = self._astray is not None
                if gone_back:
                    self._go_back()
                elif leave is not Leave.NOT and self._next_size():
                    self._end_saving()
                    return Ending.STOPPED if leave is Leave.STOP else Ending.YIELDED
                if grown or gone_back:
                    source = self._batches()
            if not self._is_complete:
                self._save_and_evaluate_when_due(self.samples_seen, now=False)
            self._end_saving()
            return Ending.FINISHED
        finally:
            # Also when something raised: what was measured is worth more than ever.
            self._recorder.end_attempt()
            self._hand_over()

    def _check_start(self) -> Start:
        start = check_start(
            self._recipe,
            self._job,
            self._plan,
            self._context,
            model=self._stepper.module,
            evaluation=self._evaluation,
            watch=self.watch,
            samples_seen=self.samples_seen,
            digests=self._digests,
        )
        self._digests, self._gathers = start.digests, start.gathers
        return start

    def _next_size(self) -> int:
        """Samples in the next step; 0 at the end."""
        left = self._plan.total_samples - self.progress
        return self._plan.step_size(self.samples_seen) if left > 1e-6 else 0  # progress is a sum, and rounded

    def _batches(self) -> Iterator[Any]:
        recipe, train, rank = self._recipe, self._job.train, self._context.rank
        indices = StepIndices(self._plan, seed=train.seed, rank=rank, samples_seen=self.samples_seen)
        return batches(
            recipe,
            recipe.train_data,
            indices,
            data_workers=train.data_workers,
            pin=self._device.type == "cuda",
            seeds=indices.seeds(),
        )

    def _seed(self) -> None:
        """Let random numbers go on where the checkpoint left them; without one, each worker has its own."""
        if self._random is not None:
            set_random_state(self._random, self._device)
        else:  # workers built the same model from one seed; their dropout must differ
            seed_worker(self._job.train.seed, rank=self._context.rank, samples_seen=self.samples_seen)

    def _step(self, source: Iterator[Any], size: int) -> bool:
        """Take a step of ``size`` samples; return False when it must be tried again in smaller micro-batches."""
        plan, controllers = self._plan, self._controllers
        began = self._clock.mark()
        self._phase = phase = plan.phase_at(self.samples_seen)
        self._stepper.enter(phase)
        step = plan.steps(self.samples_seen)
        gradient = self._gradient(source, size, measure=self._is_measured(step))
        if gradient is None:
            return False
        is_measured = gradient.measures.parts is not None
        if is_measured:
            controllers.measured(gradient.squares, batch_ratio=phase.batch_ratio)
        own = plan.step_phase(self.samples_seen)
        lr = plan.lr_at(self.samples_seen, progress=self.progress) * controllers.lr_factor(own.batch_ratio)
        lr *= self._ramp_factor()
        worth = controllers.gain(own.batch_ratio)  # in steps of the reference, where it is measured
        used = self._stepper.update(
            gradient,
            own,
            lr=lr,
            momentum=plan.step_momentum(self.samples_seen, progress=self.progress),
            reference_steps=worth if plan.is_measured and self._job.scale.co_scale.ema else 1.0,
        )
        self._recorder.add(
            Step(
                step=step,
                samples_seen=self.samples_seen,
                progress=self.progress,
                lr=used,
                lr_planned=lr,
                began=began,
                measures=gradient.measures,
                grad_norm=gradient.norm,
                squares=gradient.squares,
                noise_scale=controllers.noise.noise_scale if is_measured else None,
            )
        )
        self.samples_seen = plan.next_step(self.samples_seen + size)
        if plan.is_measured:
            self.progress += worth * plan.reference_batch_size
        else:
            self.progress = float(self.samples_seen)
        return True

    def _whole_step_lr(self) -> float:
        """The learning rate of a whole batch from here on, without a ramp."""
        lr = self._plan.whole_step_lr_at(self.samples_seen, progress=self.progress)
        return lr * self._controllers.lr_factor(self._plan.phase_at(self.samples_seen).batch_ratio)

    def _ramp_factor(self) -> float:
        return self._ramp.at(self.samples_seen) if self._ramp is not None else 1.0

    def _ramp_after(self, state: dict[str, Any]) -> ResizeRamp | None:
        """The ramp to go on with: the checkpoint's, or a new one when another batch raises the rate by much."""
        rewarmup = self._job.scale.rewarmup
        if state["global_batch_size"] == self._phase.global_batch_size:
            return ResizeRamp.from_dict(state["ramp"])
        if rewarmup is None:
            return None
        before, now, length = state["lr"], self._whole_step_lr(), self._plan.rewarmup_samples
        return ramp_after(before, now, above=rewarmup.above, start=self.samples_seen, length=length)

    def _is_measured(self, step: int) -> bool:
        """Whether the noise of this step's gradient is measured."""
        every = 1 if self._plan.is_measured else self._job.train.noise_scale_every
        return every is not None and step % every == 0 and not self._gathers and self._stepper.can_measure_noise()

    def _gradient(self, source: Iterator[Any], size: int, *, measure: bool) -> WholeGradient | None:
        """Make the step's gradient; None when memory did not suffice, and the micro-batch was halved."""
        bounds = self._plan.micro_batch_bounds(size, rank=self._context.rank, samples_seen=self.samples_seen)
        sizes = [stop - start for start, stop in bounds]
        try:
            return self._stepper.gradient(source, sizes, self._plan, step_samples=size, measure=measure)
        except Exception as error:
            if 1 in sizes and is_too_few_for_norm(error):
                raise share_of_one(self._plan, samples_seen=self.samples_seen) from error
            # In a group the others wait in the middle of a sum: all of it starts again with smaller micro-batches.
            is_alone = self._context.world_size == 1
            if not (is_alone and self._job.scale.per_worker_batch_size == "auto" and is_out_of_memory(error)):
                raise
            most = self._phase.per_worker_batch_size
            if most == 1:
                raise TrainingError(
                    "out of memory with one sample in a forward/backward.", "Use a smaller model, or larger workers."
                ) from error
            if self._gathers:
                raise several_micro_batches(2) from error
        self._halve_micro_batches(most)
        return None

    def _halve_micro_batches(self, most: int) -> None:
        self._stepper.renew()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        half = most // 2
        self._plan = limit_micro_batches(self._plan, half)
        self._first_plan = limit_micro_batches(self._first_plan, half)
        self._event("micro_batch_halved", per_worker_batch_size=half)

    def _hand_over_together(self) -> tuple[Leave, bool]:
        """About once a second, at a step that all workers agree on: hand records over, and ask what to do.

        Returns:
            Whether to leave, and whether it is time for a checkpoint by the clock.
        """
        self._hand_over()
        self._judge()
        wanted = self._context.wanted_steps(self._recorder.steps_per_record)
        mine = [self._context.leave_requested(), self._checkpoints.is_time(), self._pace.step_time_s(), wanted]
        asked = torch.tensor(mine, dtype=torch.float64)
        if self._context.world_size > 1:
            self.watch.now(WAITING)
            asked = asked.to(self._device)
            dist.all_reduce(asked, op=dist.ReduceOp.MAX)
        leave, save, step_time_s, wanted = asked.tolist()
        self._pace.next_after(step_time_s)
        self._thin(int(wanted))
        return Leave(int(leave)), bool(save)

    def _thin(self, steps: int) -> None:
        """Let records stand for more steps from here on; for no more than are handed over together."""
        steps = min(steps, self._pace.window)
        if steps > self._recorder.steps_per_record:
            self._recorder.steps_per_record = steps
            self._event("records_thinned", steps=steps, reason="the collector cannot keep up")

    def _hand_over(self) -> None:
        self._recorder.hand_over(samples_seen=self.samples_seen, events=self._checkpoints.events())

    def _judge(self) -> None:
        """Show the guard the losses that were handed over since the last time, as means over all workers."""
        records = self._recorder.unjudged()
        means = [Mean() for _ in records]
        for mean, record in zip(means, records, strict=True):
            mean.add(record.loss, record.loss_weight)
        sums = torch.tensor([(mean.total, mean.weight) for mean in means], dtype=torch.float64).reshape(-1, 2)
        if self._context.world_size > 1 and len(records):
            sums = sums.to(self._device)
            dist.all_reduce(sums)
        losses = [Mean(total, weight).value for total, weight in sums.tolist()]
        self._astray = self._controllers.observed([loss for loss in losses if loss is not None])

    def _go_back(self) -> None:
        """Load the last checkpoint and lower the rate; or stop.

        Raises:
            TrainingError: the job says to stop, or it went back often enough.
        """
        reason, self._astray = self._astray, None
        assert reason is not None
        goes_back, times = self._controllers.may_go_back(), self._controllers.times_gone_back + 1
        self._event("diverged", reason=reason, goes_back=goes_back)
        if not goes_back:
            raise self._controllers.stopped_by(reason)
        start = torch.tensor([0, 0], dtype=torch.int64, device=self._device)
        if self._context.rank == 0:
            self._checkpoints.wait()
            found, passed_over = find_checkpoint(self._context.folder)
            for samples, why in passed_over:
                self._event("checkpoint_passed_over", samples_seen=samples, reason=why)
            if found is None:
                raise TrainingError(f"{reason}, and no checkpoint to go back to can be read.", "Submit the job again.")
            start = torch.tensor([found, self._context.next_attempt()], device=self._device)
        if self._context.world_size > 1:
            dist.broadcast(start, 0)
        samples_seen, attempt = start.tolist()
        self._recorder.end_attempt()
        self._hand_over()
        self._recorder.unjudged()  # of what is thrown away
        self._plan = self._first_plan
        self.restore(samples_seen)
        self._controllers.went_back(times=times)
        self._context.attempt = attempt
        self._seed()
        self._begin_attempt()
        self._recorder.begin()

    def _grow_when_due(self, start: int) -> bool:
        """Where the batch follows the noise: look, and grow it from the next step on. Return whether it did."""
        every = self._plan.grow_every_samples
        if every is None or start // every == self.samples_seen // every:
            return False
        grown = self._controllers.next_batch(self._phase.global_batch_size)
        if grown is None or not self._next_size():
            return False
        self._plan = grow(self._plan, self._job, samples_seen=self.samples_seen, global_batch_size=grown)
        self._controllers.growth.append((self.samples_seen, grown / self._plan.phases[0].global_batch_size))
        phase = self._plan.phase_at(self.samples_seen)
        self._event("batch_grown", global_batch_size=grown, peak_lr=phase.peak_lr)
        self.samples_seen = self._plan.next_step(self.samples_seen)
        return True

    def _begin_attempt(self) -> None:
        phase = self._plan.phase_at(self.samples_seen)
        self._event(
            "attempt_started",
            start_samples=self.samples_seen,
            world_size=self._context.world_size,
            global_batch_size=phase.global_batch_size,
            per_worker_batch_size=phase.per_worker_batch_size,
            peak_lr=phase.peak_lr,
            ramp=self._ramp.to_dict() if self._ramp is not None else None,
            flops_per_sample=self._recipe.flops_per_sample,
        )

    def _save_and_evaluate_when_due(self, start: int, *, now: bool) -> None:
        """After the step that began at ``start``: what is due with it; at the end of training both; a save ``now``."""
        ended = self._next_size() == 0

        def due(every: int | None) -> bool:
            return ended or (every is not None and start // every != self.samples_seen // every)

        save = due(self._plan.checkpoint_every_samples) or now
        measure = due(self._plan.eval_every_samples) and self._evaluation.is_there
        if not (save or measure) or self._astray is not None:
            return
        self._stepper.share_buffers()
        if measure or ended:
            self._stepper.set_mode(training=False)
        values = self._evaluate() if measure else None
        is_best = values is not None and self._checkpoints.is_best(values)
        if measure and not ended:
            self._stepper.set_mode(training=True)
        if measure:
            self._recorder.stood_still("evaluation_s")
        if save or is_best:
            self._save(values, is_best=is_best)
            self._recorder.stood_still("checkpoint_s")
        self._is_complete = ended
        self._pace.after_a_break()

    def _evaluate(self) -> dict[str, float]:
        began = perf_counter()
        values = self._evaluation.values(self._plan)
        known = {name: value if isfinite(value) else None for name, value in values.items()}
        self._event("evaluated", values=known, seconds=perf_counter() - began)
        lowered = self._controllers.evaluated(values)
        if lowered is not None and self._next_size():  # at the end there is no rate to lower
            self._event(**lowered)
        return values

    def _save(self, values: dict[str, float] | None = None, *, is_best: bool = False) -> None:
        """Have a checkpoint written; none of a training gone astray. Training stands still for a copy in memory.

        Args:
            values: of an evaluation of just these weights; None: there was none.
            is_best: whether these are the best so far.
        """
        began, context = perf_counter(), self._context
        self._hand_over()
        self._judge()
        if self._astray is None and self._controllers.is_guarded:
            self._astray = self._stepper.broken_weight()
        if self._astray is not None or (self._next_size() and self._controllers.waits_for_a_better_loss()):
            return
        if is_best and values is not None:
            self._checkpoints.keep_as_best(values)
        self.watch.now(SAVING)
        states = gather_random_states(self._device, world_size=context.world_size)
        if context.rank == 0:
            state = {**self._state(), "random": states}
            self._checkpoints.save(state, self._plan, values=values, is_best=is_best, began=began)

    def _state(self) -> dict[str, Any]:
        """Everything that another life needs to go on as if nothing had happened; its plan it makes itself."""
        return {
            **self._stepper.state_dict(),
            "controllers": self._controllers.state_dict(),
            "data": self._digests,
            "samples_seen": self.samples_seen,
            "progress": self.progress,
            "checkpoints": self._checkpoints.state_dict(),
            "is_end": not self._next_size(),
            "global_batch_size": self._plan.phase_at(self.samples_seen).global_batch_size,
            "lr": self._whole_step_lr() * self._ramp_factor(),  # of a whole batch from here on
            "ramp": self._ramp.to_dict() if self._ramp is not None else None,
        }

    def _end_saving(self) -> None:
        """Wait until the last checkpoint counts, on every worker: who leaves earlier may end rank 0 with it."""
        self.watch.now(SAVING)
        if self._context.rank == 0:
            self._checkpoints.finish()
        if self._context.world_size > 1:
            self.watch.now(WAITING)
            dist.barrier()
        self._recorder.stood_still("checkpoint_s")

    def _event(self, kind: str, **values: Any) -> None:
        self._recorder.event(kind, **{"samples_seen": self.samples_seen, **values})
