"""The gradient of a whole step, however its samples are shared among workers and micro-steps.

Workers hold shares of different sizes, so a mean over workers is not the mean over samples. Each micro-batch's mean
loss is weighted by its share of the step's samples and gradients are *summed* over workers:

    gradient = sum over workers w and micro-batches i of  n_wi / N * grad(mean loss of micro-batch wi)

which equals one worker's gradient on the whole batch to float tolerance, also in a short last batch and with empty
shares.
A loss that returns ``(sum, weight)`` is summed as it is, and the sum divided by the weight over all workers.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from scaler.errors import RecipeError
from scaler.metrics.events import COMPUTING, LOADING, WAITING
from scaler.metrics.means import Mean
from scaler.training.activity import Activity
from scaler.training.clock import Clock, Mark
from scaler.training.data.batches import to_device
from scaler.training.gradients.gather import gathering
from scaler.training.gradients.norm import coalesced, total_norm, values_of
from scaler.training.gradients.reduction import GradientSum, sparse_parameters
from scaler.training.model.buffers import Buffers
from scaler.training.model.modes import norms_in_evaluation_mode
from scaler.training.model.names import named_parameters
from scaler.training.recipe.failures import describe_type
from scaler.training.recipe.recipe import Loss

Precondition = Callable[[Sequence[nn.Parameter], Sequence[Tensor]], Sequence[Tensor]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """The gradients that a step's gradient is the mean of: one of each micro-batch of each worker."""

    squares: tuple[float, ...]  # squared length of each, unclipped and unscaled
    samples: tuple[float, ...]  # in each; where samples are weighted, its weight in samples


class StepMeasures(NamedTuple):
    """What one worker measured while it made a step's gradient."""

    losses: tuple[
        tuple[Tensor, float | Tensor], ...
    ]  # of each micro-batch: the mean and its samples, or sum and weight
    is_sum: bool  # which of the two
    samples: int
    data_waits: tuple[tuple[Mark, Mark], ...]
    ready: Mark  # this worker's last gradient was there
    synced: Mark  # the sum over workers was there
    parts: "Parts | None" = None  # of a step that was measured

    def loss(self) -> tuple[float | None, float | None]:
        """Return the loss and the weight of a ``Record``: the mean over this worker's share. Waits for the device."""
        if self.samples == 0:
            return None, 0.0 if self.is_sum else None
        if self.is_sum:
            mean = Mean()
            for total, weight in self.losses:
                mean.add_sum(float(total), float(weight))
            return mean.value, mean.weight
        if len(self.losses) == 1:  # itself, to the last digit
            return float(self.losses[0][0]), None
        mean = Mean()
        for loss, samples in self.losses:
            mean.add(float(loss), float(samples))
        return mean.value, None


