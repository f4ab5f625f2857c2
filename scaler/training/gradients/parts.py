"""The norms of the parts of a step's gradient, one for each micro-batch of each worker, to measure its noise."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from scaler.training.gradients.norm import total_norm

Precondition = Callable[[Sequence[nn.Parameter], Sequence[Tensor]], Sequence[Tensor]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """The parts whose mean is a step's gradient: one gradient for each micro-batch of each worker."""

    squares: tuple[float, ...]  # squared norm of each part, before clipping and loss scaling
    samples: tuple[float, ...]  # samples in each part; for weighted samples, its weight in samples


class PartNorms:
    """Measures what each micro-batch adds to the gradient, before the sum over workers. The gradient does not change.

    Args:
        parameters: the trained ones.
        device: of the model.
        world_size: workers in torch's default process group.
        precondition: applied to gradients before their norms are measured; None: nothing.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        *,
        device: torch.device,
        world_size: int,
        precondition: Precondition | None,
    ) -> None:
        self._parameters, self._device, self._world_size = parameters, device, world_size
        self._precondition = precondition
        self.begin()

    def begin(self) -> None:
        """Begin a step."""
        self._squares: list[Tensor] = []  # of each micro-batch
        self._bucket_squares: list[Tensor] = []  # of the last micro-batch, with several workers
        self._before: dict[int, Tensor] = {}  # by id of the parameter: its gradient before the last micro-batch

    def note(self, parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor]) -> None:
        """Keep the squared norm of what the last micro-batch added to some gradients, before the sum over workers."""
        self._bucket_squares.append(self.square(parameters, self._last_added(parameters, gradients)))

    def take_apart(self, *, is_last: bool) -> None:
        """Keep the squared norm of what one micro-batch added to the gradient."""
        present = [(p, p.grad) for p in self._parameters if p.grad is not None]
        parameters, gradients = [p for p, _ in present], [gradient for _, gradient in present]
        self._squares.append(self.square(parameters, self._last_added(parameters, gradients)))
        self._before = {} if is_last else {id(p): gradient.clone() for p, gradient in present}

    def square(self, parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor]) -> Tensor:
        """Return the squared norm of a gradient, as a float64 scalar on its device."""
        if self._precondition is not None:
            gradients = self._precondition(parameters, gradients)
        return total_norm(gradients).double().square()

    def parts(
        self, weights: Sequence[float], *, step_samples: int, is_sum: bool, most: int, loss_scale: float
    ) -> Parts:
        """Return the squared norm of every part's mean gradient, from what each part added to the sum.

        Args:
            weights: of this worker's micro-batches.
            step_samples: samples in the whole step.
            is_sum: whether losses are sums with weights.
            most: the largest number of micro-batches of a worker.
            loss_scale: of the loss scaler.
        """
        if self._world_size > 1:
            zero = torch.zeros((), dtype=torch.float64, device=self._device)
            squares, weights = self._of_all_workers(
                [*self._squares, torch.stack([*self._bucket_squares, zero]).sum()], weights, most=most
            )
        else:
            squares = [float(square) for square in self._squares]
            weights = weights if squares else ()
        # A mean was added with the factor n_w / N, a sum with 1: divided by it, the part is a mean gradient.
        total = sum(weights)
        shares = [weight if is_sum else weight / step_samples for weight in weights]
        rounded = step_samples * (1.0 - 1e-12 if is_sum else 1.0)  # rounded weights must not add up to more
        return Parts(
            squares=tuple(
                s / loss_scale**2 / share**2 if share else 0.0 for s, share in zip(squares, shares, strict=True)
            ),
            samples=tuple(rounded * weight / total for weight in weights),
        )

    def _last_added(self, parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor]) -> list[Tensor]:
        """Return what the last micro-batch added to gradients, for its norm only: the sign may be reversed.

        The copies of the earlier gradients are overwritten.
        """
        before = [self._before.pop(id(parameter), None) for parameter in parameters]
        return [new if old is None else _subtracted(old, new) for old, new in zip(before, gradients, strict=True)]

    def _of_all_workers(
        self, squares: Sequence[Tensor], weights: Sequence[float], *, most: int
    ) -> tuple[list[float], list[float]]:
        """Return every worker's squares and weights, ordered by rank; 0 if a worker has fewer parts than ``most``."""
        mine = torch.zeros((2, most), dtype=torch.float64, device=self._device)
        mine[0, : len(squares)] = torch.stack(list(squares))
        mine[1, : len(weights)] = torch.tensor(weights, dtype=torch.float64)
        rows = [torch.empty_like(mine) for _ in range(self._world_size)]
        dist.all_gather(rows, mine)
        return torch.cat([row[0] for row in rows]).tolist(), torch.cat([row[1] for row in rows]).tolist()


def _subtracted(before: Tensor, after: Tensor) -> Tensor:
    """Return ``before - after`` for one parameter; the difference of a sparse and a dense gradient is dense."""
    if before.is_sparse == after.is_sparse:
        return before.sub_(after)
    return before.to_dense() - after.to_dense()
