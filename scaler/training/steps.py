"""The steps of the built-in loop: a worker's share of the data, the gradient of all workers, the optimizer's step."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from scaler.errors import TrainingError
from scaler.job import Job
from scaler.metrics.events import MicroBatchHalved
from scaler.training.clock import Clock
from scaler.training.data.batches import batches
from scaler.training.data.order import StepIndices
from scaler.training.data.stream import own_order
from scaler.training.device import is_out_of_memory
from scaler.training.gradients.gather import several_micro_batches
from scaler.training.recipe import Recipe
from scaler.training.recipe.tokens import of_length
from scaler.training.run import Run
from scaler.training.start_checks.batch_norm import is_single_sample_error, single_sample_error
from scaler.training.stepper import Stepper, WholeGradient
from scaler.training.worker_context import WorkerContext


class Steps:
    """Takes steps from where the run is.

    Args:
        recipe: its data.
        job: of the run.
        run: this worker's part of it.
        context: this worker's.
        stepper: computes and updates.
        clock: of the device.

    Attributes:
        gathers: whether the loss is over the global batch: then its gradient has no independent parts.
    """

    def __init__(
        self, recipe: Recipe, job: Job, run: Run, context: WorkerContext, stepper: Stepper, clock: Clock
    ) -> None:
        self._recipe, self._job, self._run, self._context = recipe, job, run, context
        self._stepper, self._clock = stepper, clock
        self._source: Iterator[Any] | None = None  # of micro-batches; None: it begins where the run is
        self.gathers = False

    def restart(self) -> None:
        """Read the data anew from where the run is: its batch, or its place, has changed."""
        self._source = None

    def take(self, size: int) -> bool:
        """Take a step of ``size`` samples; return False when it must be tried again in smaller micro-batches."""
        run, position, controllers = self._run, self._run.position, self._run.controllers
        self._stepper.freeze(run.samples_seen)
        began = self._clock.mark()
        phase = position.begin_step()
        self._stepper.enter(phase)
        sizes = self._micro_batch_sizes(size)
        gradient = self._gradient(size, sizes, measure=self._is_measured())
        if gradient is None:
            return False
        is_measured = gradient.measures.parts is not None
        if is_measured:
            controllers.add_measurement(gradient.squares, batch_ratio=phase.batch_ratio)
        step, plan = run.planned_step(size), run.plan
        with self._explained(sizes):  # a recipe's own step computes here
            used = self._stepper.update(
                gradient,
                step.phase,
                lr=step.lr,
                momentum=plan.step_momentum(step.samples_seen, progress=step.progress),
                reference_steps=step.worth if plan.is_measured and self._job.scale.co_scale.ema else 1.0,
            )
        run.end_step(
            step,
            lr=used,
            began=began,
            measures=gradient.measures,
            grad_norm=gradient.norm,
            squares=gradient.squares,
            noise_scale=controllers.noise.noise_scale if is_measured else None,
        )
        return True

    def _is_measured(self) -> bool:
        """Return whether the noise of the next step's gradient is measured."""
        plan = self._run.plan
        every = 1 if plan.is_measured else self._job.train.noise_scale_every
        if every is None or plan.steps(self._run.samples_seen) % every:
            return False
        return not self.gathers and self._stepper.can_measure_noise()

    def _micro_batch_sizes(self, size: int) -> list[int]:
        """Return the samples in each micro-batch of this worker's share of the next step."""
        bounds = self._run.plan.micro_batch_bounds(size, rank=self._context.rank, samples_seen=self._run.samples_seen)
        return [stop - start for start, stop in bounds]

    @contextmanager
    def _explained(self, sizes: Sequence[int]) -> Iterator[None]:
        """Explain the error of a norm that gets one sample, in a ``with`` block."""
        try:
            yield
        except Exception as error:
            if 1 in sizes and is_single_sample_error(error):
                raise single_sample_error(self._run.plan, samples_seen=self._run.samples_seen) from error
            raise

    def _gradient(self, size: int, sizes: Sequence[int], *, measure: bool) -> WholeGradient | None:
        """Compute the step's gradient; None when memory did not suffice, and micro-batches are now half as large."""
        if self._source is None:
            self._source = self._batches()
        try:
            with self._explained(sizes):
                return self._stepper.gradient(self._source, sizes, self._run.plan, step_samples=size, measure=measure)
        except Exception as error:
            # In a group the others wait inside an all-reduce: then the whole group starts again.
            is_alone = self._context.world_size == 1
            if not (is_alone and self._job.scale.per_worker_batch_size == "auto" and is_out_of_memory(error)):
                raise
            if self._run.position.phase.per_worker_batch_size == 1:
                raise TrainingError(
                    "out of memory with one sample in a forward/backward.",
                    "Use a smaller model, or workers with more memory.",
                ) from error
            if self.gathers:
                raise several_micro_batches(2) from error
        self._halve_micro_batches()
        return None

    def _halve_micro_batches(self) -> None:
        self._stepper.renew()
        if self._context.device.type == "cuda":
            torch.cuda.empty_cache()
        half = self._run.position.halve_micro_batches()
        self._run.event(MicroBatchHalved, per_worker_batch_size=half)
        self.restart()

    def _batches(self) -> Iterator[Any]:
        recipe, train = self._recipe, self._job.train
        is_own = own_order(recipe.train_data) is not None
        indices = StepIndices(
            self._run.plan,
            seed=train.seed,
            rank=self._context.rank,
            samples_seen=self._run.samples_seen,
            own_order=is_own,
        )
        source = batches(
            recipe,
            recipe.train_data,
            indices,
            data_workers=train.data_workers,
            pin=train.pin_memory and self._context.device.type == "cuda",
            seeds=indices.seeds(),
            seed=train.seed,
        )
        # A batch gets the tokens of the step that takes it, which may be loaded long before.
        return (of_length(recipe, batch, self._run.position.phase) for batch in source)
