"""The step of one's own loop that is being computed: its losses, and the moments in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scaler.errors import TrainingError
from scaler.training.clock import Mark
from scaler.training.gradients.losses import Value
from scaler.training.gradients.step import StepMeasures
from scaler.training.own_loop.mesh import CONTEXT, LoopMesh
from scaler.training.own_loop.scheduled import Scheduled
from scaler.training.run import PlannedStep

Number = Tensor | float
NO_NORM = torch.zeros(())


@dataclass(kw_only=True, slots=True)
class OpenStep:
    """What is known of a step so far."""

    began: Mark | None = None  # its first batch was asked for
    synced: Mark | None = None  # the first optimizer began its step
    waits: list[tuple[Mark, Mark]] = field(default_factory=list)  # for batches
    losses: list[tuple[Tensor, float | Tensor]] = field(default_factory=list)  # with samples; or sums with weights
    values: list[Value] = field(default_factory=list)  # sums with weights
    is_weighted: bool = False
    last_fetched: int = 0  # samples in the last batch of this process
    first: Scheduled | None = None  # the optimizer that steps first in it; one of several may leave a step out
    planned: PlannedStep | None = None  # known when the first optimizer begins its step
    lr_used: float = 0.0
    grad_norm: Tensor = NO_NORM
    is_taken: bool = False  # an optimizer has taken it
    is_due: bool = False  # records are handed over after it

    def record(self, loss: Number, weight: Number | None, values: Mapping[str, Number]) -> None:
        """Add what the script records of a batch; it does not wait for the device.

        Raises:
            TrainingError: a loss with a weight and one without it.
        """
        if self.losses and self.is_weighted != (weight is not None):
            raise TrainingError(
                "scaler.record with a weight and without one in the same step.", "Give each loss its weight, or none."
            )
        mean = loss.detach() if isinstance(loss, Tensor) else torch.tensor(float(loss))
        counts: Tensor | float = float(self.last_fetched)
        if weight is None:
            self.losses.append((mean, counts))
        else:
            self.is_weighted = True
            counts = weight.detach() if isinstance(weight, Tensor) else float(weight)
            self.losses.append((mean * counts, counts))
        for name, value in values.items():
            plain = value.detach() if isinstance(value, Tensor) else float(value)
            self.values.append(Value(name, plain * counts, counts))

    def counted_values(self, mesh: LoopMesh) -> Sequence[Value]:
        """Return the values of this process that count, as in ``measures``."""
        if not mesh.records_losses:
            return ()
        if self.is_weighted or mesh.sizes[CONTEXT] == 1:
            return self.values
        share = 1 / mesh.sizes[CONTEXT]
        return [
            Value(name, value * share, 0.0 if weight is None else weight * share) for name, value, weight in self.values
        ]

    def measures(self, *, samples: int, mesh: LoopMesh, ready: Mark, synced: Mark) -> StepMeasures:
        """Return what this process measured.

        Over the processes, samples and weights add up to those of the step: of processes that train on the same
        samples, one has the samples in its record; a loss counts where it is recorded, but not twice for the same
        tokens.

        Args:
            samples: of this process.
            mesh: says which processes train on the same samples.
            ready: its own gradient was complete.
            synced: the gradient of all processes was complete.
        """
        losses, is_sum = tuple(self.losses), self.is_weighted
        if mesh.is_shared:
            samples = samples if mesh.counts_samples else 0
            share = 1 / mesh.sizes[CONTEXT]  # each process has the loss of a part of each sample
            found = losses if mesh.records_losses else ()
            losses = found if is_sum else tuple((mean * size * share, size * share) for mean, size in found)
            is_sum = True
        return StepMeasures(
            losses=losses,
            is_sum=is_sum,
            samples=samples,
            data_waits=tuple(self.waits),
            ready=ready,
            synced=synced,
        )
