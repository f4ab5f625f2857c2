"""The protocol between training and the way in which the workers share a model.

What differs between a copy on each worker and shards is behind this protocol: how a model is put onto the workers, how
a step's gradient is summed, which of its parts can be seen, and where a checkpoint's tensors go.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from torch import Tensor, nn

from scaler.training.clock import Clock, Mark

OnPart = Callable[[Sequence[nn.Parameter], Sequence[Tensor]], None]


class GradientReduction(Protocol):
    """Sums the gradient of a step over the workers, into the parameters' ``grad``."""

    def before_backward(self, *, is_last: bool, counts: bool, on_part: OnPart | None) -> None:
        """Announce a backward.

        Args:
            is_last: whether it is the last one of the step.
            counts: whether the micro-batch has samples that count; False: its gradient has the weight 0.
            on_part: None: the step is not measured. Otherwise, where a worker's own gradient can be seen, it is called
                with parameters and this worker's gradients of them in the last backward, before they are summed.
        """

    def after_backward(self, *, counts: bool) -> None:
        """Start what is left of the sum after the last backward of a step.

        Args:
            counts: whether this worker has samples in the step.
        """

    def wait(self) -> None:
        """Wait for the sum. A parameter that no worker used in the step has no gradient then."""

    def take_waits(self) -> tuple[tuple[Mark, Mark], ...]:
        """Return the waits for the other workers inside forward and backward since the last call."""

    def close(self) -> None:
        """Remove what was attached to the parameters, so that another object can be created for them."""


class Parallel(Protocol):
    """How the workers share a model."""

    is_sharded: bool
    """Whether each worker has a part of each weight. Forward and backward are collectives then: every worker runs
    equally many of them, also in evaluations, and every worker writes its part of a checkpoint."""

    def distribute(self, model: nn.Module) -> None:
        """Put a model onto the workers, with rank 0's weights and buffers; its parameters keep their names."""

    def reduction(self, model: nn.Module, named: Mapping[str, nn.Parameter], clock: Clock) -> GradientReduction:
        """Return what sums the gradients of a distributed model's trained parameters, given by name."""

    def micro_batches(self, own: int, *, most: int) -> int:
        """Return how many forwards this worker runs in a step.

        Args:
            own: micro-batches of this worker that have samples.
            most: the largest ``own`` of all workers.
        """

    def noise_parts(self, micro_batches: int) -> int:
        """Return of how many gradients a step is the sum, as far as each can be seen, to measure its noise."""

    def part_weights(self, weights: Sequence[float]) -> list[float]:
        """Return the weights of the gradients of this worker's micro-batches, as far as they can be seen.

        Args:
            weights: of this worker's micro-batches.
        """

    def broken_weight(self, named: Mapping[str, nn.Parameter]) -> str | None:
        """Return the name of a parameter that is not finite, or None; the same on every worker if it is sharded."""

    def like(self, parameter: nn.Parameter, saved: Tensor) -> Tensor:
        """Return an empty tensor for a value with the shape of a parameter, such as a running mean, in a checkpoint.

        Args:
            parameter: of a distributed model.
            saved: the value without its numbers, on the meta device.
        """
