"""One worker's part of an optimizer step, from its micro-batches to the new weights."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from scaler.core.noise_scale import GradientSquares, estimate_squares
from scaler.errors import RecipeError
from scaler.job import Job
from scaler.job.acceleration import Compile
from scaler.plan import Phase, Plan
from scaler.training.activity import Activity
from scaler.training.checkpoints.state import require_readable, require_same_shapes
from scaler.training.clock import Clock
from scaler.training.gradients.own_step import OwnStep
from scaler.training.gradients.parts import Parts
from scaler.training.gradients.step import GradientStep, StepMeasures
from scaler.training.gradients.step_context import LoadedBatch, Numbers
from scaler.training.gradients.values import RecordedValues
from scaler.training.model.acceleration import (
    compile_failure,
    compile_model,
    recompute_activations,
    use_channels_last,
)
from scaler.training.model.average import WeightAverage
from scaler.training.model.buffers import broadcast_tensors
from scaler.training.model.modes import Freezing, start_training
from scaler.training.model.names import load_model_state, model_state, named_parameters
from scaler.training.model.sharding import outside_forward, whole_numbers
from scaler.training.optimizer.joint import JointOptimizers
from scaler.training.optimizer.preconditioner import Preconditioner
from scaler.training.optimizer.scaled import ScaledOptimizer
from scaler.training.optimizer.settings import set_mode
from scaler.training.parallel.make import make_parallel
from scaler.training.recipe import Recipe
from scaler.training.recipe.optimizers import trained_by
from scaler.training.worker_context import WorkerContext

NO_NORM = torch.zeros(())


@dataclass(kw_only=True, slots=True)
class WholeGradient:
    """A step's gradient over all workers, in the parameters' ``grad``; not clipped.

    If the recipe has ``step``, ``update`` runs it: ``measures`` and ``norm`` are set then, and ``loaded`` until then.
    """

    measures: StepMeasures
    trained: Sequence[nn.Parameter]  # the parameters that have a gradient
    norm: Tensor
    squares: GradientSquares | None  # None unless its noise was measured and could be estimated
    loaded: LoadedBatch | None = None  # what the recipe's ``step`` gets


class Stepper:
    """Model, optimizers, loss scalers and weight average of one worker.

    Args:
        recipe: model, and loss or step.
        job: precision, clipping, average, and how the model computes.
        plan: of this attempt; its groups and optimizers are used.
        context: this worker's device and world size.
        clock: the device's.
        activity: updated with what this worker is doing.
        values: gets the values that the loss or the step records.

    Attributes:
        parallel: how the workers share the model.
        module: the model, not wrapped, on its device.
        average: the average of its weights; None without ``train.ema``.
        optimizers: by their names in the recipe; under the name None, if it has one.

    Raises:
        JobFileError: an optimizer cannot be built, lacks a momentum that the schedule moves, or averages its weights
            itself although ``train.ema`` is set.
        RecipeError: the model has no part that ``channels_last`` or ``activation_checkpointing`` applies to.
    """

    def __init__(
        self,
        recipe: Recipe,
        job: Job,
        plan: Plan,
        context: WorkerContext,
        *,
        clock: Clock,
        activity: Activity,
        values: RecordedValues,
    ) -> None:
        self._recipe, self._job = recipe, job
        self._clock, self._activity, self._values = clock, activity, values
        self._device, self._world_size = context.device, context.world_size
        self.parallel = make_parallel(recipe, job, plan, context)
        self.module: nn.Module = recipe.model
        if job.train.channels_last:
            use_channels_last(self.module)
        start_training(self.module, keep_modes=recipe.keep_modes)
        self.average = WeightAverage(self.module) if job.train.ema is not None else None
        if job.train.activation_checkpointing is not None:  # the average above is only evaluated
            recompute_activations(self.module, job.train.activation_checkpointing)
        for model in (self.module, *([self.average.model] if self.average is not None else [])):
            self.parallel.distribute(model)
        self._freezing = Freezing(self.module, plan.groups)
        self._freezing.apply(0)
        named = named_parameters(self.module)
        self.optimizers: dict[str | None, ScaledOptimizer] = {
            name: ScaledOptimizer(
                {key: named[key] for key in names} if names is not None else named,
                job,
                plan,
                self._device,
                name=name,
            )
            for name, names in trained_by(recipe, plan).items()
        }
        # What steps after the gradient of the recipe's loss; None: the recipe has a step of its own.
        self._one: ScaledOptimizer | JointOptimizers | None = self.optimizers.get(None)
        if self._one is not None and len(self.optimizers) > 1:
            self._one = JointOptimizers(self.optimizers, job, self._device)
        self._preconditioner = Preconditioner(self.optimizers[None].optimizer) if plan.is_preconditioned else None
        self._phase = plan.phases[0]
        self._gradient = self._make_gradient()
        self._is_new = True  # no step has been taken yet

    def compile(self) -> None:
        """Compile the model, if the job says so."""
        if choice := self._job.train.compile:
            compile_model(self.module, Compile() if choice is True else choice)

    def enter(self, phase: Phase) -> None:
        """Write a phase's constants into the optimizers."""
        if phase is not self._phase:
            self._phase = phase
            for optimizer in self.optimizers.values():
                optimizer.enter(phase)

    def freeze(self, samples_seen: int) -> None:
        """Freeze and unfreeze parameters as the plan's groups say for this point of the training."""
        if self._freezing.apply(samples_seen):
            self.renew()

    def renew(self) -> None:
        """Replace the object that computes gradients, because the set of parameters that it sums is fixed."""
        for optimizer in self.optimizers.values():
            optimizer.optimizer.zero_grad()
        self._gradient.close()
        self._gradient = self._make_gradient()

    def can_measure_noise(self) -> bool:
        """Return whether a step has one gradient, with at least two parts (workers or micro-steps) to compare."""
        if self._one is None or self.parallel.noise_parts(self._phase.grad_accum_steps) == 1:
            return False
        return self._preconditioner is None or self._preconditioner.is_ready()

    def gradient(
        self, source: Iterator[Any], sizes: Sequence[int], plan: Plan, *, step_samples: int, measure: bool
    ) -> WholeGradient:
        """Compute the gradient of a step, the same on every worker.

        Args:
            source: yields this worker's micro-batches.
            sizes: samples in each micro-batch.
            plan: of this attempt.
            step_samples: samples in the whole step, over all workers.
            measure: whether to measure the gradient's noise.
        """
        gradient = self._gradient
        steps = min(self._phase.grad_accum_steps, ceil(step_samples / self._world_size))  # of the largest share
        if isinstance(gradient, OwnStep):
            loaded = gradient.load(source, sizes, step_samples=step_samples)
            return WholeGradient(measures=loaded.measures(), trained=(), norm=NO_NORM, squares=None, loaded=loaded)
        assert self._one is not None
        with self._translated():
            measures = gradient(source, sizes, step_samples=step_samples, measure=measure, micro_steps=steps)
        trained, norm = self._one.whole_gradient()
        squares = self._estimate(measures.parts, trained, norm, plan) if measures.parts is not None else None
        return WholeGradient(measures=measures, trained=trained, norm=norm, squares=squares)

    def update(
        self, gradient: WholeGradient, step: Phase, *, lr: float, momentum: float | None, reference_steps: float = 1.0
    ) -> float:
        """Take an optimizer step, or run the recipe's ``step``; return the learning rate that was used.

        Args:
            gradient: of the step.
            step: the phase, with the constants of this step's own size (``Plan.step_phase``).
            lr: the learning rate to use.
            momentum: set by the schedule; None: the optimizer keeps its own.
            reference_steps: how often the phase's ``ema_decay`` is applied: with ``rule: adascale`` and
                ``co_scale.ema``, the number of reference steps that this step is worth.

        Returns:
            The learning rate that the optimizer used, read from it; of several, the one farthest from ``lr``.
        """
        if isinstance(self._gradient, OwnStep):
            assert gradient.loaded is not None
            with self._translated():
                used, gradient.norm, gradient.measures = self._gradient(gradient.loaded, Numbers(step, lr, momentum))
        else:
            assert self._one is not None
            used = self._one.step(gradient.trained, gradient.norm, step, lr=lr, momentum=momentum)
        if self._recipe.after_step is not None:
            with torch.no_grad(), whole_numbers(self.module):
                self._recipe.after_step(self.module)
        if self._is_new:
            self._is_new = False
            require_readable(self.state_dict())  # an optimizer has its state after its first step
        if self.average is not None and step.ema_decay is not None:
            self.average.update(self.module, decay=step.ema_decay**reference_steps)
        return used

    def set_mode(self, *, training: bool) -> None:
        """Switch optimizers with separate weights for training and evaluation between the two."""
        for optimizer in self.optimizers.values():
            set_mode(optimizer.optimizer, training=training)

    def broadcast_buffers(self) -> None:
        """Give every worker rank 0's buffers (BatchNorm's statistics), because one model is saved and evaluated."""
        if self._world_size > 1:
            averaged = self.average.model.buffers() if self.average is not None else ()
            broadcast_tensors([*self.module.buffers(), *averaged])

    def broken_weight(self) -> str | None:
        """Return a text that names a weight that is not finite, or None. No loss shows the newest weights yet."""
        broken = self.parallel.broken_weight(named_parameters(self.module))
        return f"{broken} is not finite" if broken is not None else None

    def state_dict(self) -> dict[str, Any]:
        """Return the state of model, optimizer, loss scaler and average, for a checkpoint.

        Of several optimizers, ``optimizer`` holds the states by name, and so does ``scaler`` if each scales its loss.
        """
        optimizers = {name: optimizer.optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        scalers = {name: optimizer.scaler.state_dict() for name, optimizer in self.optimizers.items()}
        return {
            "model": model_state(self.module),
            "optimizer": optimizers[None] if len(optimizers) == 1 and None in optimizers else optimizers,
            "scaler": scalers if self._one is None else self._one.scaler.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
        }

    def load_state_dict(self, state: Mapping[str, Any], phase: Phase, *, samples_seen: int) -> None:
        """Continue from a checkpoint. The optimizer's constants are not restored: they are this phase's.

        Raises:
            RecipeError: the checkpoint holds another model, or other optimizers.
        """
        require_same_shapes(state["model"], model_state(self.module), samples_seen=samples_seen)
        load_model_state(self.module, state["model"])
        optimizers, scaler = state["optimizer"], state["scaler"]
        if "param_groups" in optimizers:  # the state of one
            optimizers = {None: optimizers}
        if set(optimizers) != set(self.optimizers):
            raise RecipeError(
                f"the checkpoint at {samples_seen} samples has the optimizers {_names(optimizers)}, and this "
                f"training has {_names(self.optimizers)}.",
                "A run keeps its optimizers; start a new run: scaler submit JOB.",
            )
        self._phase = phase
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(optimizers[name], scaler[name] if self._one is None else {}, phase)
        if self._one is not None and scaler:  # empty unless the precision was fp16
            self._one.scaler.load_state_dict(scaler)
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.freeze(samples_seen)

    def place(self, path: Sequence[str | int], saved: Tensor) -> Tensor:
        """Return the tensor into which a tensor of a checkpoint is read: for sharded weights, the worker's part.

        Args:
            path: of the tensor in ``state_dict``.
            saved: without its numbers, on the meta device.
        """
        match list(path):
            case ["model", str(name)]:
                parameter = named_parameters(self.module).get(name)
            case ["average", "weights", str(name)] if self.average is not None:
                parameter = named_parameters(self.average.model).get(name)
            case ["optimizer", "state", int(index), _]:
                parameter = self._trained(None, index)
            case ["optimizer", str(name), "state", int(index), _]:
                parameter = self._trained(name, index)
            case _:
                parameter = None
        if parameter is None or parameter.shape != saved.shape:
            return torch.empty_like(saved, device="cpu")
        return self.parallel.like(parameter, saved)

    def _trained(self, name: str | None, index: int) -> nn.Parameter | None:
        """Return a parameter by its number in an optimizer; None: there is no such one, which the load will report."""
        optimizer = self.optimizers.get(name)
        return optimizer.parameters[index] if optimizer is not None and index < len(optimizer.parameters) else None

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Translate errors of torch's compiler, and those of a sharded model, inside a ``with`` block."""
        try:
            yield
        except Exception as error:
            if self.parallel.is_sharded and (misuse := outside_forward(error)):
                raise misuse from error
            if self._job.train.compile and (failure := compile_failure(error)):
                raise failure from error
            raise

    def _make_gradient(self) -> GradientStep | OwnStep:
        shared: dict[str, Any] = {
            "world_size": self._world_size,
            "device": self._device,
            "precision": self._job.train.precision,
            "clock": self._clock,
            "activity": self._activity,
            "values": self._values,
        }
        if self._one is None:
            if self.parallel.is_sharded:
                raise RecipeError(
                    "train.strategy = fsdp, and the recipe has a step of its own, whose gradients are of several "
                    "optimizers.",
                    "Use train.strategy: ddp, or write the loop yourself with scaler.start (docs/own-loop.md).",
                )
            named = {name: optimizer for name, optimizer in self.optimizers.items() if name is not None}
            return OwnStep(self._recipe, self.module, named, **shared)
        assert self._recipe.loss is not None
        scaler, precondition = self._one.scaler, self._preconditioner
        return GradientStep(
            self.module,
            self._recipe.loss,
            **shared,
            parallel=self.parallel,
            scaler=scaler,
            precondition=precondition,
        )

    def _estimate(
        self, parts: Parts, trained: Sequence[nn.Parameter], norm: Tensor, plan: Plan
    ) -> GradientSquares | None:
        """Return the noise estimates from a step's parts and its whole gradient."""
        assert isinstance(self._gradient, GradientStep)
        whole = self._gradient.square_of(trained) if plan.is_measured else norm.double().square()
        return estimate_squares(parts.squares, parts.samples, total_square=float(whole), population=plan.num_samples)


def _names(optimizers: Mapping[str | None, object]) -> str:
    return ", ".join("reference.optimizer" if name is None else name for name in optimizers)
