"""How many samples a step has over all processes. The loop does not wait: the sum is on its way while it computes."""

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from scaler.training.own_loop.group import LoopGroup
from scaler.training.own_loop.mesh import LoopMesh
from scaler.training.worker_context import Leave


class OfStep(NamedTuple):
    """What a process knows of a step that was taken, and sends to be compared with the others'."""

    samples: int  # that it fetched
    norm: float  # of the gradient
    digest: float  # of the batches' first tensors; 0: it does not know


class Sums(NamedTuple):
    """Sums over all processes, of one step or of a part of it."""

    samples: int  # that were fetched
    yields: int  # processes that were asked to leave, so that the group can start again
    stops: int  # processes that were asked to stop
    dues: int  # processes that want to hand records over

    def plus(self, other: "Sums") -> "Sums":
        """Return the sums of both."""
        return Sums(
            samples=self.samples + other.samples,
            yields=self.yields + other.yields,
            stops=self.stops + other.stops,
            dues=self.dues + other.dues,
        )

    @property
    def leave(self) -> Leave:
        """What all processes do."""
        return Leave.STOP if self.stops else Leave.YIELD if self.yields else Leave.NOT


class StepCounts:
    """Sums what each process counts, over all processes, through a gloo group.

    Every process must call ``add`` equally often, as often as it fetches a batch. Nothing is assumed of the data:
    samplers that pad, batches of different sizes and frameworks that even out batches are counted as they are. Of the
    processes that train on the same samples, one counts.

    Args:
        group: of the processes.
        mesh: says which of them train on the same samples.

    Attributes:
        own: samples that this process has fetched since the last ``clear``.
    """

    def __init__(self, group: LoopGroup, mesh: LoopMesh) -> None:
        self._group, self._counts_here = group, mesh.counts_samples
        self._sent: list[tuple[Tensor, dist.Work | None]] = []  # that ``take`` has not added up
        self._sums = _NOTHING
        self._compared: tuple[Tensor, dist.Work | None] | None = None
        self.own = 0

    def add(self, samples: int, *, leave: Leave, is_due: bool, compare: OfStep | None) -> None:
        """Count samples of this process for the step that comes next.

        Args:
            samples: in the batch that this process has fetched.
            leave: what this process was asked to do.
            is_due: whether it wants to hand records over.
            compare: of the step before; None in every process: it is not compared.
        """
        self.own += samples
        yields, stops = int(leave is Leave.YIELD), int(leave is Leave.STOP)
        mine = Sums(samples if self._counts_here else 0, yields, stops, int(is_due))
        if self._group.gloo is None:
            self._sums = mine if self._sums is _NOTHING else self._sums.plus(mine)
            return
        sums = torch.tensor(mine, dtype=torch.float64)
        self._sent.append((sums, self._group.begin_sum(sums)))
        if compare is not None:
            rows = torch.zeros(self._group.world_size, len(compare), dtype=torch.float64)
            rows[self._group.rank] = torch.tensor(compare, dtype=torch.float64)
            self._compared = rows, self._group.begin_sum(rows)

    def take(self) -> Sums:
        """Return the sums since the last ``clear``; waits for those that are on their way."""
        sent, self._sent = self._sent, []
        for sums, work in sent:
            if work is not None:
                work.wait()
            theirs = Sums(*map(int, sums.tolist()))
            self._sums = theirs if self._sums is _NOTHING else self._sums.plus(theirs)
        return self._sums

    def take_compared(self) -> list[OfStep] | None:
        """Return what every process knows of the step before, by rank; None: it is not compared."""
        if self._compared is None:
            return None
        (rows, work), self._compared = self._compared, None
        if work is not None:
            work.wait()
        return [OfStep(int(samples), norm, digest) for samples, norm, digest in rows.tolist()]

    def clear(self) -> None:
        """Begin the next step."""
        self._sent, self._sums, self.own = [], _NOTHING, 0


_NOTHING = Sums(0, 0, 0, 0)
