"""The gradient of a whole step, for any division of its samples among workers and micro-steps.

Workers may have shares of different sizes, so a mean over workers is not the mean over samples. Each micro-batch's mean
loss is weighted by its share of the step's samples, and gradients are *summed* over workers:

    gradient = sum over workers w and micro-batches i of  n_wi / N * grad(mean loss of micro-batch wi)

This equals one worker's gradient on the whole batch to float tolerance, also in a short last batch and with empty
shares. For a loss that returns ``(sum, weight)``, the sums are added up and divided by the weight over all workers.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from scaler.errors import RecipeError
from scaler.metrics.events import COMPUTING, LOADING, WAITING
from scaler.metrics.mean import Mean
from scaler.training.activity import Activity
from scaler.training.clock import Clock, Mark
from scaler.training.data.batches import to_device
from scaler.training.gradients.gather import gathering
from scaler.training.gradients.losses import (
    joined,
    no_weight,
    read_loss,
    weights_in_micro_batches,
    weights_over_workers,
)
from scaler.training.gradients.norm import values_of
from scaler.training.gradients.parts import PartNorms, Parts, Precondition
from scaler.training.gradients.values import RecordedValues
from scaler.training.model.buffers import Buffers
from scaler.training.model.modes import norms_in_evaluation_mode
from scaler.training.model.names import named_parameters
from scaler.training.parallel.strategy import Parallel
from scaler.training.recipe.recipe import Loss


class StepMeasures(NamedTuple):
    """What one worker measured while it computed a step's gradient."""

    losses: tuple[tuple[Tensor, float | Tensor], ...]  # of each micro-batch: mean and samples, or sum and weight
    is_sum: bool  # whether losses are sums with weights
    samples: int
    data_waits: tuple[tuple[Mark, Mark], ...]
    ready: Mark  # this worker's gradient was complete
    synced: Mark  # the sum over workers was complete
    parts: "Parts | None" = None  # None unless the step was measured
    sync_waits: tuple[tuple[Mark, Mark], ...] = ()  # more waits for the other workers, before ``ready``

    def loss(self) -> tuple[float | None, float | None]:
        """Return the loss and the weight for a ``Record``: the mean over this worker's share. Waits for the device."""
        if self.is_sum:
            mean = Mean()
            for total, weight in self.losses:
                mean.add_sum(float(total), float(weight))
            return mean.value, mean.weight
        if self.samples == 0:
            return None, None
        if len(self.losses) == 1:  # no arithmetic: exactly the loss
            return float(self.losses[0][0]), None
        mean = Mean()
        for loss, samples in self.losses:
            mean.add(float(loss), float(samples))
        return mean.value, None


