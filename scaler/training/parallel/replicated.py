"""Each worker has a copy of the model, as with ``DistributedDataParallel``; or there is one worker."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from scaler.training.clock import Clock, Mark
from scaler.training.gradients.norm import coalesced
from scaler.training.model.buffers import broadcast_tensors
from scaler.training.model.initial import Initialize, materialize
from scaler.training.parallel.gradient_sum import GradientSum, sparse_parameters
from scaler.training.parallel.strategy import GradientReduction, OnPart


class Replicated:
    """A copy of the model on each worker (``strategy: ddp``).

    Args:
        world_size: workers; if there are more than one, torch's default process group must exist.
        device: of this worker.
        seed: of the weights of a model that was built on the meta device.
        initialize: as in ``Recipe``.
    """

    is_sharded = False

    def __init__(
        self, *, world_size: int, device: torch.device, seed: int = 0, initialize: Initialize | None = None
    ) -> None:
        self._world_size, self._device, self._seed, self._initialize = world_size, device, seed, initialize

    def distribute(self, model: nn.Module) -> None:
        """Put the model onto the device, with rank 0's weights and buffers."""
        materialize(model, self._device, seed=self._seed, initialize=self._initialize)
        model.to(self._device)
        if self._world_size > 1:
            broadcast_tensors([*model.parameters(), *model.buffers()])

    def reduction(self, model: nn.Module, named: Mapping[str, nn.Parameter], clock: Clock) -> GradientReduction:
        """Return a sum in buckets, which runs during backward; on one worker, nothing is summed."""
        if self._world_size == 1:
            return _OneWorker(list(named.values()))
        return BucketReduction(named, sparse=sparse_parameters(model))

    def micro_batches(self, own: int, *, most: int) -> int:
        """Return this worker's micro-batches; with an empty share, it takes one with the weight 0."""
        return max(own, 1)

    def noise_parts(self, micro_batches: int) -> int:
        """Return the micro-batches of all workers."""
        return self._world_size * micro_batches

    def part_weights(self, weights: Sequence[float]) -> list[float]:
        """Return the weights: each worker sees its own micro-batches."""
        return list(weights)

    def broken_weight(self, named: Mapping[str, nn.Parameter]) -> str | None:
        """Return the name of a parameter that is not finite, or None."""
        return next((name for name, parameter in named.items() if not parameter.isfinite().all()), None)

    def like(self, parameter: nn.Parameter, saved: Tensor) -> Tensor:
        """Return an empty tensor on the CPU."""
        return torch.empty_like(saved, device="cpu")


class BucketReduction:
    """Sums gradients in buckets while backward is still running.

    Args:
        named: name -> trained parameter; the same on every worker.
        sparse: the parameters among them with sparse gradients, as far as known.
    """

    def __init__(self, named: Mapping[str, nn.Parameter], *, sparse: Sequence[nn.Parameter]) -> None:
        self._sum = GradientSum(named, sparse=sparse)

    def before_backward(self, *, is_last: bool, counts: bool, on_part: OnPart | None) -> None:
        """Let buckets be summed as they become complete, in the last backward."""
        if is_last and counts:
            self._sum.begin(on_part)

    def after_backward(self, *, counts: bool) -> None:
        """Start the sum of the remaining gradients."""
        self._sum.start_rest(counts=counts)

    def wait(self) -> None:
        """Wait for the sums."""
        self._sum.wait()

    def take_waits(self) -> tuple[tuple[Mark, Mark], ...]:
        """Return nothing: a worker waits only after its backward."""
        return ()

    def close(self) -> None:
        """Remove the hooks from the parameters."""
        self._sum.close()


class _OneWorker:
    """The gradient of one worker needs no sum."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = parameters

    def before_backward(self, *, is_last: bool, counts: bool, on_part: OnPart | None) -> None:
        """Do nothing."""

    def after_backward(self, *, counts: bool) -> None:
        """Let each row of a sparse gradient occur once."""
        for parameter in self._parameters:
            if parameter.grad is not None and parameter.grad.is_sparse:
                parameter.grad = coalesced(parameter.grad)

    def wait(self) -> None:
        """Do nothing."""

    def take_waits(self) -> tuple[tuple[Mark, Mark], ...]:
        """Return nothing: a worker waits only after its backward."""
        return ()

    def close(self) -> None:
        """Do nothing."""
