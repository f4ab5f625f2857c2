"""How many samples a step has over all processes. The loop does not wait: the sum is on its way while it computes."""

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from scaler.training.own_loop.group import LoopGroup


class Sums(NamedTuple):
    """Sums over all processes, of one step or of a part of it."""

    samples: int  # that were fetched
    stops: int  # processes that were asked to stop
    norms: int  # gradient norms that were sent
    norm: float  # sum of these norms
    square: float  # sum of their squares


class StepCounts:
    """Sums what each process counts, over all processes, through a gloo group.

    Every process must call ``add`` equally often, as often as it fetches a batch. Nothing is assumed of the data:
    samplers that pad, batches of different sizes and frameworks that even out batches are counted as they are.

    Args:
        group: of the processes.

    Attributes:
        own: samples that this process has fetched since the last ``clear``.
    """

    def __init__(self, group: LoopGroup) -> None:
        self._group = group.gloo
        self._sent: list[tuple[Tensor, dist.Work | None]] = []
        self.own = 0

    def add(self, samples: int, *, is_asked_to_stop: bool = False, norm: float | None = None) -> None:
        """Count samples of this process for the step that comes next.

        Args:
            samples: in the batch that this process has fetched.
            is_asked_to_stop: whether this process was asked to stop.
            norm: of the last step's gradient in this process; None: it is not compared.
        """
        norms = [0.0, 0.0, 0.0] if norm is None else [1.0, norm, norm * norm]
        sums = torch.tensor([samples, is_asked_to_stop, *norms], dtype=torch.float64)
        work = dist.all_reduce(sums, group=self._group, async_op=True) if self._group is not None else None
        self._sent.append((sums, work))
        self.own += samples

    def take(self) -> Sums:
        """Return the sums since the last ``clear``; waits for those that are on their way."""
        total = torch.zeros(5, dtype=torch.float64)
        for sums, work in self._sent:
            if work is not None:
                work.wait()
            total += sums
        self._sent = [(total, None)]
        samples, stops, norms, norm, square = total.tolist()
        return Sums(samples=int(samples), stops=int(stops), norms=int(norms), norm=norm, square=square)

    def clear(self) -> None:
        """Begin the next step."""
        self._sent, self.own = [], 0