class GradientStep:
    """Computes the gradient of one optimizer step, the same on every worker.

    Args:
        model: on its device, the same on every worker; the loss gets it unwrapped.
        loss: the recipe's.
        parallel: how the workers share the model; it has distributed it.
        world_size: workers; if there are more than one, torch's default process group must exist.
        device: of the model.
        precision: ``fp32``, ``bf16`` or ``fp16``; the last two run forward under autocast.
        scaler: the loss scaler for ``fp16``.
        clock: marks points in the device's work.
        activity: updated with what this worker is doing.
        values: gets the values that the loss records.
        precondition: applied to gradients before their norms are measured (``Parts``); None: nothing.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        *,
        parallel: Parallel,
        world_size: int,
        device: torch.device,
        precision: str,
        scaler: torch.amp.GradScaler,
        clock: Clock,
        activity: Activity,
        values: RecordedValues,
        precondition: Precondition | None = None,
    ) -> None:
        self._loss, self._parallel, self._device, self._activity = loss, parallel, device, activity
        self._world_size = world_size
        self._scaler, self._clock, self._values = scaler, clock, values
        self._named = {name: p for name, p in named_parameters(model).items() if p.requires_grad}
        self._parameters = list(self._named.values())
        self._autocast_dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        self._known = set(named_parameters(model))
        self._is_first = True  # whether the next step is the first
        self._model = model
        # Parts of a sharded model's gradient are sums over all workers: each worker sees all of them.
        self._sees_own = world_size > 1 and not parallel.is_sharded
        seen_from = world_size if self._sees_own else 1
        self._norms = PartNorms(self._parameters, device=device, world_size=seen_from, precondition=precondition)
        self._reduction = parallel.reduction(model, self._named, clock)
        self._buffers = Buffers(model) if world_size > 1 else None

    def __call__(
        self,
        batches: Iterator[Any],
        sizes: Sequence[int],
        *,
        step_samples: int,
        measure: bool = False,
        micro_steps: int = 1,
    ) -> StepMeasures:
        """Compute the step's gradient into the parameters' ``grad``.

        Args:
            batches: yields this worker's micro-batches; one is taken for each entry of ``sizes``, and at least one.
            sizes: samples in each micro-batch; empty when this worker's share is empty: it then takes one batch with
                weight 0.
            step_samples: samples in the whole step, over all workers.
            measure: whether to measure the norms of the gradient's parts; the same on every worker.
            micro_steps: the largest number of micro-batches of a worker in this step, the same on every worker.
        """
        waits, losses = [], []
        is_sum = False
        steps = self._parallel.micro_batches(len(sizes), most=micro_steps)
        self._norms.begin()
        self._reduction.take_waits()  # those of evaluations and checks
        batch: Any = None
        for index in range(steps):
            asked = self._clock.mark()
            if index < max(len(sizes), 1):  # else the last batch is used again, with the weight 0
                self._activity.begin(LOADING)
                batch = to_device(next(batches), self._device)
                self._activity.begin(COMPUTING)
            waits.append((asked, self._clock.mark()))
            size = sizes[index] if index < len(sizes) else 0
            if self._buffers is not None and index == 0:
                self._buffers.broadcast()
            norms = nullcontext() if size else norms_in_evaluation_mode(self._model)
            with self._autocast(), norms, gathering(has_samples=bool(sizes), micro_batches=steps):
                loss = read_loss(self._loss(self._model, batch))
            if loss.recorded:
                self._values.add(loss.recorded, samples=size)
            value, weight = loss.terms[0]
            if len(loss.terms) > 1:
                if steps > 1:
                    raise weights_in_micro_batches(steps)
                own = [term.weight if size and term.weight is not None else 0.0 for term in loss.terms]
                weights = weights_over_workers(own, device=self._device, world_size=self._world_size)
                value, weight = joined(loss.terms, weights, samples=size, step_samples=step_samples), None
            is_sum = weight is not None
            # A sum has the factor 1, or 0 for an empty share; a mean has its share of the step's samples.
            share = float(size > 0) if is_sum else size / step_samples
            is_last = index == steps - 1
            self._reduction.before_backward(
                is_last=is_last, counts=size > 0, on_part=self._norms.note if measure else None
            )
            self._backward(value, share)
            losses.append((value.detach(), size if weight is None else weight if size else 0.0))
            if measure and steps > 1 and not (is_last and self._sees_own):  # then note does it
                self._norms.take_apart(is_last=is_last)
        self._reduction.after_backward(counts=bool(sizes))
        ready = self._clock.mark()
        if self._world_size > 1:
            self._activity.begin(WAITING)
            self._reduction.wait()
            self._activity.begin(COMPUTING)
        else:
            self._reduction.wait()
        if self._is_first:
            self._require_used()
        weights = self._parallel.part_weights([float(weight) for _, weight in losses]) if measure else []
        if is_sum:
            self._divide_by_weight([weight for _, weight in losses])
        synced = self._clock.mark()
        return StepMeasures(
            losses=tuple(losses),
            is_sum=is_sum,
            samples=sum(sizes),
            data_waits=tuple(waits),
            ready=ready,
            synced=synced,
            sync_waits=self._reduction.take_waits(),
            parts=self._norms.parts(
                weights, step_samples=step_samples, is_sum=is_sum, most=micro_steps, loss_scale=self._loss_scale()
            )
            if measure
            else None,
        )

    def square_of(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """Return the squared norm of the parameters' present gradient, computed like the norms in ``Parts``."""
        present = [(parameter, parameter.grad) for parameter in parameters if parameter.grad is not None]
        return self._norms.square([parameter for parameter, _ in present], [gradient for _, gradient in present])

    def close(self) -> None:
        """Remove the hooks from the model, so that another object can be created for it."""
        self._reduction.close()

    def _require_used(self) -> None:
        """Raise an error, after the first step, if the loss does not use the parameters that are trained."""
        self._is_first = False
        if all(parameter.grad is None for parameter in self._parameters):
            raise RecipeError(
                "none of the model's parameters got a gradient: the loss did not use the model that it was given.",
                "Compute the loss from model(...), with the model that loss(model, batch) gets.",
            )
        made = [name for name in named_parameters(self._model) if name not in self._known]
        if made:
            raise RecipeError(
                f"the model created the parameter {made[0]} in its first step, so the optimizer does not have it.",
                "Create every parameter in build().",
            )

    def _loss_scale(self) -> float:
        return self._scaler.get_scale() if self._scaler.is_enabled() else 1.0

    def _backward(self, value: Tensor, share: float) -> None:
        """Add ``share`` times the gradient of ``value``; with a share of 1, exactly torch's own backward."""
        seed = None if share == 1.0 else torch.full_like(value, share)
        self._scaler.scale(value).backward(gradient=seed)  # type: ignore[no-untyped-call]

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self._autocast_dtype)

    def _divide_by_weight(self, weights: Sequence[Tensor | float]) -> None:
        """Divide the summed gradient by the weight over all workers and micro-batches."""
        parts = [torch.as_tensor(weight, dtype=torch.float64, device=self._device) for weight in weights]
        mine = torch.stack(parts).sum()
        (divisor,) = weights_over_workers([mine], device=self._device, world_size=self._world_size)
        if divisor <= 0:
            raise no_weight(divisor)
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        torch._foreach_div_(values_of(gradients), divisor)
