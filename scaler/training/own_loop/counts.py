"""How many samples a step has over all processes. The loop does not wait: the sum is on its way while it computes."""

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from scaler.training.own_loop.group import LoopGroup
from scaler.training.worker_context import Leave


class Sums(NamedTuple):
    """Sums over all processes, of one step or of a part of it."""

    samples: int  # that were fetched
    yields: int  # processes that were asked to leave, so that the group can start again
    stops: int  # processes that were asked to stop
    dues: int  # processes that want to hand records over
    norms: int  # gradient norms that were sent
    norm: float  # sum of these norms
    square: float  # sum of their squares

    @property
    def leave(self) -> Leave:
        """What all processes do."""
        return Leave.STOP if self.stops else Leave.YIELD if self.yields else Leave.NOT


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
        self._group = group
        self._sent: list[tuple[Tensor, dist.Work | None]] = []
        self.own = 0

    def add(self, samples: int, *, leave: Leave, is_due: bool, norm: float | None) -> None:
        """Count samples of this process for the step that comes next.

        Args:
            samples: in the batch that this process has fetched.
            leave: what this process was asked to do.
            is_due: whether it wants to hand records over.
            norm: of the last step's gradient in this process; None: it is not compared.
        """
        norms = [0.0, 0.0, 0.0] if norm is None else [1.0, norm, norm * norm]
        asked = [leave is Leave.YIELD, leave is Leave.STOP, is_due]
        sums = torch.tensor([samples, *asked, *norms], dtype=torch.float64)
        self._sent.append((sums, self._group.begin_sum(sums)))
        self.own += samples

    def take(self) -> Sums:
        """Return the sums since the last ``clear``; waits for those that are on their way."""
        total = torch.zeros(len(Sums._fields), dtype=torch.float64)
        for sums, work in self._sent:
            if work is not None:
                work.wait()
            total += sums
        self._sent = [(total, None)]
        samples, yields, stops, dues, norms, norm, square = total.tolist()
        return Sums(int(samples), int(yields), int(stops), int(dues), int(norms), norm, square)

    def clear(self) -> None:
        """Begin the next step."""
        self._sent, self.own = [], 0