class GradientStep:
    """Makes the gradient of one optimizer step, on every worker the same.

    Args:
        model: on its device, the same on every worker; the loss gets it as it is.
        loss: the recipe's.
        world_size: workers; with more than one, torch's default process group must be there.
        device: where the model lives.
        precision: ``fp32``, ``bf16`` or ``fp16``; the last two run forward under autocast.
        scaler: the loss scaler for ``fp16``.
        clock: marks moments on the device.
        activity: told what is being done.
        precondition: what is done to gradients before their length is taken (``Parts``); None: nothing.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        *,
        world_size: int,
        device: torch.device,
        precision: str,
        scaler: torch.amp.GradScaler,
        clock: Clock,
        activity: Activity,
        precondition: Precondition | None = None,
    ) -> None:
        self._loss, self._device, self._world_size, self._activity = loss, device, world_size, activity
        self._scaler, self._clock, self._precondition = scaler, clock, precondition
        self._squares: list[Tensor] = []  # of a measured step: of each micro-batch, before workers are summed
        self._bucket_squares: list[Tensor] = []  # of the last micro-batch, with several workers
        self._before: dict[int, Tensor] = {}  # by id of the parameter: its gradient before the last micro-batch
        self._named = {name: p for name, p in named_parameters(model).items() if p.requires_grad}
        self._parameters = list(self._named.values())
        self._autocast_dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        self._known = set(named_parameters(model))
        self._is_first = True  # the next step is
        self._model = model
        self._sum: GradientSum | None = None
        if world_size > 1:
            self._buffers = Buffers(model)
            self._sum = GradientSum(self._named, sparse=sparse_parameters(model))

    def __call__(
        self,
        batches: Iterator[Any],
        sizes: Sequence[int],
        *,
        step_samples: int,
        measure: bool = False,
        micro_steps: int = 1,
    ) -> StepMeasures:
        """Leave the step's gradient in the parameters' ``grad``.

        Args:
            batches: yields this worker's micro-batches; as many are taken as ``sizes`` has entries, at least one.
            sizes: samples in each; empty when this worker's share is empty: it then takes one batch and weighs it 0.
            step_samples: samples in the whole step, over all workers.
            measure: whether to take the lengths of the gradient's parts, on every worker alike.
            micro_steps: the most micro-batches that a worker has, on every worker alike; a measured step needs it.
        """
        waits, losses = [], []
        is_sum = False
        steps = max(len(sizes), 1)
        self._squares, self._bucket_squares, self._before = [], [], {}
        for index in range(steps):
            asked = self._clock.mark()
            self._activity.begin(LOADING)
            batch = to_device(next(batches), self._device)
            self._activity.begin(COMPUTING)
            waits.append((asked, self._clock.mark()))
            size = sizes[index] if sizes else 0
            if self._sum is not None and index == 0:
                self._buffers.share()
            norms = nullcontext() if sizes else norms_in_evaluation_mode(self._model)
            with self._autocast(), norms, gathering(has_samples=bool(sizes), micro_batches=steps):
                value, weight = self.checked(self._loss(self._model, batch))
            is_sum = weight is not None
            # A sum counts whole, or not at all when the share is empty; a mean, by its share of the step's samples.
            share = float(size > 0) if is_sum else size / step_samples
            if self._sum is not None and sizes and index == steps - 1:
                self._sum.begin(self._note_part if measure else None)
            self._backward(value, share)
            losses.append((value.detach(), size if weight is None else weight if sizes else 0.0))
            if measure and steps > 1 and (index < steps - 1 or self._sum is None):  # else ``_note_part`` does it
                self._take_apart(is_last=index == steps - 1)
        if self._sum is not None:
            self._sum.start_rest(counts=bool(sizes))
        else:
            for parameter in self._parameters:
                if parameter.grad is not None and parameter.grad.is_sparse:
                    parameter.grad = coalesced(parameter.grad)
        ready = self._clock.mark()
        if self._sum is not None:
            self._activity.begin(WAITING)
            self._sum.wait()
            self._activity.begin(COMPUTING)
        if self._is_first:
            self._require_used()
        weights = [float(weight) for _, weight in losses] if measure else []
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
            parts=self._parts(weights, step_samples=step_samples, is_sum=is_sum, most=micro_steps) if measure else None,
        )

    def square_of(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """Return the squared length of the gradient that the parameters hold, as ``Parts`` has that of each part."""
        present = [(parameter, parameter.grad) for parameter in parameters if parameter.grad is not None]
        return self._square([parameter for parameter, _ in present], [gradient for _, gradient in present])

    def close(self) -> None:
        """Take the hooks off the model, so that another can be made for it."""
        if self._sum is not None:
            self._sum.close()

    def _require_used(self) -> None:
        """Refuse, after the first step, a loss of other parameters than those that are trained."""
        self._is_first = False
        if all(parameter.grad is None for parameter in self._parameters):
            raise RecipeError(
                "the loss did not call the model that it was given: none of its parameters got a gradient.",
                "Compute the loss from model(...), with the model that loss(model, batch) gets.",
            )
        made = [name for name in named_parameters(self._model) if name not in self._known]
        if made:
            raise RecipeError(
                f"the model made the parameter {made[0]} in its first step, and the optimizer does not have it.",
                "Make every parameter in build().",
            )

    def _note_part(self, parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor]) -> None:
        """Take the length of what the last micro-batch added to some gradients, before they are summed over workers."""
        self._bucket_squares.append(self._square(parameters, self._last_added(parameters, gradients)))

    def _take_apart(self, *, is_last: bool) -> None:
        """Take the length of what one micro-batch added to the gradient, which stays as it is."""
        present = [(p, p.grad) for p in self._parameters if p.grad is not None]
        parameters, gradients = [p for p, _ in present], [gradient for _, gradient in present]
        self._squares.append(self._square(parameters, self._last_added(parameters, gradients)))
        self._before = {} if is_last else {id(p): gradient.clone() for p, gradient in present}

    def _last_added(self, parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor]) -> list[Tensor]:
        """What the last micro-batch added to gradients, but for its sign; in the memory of what was there before."""
        before = [self._before.pop(id(parameter), None) for parameter in parameters]
        return [new if old is None else _subtracted(old, new) for old, new in zip(before, gradients, strict=True)]

    def _square(self, parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor]) -> Tensor:
        """The squared length of a gradient, as a float64 scalar on its device."""
        if self._precondition is not None:
            gradients = self._precondition(parameters, gradients)
        return total_norm(gradients).double().square()

    def _parts(self, weights: Sequence[float], *, step_samples: int, is_sum: bool, most: int) -> Parts:
        """The lengths of every part's mean gradient, from those of what each added to the sum."""
        scale = self._scaler.get_scale() ** 2 if self._scaler.is_enabled() else 1.0
        if self._sum is not None:
            zero = torch.zeros((), dtype=torch.float64, device=self._device)
            squares, weights = self._of_all_workers(
                [*self._squares, torch.stack([*self._bucket_squares, zero]).sum()], weights, most=most
            )
        else:
            squares = [float(square) for square in self._squares]
            weights = weights if squares else ()
        # A mean came in with its share n_w / N, a sum whole: over these, it is the mean gradient of the part.
        total = sum(weights)
        shares = [weight if is_sum else weight / step_samples for weight in weights]
        rounded = step_samples * (1.0 - 1e-12 if is_sum else 1.0)  # weights are rounded, and add up to no more than it
        return Parts(
            squares=tuple(s / scale / share**2 if share else 0.0 for s, share in zip(squares, shares, strict=True)),
            samples=tuple(rounded * weight / total for weight in weights),
        )

    def _of_all_workers(
        self, squares: Sequence[Tensor], weights: Sequence[float], *, most: int
    ) -> tuple[list[float], list[float]]:
        """Every worker's squares and weights, in the order of ranks; 0 where a worker has fewer parts than ``most``."""
        mine = torch.zeros((2, most), dtype=torch.float64, device=self._device)
        mine[0, : len(squares)] = torch.stack(list(squares))
        mine[1, : len(weights)] = torch.tensor(weights, dtype=torch.float64)
        rows = [torch.empty_like(mine) for _ in range(self._world_size)]
        dist.all_gather(rows, mine)
        return torch.cat([row[0] for row in rows]).tolist(), torch.cat([row[1] for row in rows]).tolist()

    def _backward(self, value: Tensor, share: float) -> None:
        """Add ``share`` times the gradient of ``value``; a share of 1 is torch's own backward, to the last bit."""
        seed = None if share == 1.0 else torch.full_like(value, share)
        self._scaler.scale(value).backward(gradient=seed)  # type: ignore[no-untyped-call]

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self._autocast_dtype)

    def _divide_by_weight(self, weights: Sequence[Tensor | float]) -> None:
        """Divide the summed gradient by the weight over all workers and micro-batches."""
        parts = [torch.as_tensor(weight, dtype=torch.float64, device=self._device) for weight in weights]
        total = torch.stack(parts).sum()
        if self._sum is not None:
            dist.all_reduce(total)
        divisor = float(total)
        if divisor <= 0:
            raise RecipeError(
                f"the loss's weight over the whole batch = {divisor:g}.", "(sum, weight) needs a weight above 0."
            )
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        torch._foreach_div_(values_of(gradients), divisor)

    @staticmethod
    def checked(value: object) -> tuple[Tensor, Tensor | float | None]:
        """Return the loss as ``(value, weight)``; the weight is None for a mean.

        Raises:
            RecipeError: it is no scalar tensor with a gradient.
        """
        weight: Tensor | float | None = None
        loss = value
        if isinstance(value, tuple) and len(value) == 2:
            loss, weight = value
            if isinstance(weight, Tensor):
                weight = weight.detach()
        if not isinstance(loss, Tensor) or loss.ndim != 0:
            shape = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else describe_type(loss)
            raise RecipeError(f"loss(model, batch) returned {shape}.", "Return a scalar tensor, or (sum, weight).")
        if not loss.requires_grad:
            raise RecipeError(
                "loss(model, batch) returned a tensor without a gradient.", "Compute it from the model's output."
            )
        return loss, weight


def _subtracted(before: Tensor, after: Tensor) -> Tensor:
    """``before - after``, of one parameter; a sparse one and a dense one make a dense one."""
    if before.is_sparse == after.is_sparse:
        return before.sub_(after)
    return before.to_dense() - after.to_dense()
