"""One worker's part of an optimizer step, from its micro-batches to the new weights."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from scaler.training.gradients.norm import clip, total_norm
from scaler.training.gradients.step import GradientStep, Parts, StepMeasures
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
from scaler.training.optimizer.build import build_optimizer, require_momentum, require_one_point
from scaler.training.optimizer.preconditioner import Preconditioner
from scaler.training.optimizer.settings import set_constants, set_mode, step_settings, used_lr
from scaler.training.recipe import Recipe
from scaler.training.recipe.failures import error_text
from scaler.training.worker_context import WorkerContext


@dataclass(frozen=True, kw_only=True, slots=True)
class WholeGradient:
    """A step's gradient over all workers, in the parameters' ``grad``; not clipped."""

    measures: StepMeasures
    trained: Sequence[nn.Parameter]  # the parameters that have a gradient
    norm: Tensor
    squares: GradientSquares | None  # None unless its noise was measured and could be estimated


class Stepper:
    """Model, optimizer, loss scaler and weight average of one worker.

    Args:
        recipe: model and loss.
        job: precision, clipping, average, and how the model computes.
        plan: of this attempt; its groups and optimizer are used.
        context: this worker's device and world size.
        clock: the device's.
        activity: updated with what this worker is doing.

    Attributes:
        module: the model, not wrapped, on its device.
        average: the average of its weights; None without ``train.ema``.

    Raises:
        JobFileError: the optimizer cannot be built, lacks a momentum that the schedule moves, or averages its weights
            itself although ``train.ema`` is set.
        RecipeError: the model has no part that ``channels_last`` or ``activation_checkpointing`` applies to.
    """

    def __init__(
        self, recipe: Recipe, job: Job, plan: Plan, context: WorkerContext, *, clock: Clock, activity: Activity
    ) -> None:
        self._recipe, self._job, self._groups = recipe, job, plan.groups
        self._clock, self._activity = clock, activity
        self._device, self._world_size = context.device, context.world_size
        self.module: nn.Module = recipe.model.to(self._device)
        if job.train.channels_last:
            use_channels_last(self.module)
        start_training(self.module, keep_modes=recipe.keep_modes)
        if self._world_size > 1:
            broadcast_tensors([*self.module.parameters(), *self.module.buffers()])
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=job.train.precision == "fp16")
        named = named_parameters(self.module)
        self._freezing = Freezing(self.module, plan.groups)
        self._freezing.apply(0)
        self._optimizer = build_optimizer(named, plan.optimizer, groups=plan.groups)
        self._cycles_momentum = plan.schedule.momentum(0) is not None
        if self._cycles_momentum:
            require_momentum(self._optimizer, name=plan.optimizer["name"])
        if job.train.ema is not None:
            require_one_point(self._optimizer, name=plan.optimizer["name"])
        self._parameters = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        self._preconditioner = Preconditioner(self._optimizer) if plan.is_preconditioned else None
        self.average = WeightAverage(self.module) if job.train.ema is not None else None
        if job.train.activation_checkpointing is not None:  # the average above is only evaluated
            recompute_activations(self.module, job.train.activation_checkpointing)
        self._phase = plan.phases[0]
        self._set_constants()
        self._gradient = self._make_gradient()
        self._is_new = True  # no step has been taken yet

    def compile(self) -> None:
        """Compile the model, if the job says so."""
        if choice := self._job.train.compile:
            compile_model(self.module, Compile() if choice is True else choice)

    def enter(self, phase: Phase) -> None:
        """Write a phase's constants into the optimizer."""
        if phase is not self._phase:
            self._phase = phase
            self._set_constants()

    def freeze(self, samples_seen: int) -> None:
        """Freeze and unfreeze parameters as the plan's groups say for this point of the training."""
        if self._freezing.apply(samples_seen):
            self.renew()

    def renew(self) -> None:
        """Replace the ``GradientStep``, because the set of parameters that it sums over workers is fixed."""
        self._optimizer.zero_grad()
        self._gradient.close()
        self._gradient = self._make_gradient()

    def can_measure_noise(self) -> bool:
        """Return whether a step's gradient has at least two parts (workers or micro-steps) that can be compared."""
        if self._world_size == 1 and self._phase.grad_accum_steps == 1:
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
        micro_steps = self._phase.grad_accum_steps
        try:
            measures = self._gradient(
                source, sizes, step_samples=step_samples, measure=measure, micro_steps=micro_steps
            )
        except Exception as error:
            if self._job.train.compile and (failure := compile_failure(error)):
                raise failure from error
            raise
        self._scaler.unscale_(self._optimizer)
        present = [(parameter, grad) for parameter in self._parameters if (grad := parameter.grad) is not None]
        trained, norm = [parameter for parameter, _ in present], total_norm([grad for _, grad in present])
        squares = self._estimate(measures.parts, trained, norm, plan) if measures.parts is not None else None
        return WholeGradient(measures=measures, trained=trained, norm=norm, squares=squares)

    def update(
        self, gradient: WholeGradient, step: Phase, *, lr: float, momentum: float | None, reference_steps: float = 1.0
    ) -> float:
        """Take an optimizer step; return the learning rate that the optimizer used, read from the optimizer.

        Args:
            gradient: of the step.
            step: the phase, with the constants of this step's own size (``Plan.step_phase``).
            lr: the learning rate to use.
            momentum: set by the schedule; None: the optimizer keeps its own.
            reference_steps: how often the phase's ``ema_decay`` is applied: with ``rule: adascale`` and
                ``co_scale.ema``, the number of reference steps that this step is worth.
        """
        if self._job.train.clip_grad_norm is not None:
            clip(gradient.trained, gradient.norm, most=self._job.train.clip_grad_norm)
        with step_settings(
            self._optimizer,
            step,
            self._phase,
            self._groups,
            lr=lr,
            momentum=momentum,
            cycles_momentum=self._cycles_momentum,
        ):
            self._step(gradient.trained)
        self._scaler.update()
        self._optimizer.zero_grad()
        if self._is_new:
            self._is_new = False
            require_readable(self.state_dict())  # an optimizer has its state after its first step
        if self.average is not None and step.ema_decay is not None:
            self.average.update(self.module, decay=step.ema_decay**reference_steps)
        return used_lr(self._optimizer, planned=lr)  # read after the step: a hook of the recipe may change it

    def set_mode(self, *, training: bool) -> None:
        """Switch an optimizer with separate weights for training and evaluation between the two."""
        set_mode(self._optimizer, training=training)

    def broadcast_buffers(self) -> None:
        """Give every worker rank 0's buffers (BatchNorm's statistics), because one model is saved and evaluated."""
        if self._world_size > 1:
            averaged = self.average.model.buffers() if self.average is not None else ()
            broadcast_tensors([*self.module.buffers(), *averaged])

    def broken_weight(self) -> str | None:
        """Return a text that names a weight that is not finite, or None. No loss shows the newest weights yet."""
        named = [
            (name, tensor) for name, tensor in named_parameters(self.module).items() if not tensor.isfinite().all()
        ]
        return f"{named[0][0]} is not finite" if named else None

    def state_dict(self) -> dict[str, Any]:
        """Return the state of model, optimizer, loss scaler and average, for a checkpoint."""
        return {
            "model": model_state(self.module),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
        }

    def load_state_dict(self, state: Mapping[str, Any], phase: Phase, *, samples_seen: int) -> None:
        """Continue from a checkpoint. The optimizer's constants are not restored: they are this phase's.

        Raises:
            RecipeError: the checkpoint holds another model.
        """
        require_same_shapes(state["model"], model_state(self.module), samples_seen=samples_seen)
        load_model_state(self.module, state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:  # empty unless the precision was fp16
            self._scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self._phase = phase
        self._set_constants()
        self._optimizer.zero_grad()
        self.freeze(samples_seen)

    def _set_constants(self) -> None:
        set_constants(self._optimizer, self._phase, self._groups, cycles_momentum=self._cycles_momentum)

    def _step(self, trained: Sequence[nn.Parameter]) -> None:
        """Let the optimizer step; translate the error of torch optimizers that refuse sparse gradients."""
        try:
            self._scaler.step(self._optimizer)
        except (RuntimeError, NotImplementedError) as error:
            names = [
                name for name, p in named_parameters(self.module).items() if p.grad is not None and p.grad.is_sparse
            ]
            if not names:
                raise
            raise RecipeError(
                f"the gradient of {names[0]} is sparse, and the optimizer does not take it: {error_text(error)}",
                "Use nn.Embedding(sparse=False), or an optimizer for sparse gradients: sgd without weight_decay, or "
                "torch.optim:SparseAdam.",
            ) from error

    def _make_gradient(self) -> GradientStep:
        return GradientStep(
            self.module,
            self._recipe.loss,
            world_size=self._world_size,
            device=self._device,
            precision=self._job.train.precision,
            scaler=self._scaler,
            clock=self._clock,
            activity=self._activity,
            precondition=self._preconditioner,
        )

    def _estimate(
        self, parts: Parts, trained: Sequence[nn.Parameter], norm: Tensor, plan: Plan
    ) -> GradientSquares | None:
        """Return the noise estimates from a step's parts and its whole gradient."""
        whole = self._gradient.square_of(trained) if plan.is_measured else norm.double().square()
        return estimate_squares(parts.squares, parts.samples, total_square=float(whole), population=plan.num_samples)
