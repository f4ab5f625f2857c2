"""A recipe's own step: several optimizers, each with its own losses, on the same batch."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from scaler.errors import RecipeError
from scaler.metrics.events import COMPUTING, LOADING
from scaler.training.activity import Activity
from scaler.training.clock import Clock
from scaler.training.data.batches import to_device
from scaler.training.gradients.gather import gathering
from scaler.training.gradients.losses import LOSS, Value, read_values
from scaler.training.gradients.norm import total_norm
from scaler.training.gradients.step import StepMeasures
from scaler.training.gradients.step_context import LoadedBatch, Numbers, Part, StepContext
from scaler.training.gradients.values import RecordedValues
from scaler.training.model.buffers import Buffers
from scaler.training.model.modes import norms_in_evaluation_mode
from scaler.training.model.names import named_parameters
from scaler.training.optimizer.scaled import ScaledOptimizer
from scaler.training.parallel.gradient_sum import sparse_parameters
from scaler.training.recipe import Recipe
from scaler.training.recipe.failures import describe_type


class OwnStep:
    """Runs the recipe's ``step`` on each worker, and sums the gradients of its optimizers over the workers.

    Args:
        recipe: its ``step``.
        model: on its device, the same on every worker.
        optimizers: by their names in the recipe.
        world_size: workers; if there are more than one, torch's default process group must exist.
        device: of the model.
        precision: ``fp32``, ``bf16`` or ``fp16``; the last two run the step under autocast.
        clock: marks points in the device's work.
        activity: updated with what this worker is doing.
        values: gets the values that the step returns.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        optimizers: Mapping[str, ScaledOptimizer],
        *,
        world_size: int,
        device: torch.device,
        precision: str,
        clock: Clock,
        activity: Activity,
        values: RecordedValues,
    ) -> None:
        self._step, self._model, self._device = recipe.step, model, device
        self._clock, self._activity, self._values = clock, activity, values
        self._world_size = world_size
        self._autocast_dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        names = {id(parameter): name for name, parameter in named_parameters(model).items()}
        sparse = sparse_parameters(model)
        self._parts = {
            name: Part(
                optimizer,
                {names[id(p)]: p for p in optimizer.parameters if p.requires_grad},
                sparse=sparse,
                world_size=world_size,
            )
            for name, optimizer in optimizers.items()
        }
        self._buffers = Buffers(model) if world_size > 1 else None

    def load(self, batches: Iterator[Any], sizes: Sequence[int], *, step_samples: int) -> LoadedBatch:
        """Load this worker's share of a step.

        Args:
            batches: yields it.
            sizes: the samples in it; empty: the share is empty, and the batch does not count.
            step_samples: samples in the whole step, over all workers.
        """
        asked = self._clock.mark()
        self._activity.begin(LOADING)
        batch = to_device(next(batches), self._device)
        self._activity.begin(COMPUTING)
        return LoadedBatch(batch, sum(sizes), step_samples, asked, self._clock.mark())

    def __call__(self, loaded: LoadedBatch, numbers: Numbers) -> tuple[float, Tensor, StepMeasures]:
        """Run the step.

        Returns:
            The learning rate that the optimizers used, the norm of their gradients together, and what was measured.
            Of the optimizers, the learning rate is the one farthest from the planned.

        Raises:
            RecipeError: the step has used its context wrongly, or stepped no optimizer.
        """
        if self._buffers is not None:
            self._buffers.broadcast()
        context = StepContext(self._model, self._parts, loaded, numbers, clock=self._clock, activity=self._activity,
                              device=self._device, world_size=self._world_size)  # fmt: skip
        norms = nullcontext() if loaded.samples else norms_in_evaluation_mode(self._model)
        assert self._step is not None
        with self._autocast(), norms, gathering(has_samples=loaded.samples > 0):
            found = self._step(context, loaded.batch)
        context.end()
        loss, is_sum = self._loss(found, context, loaded)
        end = self._clock.mark()
        used = max(context.used, key=lambda lr: abs(lr - numbers.lr))
        norm = total_norm(list(context.norms.values()))
        measures = loaded.measures()._replace(
            losses=(loss,), is_sum=is_sum, ready=end, synced=end, sync_waits=tuple(context.waits)
        )
        return used, norm, measures

    def close(self) -> None:
        """Remove the hooks from the parameters, so that another object can be created for them."""
        for part in self._parts.values():
            part.close()

    def _loss(
        self, found: object, context: "StepContext", loaded: LoadedBatch
    ) -> tuple[tuple[Tensor, Tensor | float], bool]:
        """Return the loss of the records and its weight, and whether it is a sum; keep the other values."""
        if found is not None and not isinstance(found, Mapping):
            raise RecipeError(
                f"step(context, batch) returned {describe_type(found)}.", "Return a dict of values to record, or None."
            )
        values = read_values(found, "step(context, batch)") if found is not None else ()
        self._values.add([value for value in values if value.name != LOSS], samples=loaded.samples)
        loss = next((value for value in values if value.name == LOSS), Value(LOSS, context.loss, None))
        tensor = torch.as_tensor(loss.value, device=self._device)
        if loss.weight is None:
            return (tensor, loaded.samples), False
        return (tensor, loss.weight if loaded.samples else 0.0), True

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self._autocast_dtype)
