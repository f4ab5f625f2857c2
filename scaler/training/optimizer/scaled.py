"""One optimizer of a recipe: what it trains, and its learning rate and constants in each step."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from scaler.errors import RecipeError
from scaler.job import Job
from scaler.plan import Phase, Plan, PlanGroup, PlanOptimizer
from scaler.training.gradients.norm import clip, total_norm
from scaler.training.optimizer.build import build_optimizer, require_momentum, require_one_point
from scaler.training.optimizer.settings import set_constants, step_settings, used_lr
from scaler.training.recipe.failures import error_text


class ScaledOptimizer:
    """An optimizer, with its loss scaler, that takes steps with the numbers of its plan.

    Args:
        parameters: name -> parameter, of everything that it trains; frozen ones may be among them.
        job: precision and clipping.
        plan: of this attempt.
        device: of the parameters.
        name: among the recipe's optimizers; None: the recipe has one.

    Attributes:
        optimizer: torch's.
        scaler: the loss scaler; without fp16 it does nothing.
        parameters: those in the optimizer.

    Raises:
        JobFileError: the optimizer cannot be built, lacks a momentum that the schedule moves, or averages its weights
            itself although ``train.ema`` is set.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        job: Job,
        plan: Plan,
        device: torch.device,
        *,
        name: str | None = None,
    ) -> None:
        self._named, self._most_norm = parameters, job.train.clip_grad_norm
        self._own: PlanOptimizer | None = next((own for own in plan.optimizers if own.name == name), None)
        self._groups = _groups_of(plan, parameters)
        self._plan_phase = plan.phases[0]
        self._phase = self._numbers(self._plan_phase)
        self.scaler = torch.amp.GradScaler(device.type, enabled=job.train.precision == "fp16")
        self.optimizer = build_optimizer(parameters, self._phase.optimizer, groups=self._groups)
        optimizer_name = self._phase.optimizer["name"]
        self._cycles_momentum = plan.schedule.momentum(0) is not None
        if self._cycles_momentum:
            require_momentum(self.optimizer, name=optimizer_name)
        if job.train.ema is not None:
            require_one_point(self.optimizer, name=optimizer_name)
        self.parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self._set_constants()

    def enter(self, phase: Phase) -> None:
        """Write the constants of a phase of the plan into the optimizer."""
        self._plan_phase, self._phase = phase, self._numbers(phase)
        self._set_constants()

    def whole_gradient(self) -> tuple[list[nn.Parameter], Tensor]:
        """Return the parameters with a gradient, and its norm; a scaled gradient is divided by its scale."""
        self.scaler.unscale_(self.optimizer)
        present = [(parameter, grad) for parameter in self.parameters if (grad := parameter.grad) is not None]
        return [parameter for parameter, _ in present], total_norm([grad for _, grad in present])

    def step(
        self, trained: Sequence[nn.Parameter], norm: Tensor, step: Phase, *, lr: float, momentum: float | None
    ) -> float:
        """Clip the gradient, take a step and clear the gradient.

        Args:
            trained: the parameters with a gradient.
            norm: of the gradient.
            step: the phase of the plan, with the numbers of this step's own size (``Plan.step_phase``).
            lr: the learning rate of the plan in this step. An optimizer with a reference of its own has the same share
                of its own peak.
            momentum: set by the schedule; None: the optimizer keeps its own.

        Returns:
            The learning rate that it used, read from the optimizer, as one of the plan: ``lr`` if all is well.
        """
        if self._most_norm is not None:
            clip(trained, norm, most=self._most_norm)
        with self.settings(step, lr=lr, momentum=momentum):
            self.take(lambda: self.scaler.step(self.optimizer))
        self.scaler.update()
        self.optimizer.zero_grad()
        return self.used(step, lr=lr)

    @contextmanager
    def settings(self, step: Phase, *, lr: float, momentum: float | None) -> Iterator[None]:
        """Let the optimizer take one step, inside a ``with`` block, with the numbers of ``step``, as in ``step``."""
        numbers = self._own_numbers(step)
        with step_settings(
            self.optimizer,
            numbers,
            self._phase,
            self._groups,
            lr=self._own_lr(step, lr),
            momentum=momentum,
            cycles_momentum=self._cycles_momentum,
        ):
            yield

    def used(self, step: Phase, *, lr: float) -> float:
        """Return the learning rate that the optimizer used, as one of the plan: ``lr`` if all is well."""
        own_lr = self._own_lr(step, lr)
        used = used_lr(self.optimizer, planned=own_lr)  # read after the step: a hook of the recipe may change it
        if self._own is None:
            return used
        if used == own_lr:
            return lr
        return used * lr / own_lr if own_lr else lr + used

    def state_dict(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the state of the optimizer and of the loss scaler."""
        return self.optimizer.state_dict(), self.scaler.state_dict()

    def load_state_dict(self, optimizer: dict[str, Any], scaler: dict[str, Any], phase: Phase) -> None:
        """Continue from a checkpoint. The constants are not restored: they are this phase's."""
        self.optimizer.load_state_dict(optimizer)
        if scaler:  # empty unless the precision was fp16
            self.scaler.load_state_dict(scaler)
        self.enter(phase)
        self.optimizer.zero_grad()

    def _numbers(self, phase: Phase) -> Phase:
        return phase if self._own is None else self._own.phase(phase)

    def _own_numbers(self, step: Phase) -> Phase:
        """Return the numbers of a step of the plan for this optimizer."""
        if self._own is None:
            return step
        is_whole = step is self._plan_phase
        return self._phase if is_whole else self._own.scaling.short_step(self._phase, step.global_batch_size)

    def _own_lr(self, step: Phase, lr: float) -> float:
        return lr if self._own is None else lr * self._own_numbers(step).peak_lr / step.peak_lr

    def _set_constants(self) -> None:
        set_constants(self.optimizer, self._phase, self._groups, cycles_momentum=self._cycles_momentum)

    def take(self, step: Callable[[], object]) -> None:
        """Let the optimizer step; translate errors of optimizers that refuse sparse gradients or sharded weights."""
        try:
            step()
        except (RuntimeError, NotImplementedError, AssertionError) as error:
            if any(isinstance(parameter, DTensor) for parameter in self.parameters):
                raise RecipeError(
                    f"the optimizer {type(self.optimizer).__name__} cannot train sharded weights: {error_text(error)}",
                    "Use train.strategy: ddp, or an optimizer that computes each element alone, such as adamw or sgd.",
                ) from error
            names = [name for name, p in self._named.items() if p.grad is not None and p.grad.is_sparse]
            if not names:
                raise
            raise RecipeError(
                f"the gradient of {names[0]} is sparse, and the optimizer does not take it: {error_text(error)}",
                "Use nn.Embedding(sparse=False), or an optimizer for sparse gradients: sgd without weight_decay, or "
                "torch.optim:SparseAdam.",
            ) from error


def _groups_of(plan: Plan, parameters: Mapping[str, nn.Parameter]) -> list[PlanGroup]:
    """Return the plan's groups with an optimizer's own parameters only."""
    groups = []
    for group in plan.groups:
        tensors = {name: count for name, count in group.tensors.items() if name in parameters}
        if tensors:
            groups.append(replace(group, tensors=tensors, num_parameters=sum(tensors.values())))
    return groups
