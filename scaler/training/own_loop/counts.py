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

    def plus(self, other: "Sums") -> "Sums":
        """Return the sums of both."""
        return Sums(
            samples=self.samples + other.samples,
            yields=self.yields + other.yields,
            stops=self.stops + other.stops,
            dues=self.dues + other.dues,
            norms=self.norms + other.norms,
            norm=self.norm + other.norm,
            square=self.square + other.square,
        )

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
        self._sent: list[tuple[Tensor, dist.Work | None]] = []  # that ``take`` has not added up
        self._sums = _NOTHING
        self.own = 0

    def add(self, samples: int, *, leave: Leave, is_due: bool, norm: float | None) -> None:
        """Count samples of this process for the step that comes next.

        Args:
            samples: in the batch that this process has fetched.
            leave: what this process was asked to do.
            is_due: whether it wants to hand records over.
            norm: of the last step's gradient in this process; None: it is not compared.
        """
        self.own += samples
        yields, stops = int(leave is Leave.YIELD), int(leave is Leave.STOP)
        known, size = int(norm is not None), norm or 0.0
        mine = Sums(samples, yields, stops, int(is_due), known, size, size * size)
        if self._group.gloo is None:
            self._sums = mine if self._sums is _NOTHING else self._sums.plus(mine)
            return
        sums = torch.tensor(mine, dtype=torch.float64)
        self._sent.append((sums, self._group.begin_sum(sums)))

    def take(self) -> Sums:
        """Return the sums since the last ``clear``; waits for those that are on their way."""
        sent, self._sent = self._sent, []
        for sums, work in sent:
            if work is not None:
                work.wait()
            samples, yields, stops, dues, norms, norm, square = sums.tolist()
            theirs = Sums(int(samples), int(yields), int(stops), int(dues), int(norms), norm, square)
            self._sums = theirs if self._sums is _NOTHING else self._sums.plus(theirs)
        return self._sums

    def clear(self) -> None:
        """Begin the next step."""
        self._sent, self._sums, self.own = [], _NOTHING, 0


_NOTHING = Sums(0, 0, 0, 0, 0, 0.0, 0.0)
