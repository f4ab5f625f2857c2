"""The protocol between a loop of one's own and what is around it: a script, or a worker of a run."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from scaler.metrics.events import Event
from scaler.metrics.record import Record
from scaler.training.worker_context import Leave

if TYPE_CHECKING:
    import torch


class LoopContext(Protocol):
    """One process's place among the processes, and where its records and events go."""

    attempt: int
    """The number of this attempt in the run; known after ``begin``."""

    run_uri: str | None
    """The folder of the run, in every process; None before ``begin``."""

    @property
    def rank(self) -> int:
        """This process's number, in [0, world_size)."""

    @property
    def world_size(self) -> int:
        """Processes."""

    def begin(self, *, device: "torch.device", from_samples: int | None, run: str | None) -> None:
        """Make the run's folder, or continue that of ``run``; every process calls this before its first batch.

        Args:
            device: of this process's model.
            from_samples: samples in the weights that the script has loaded; None: it starts at 0.
            run: the folder of the run that they are from.
        """

    def hand_over(self, records: Sequence[Record], events: Sequence[Event], *, samples_seen: int) -> None:
        """Pass on records and events up to ``samples_seen``, without waiting."""

    def leave_requested(self) -> Leave:
        """Return what this process was asked to do, as far as it knows."""

    def end(self, error: BaseException | None, *, left: Leave) -> Any:
        """Write the end of the run.

        Args:
            error: what ended the loop; None: it came to its end.
            left: what all processes were asked to do, if they were.

        Returns:
            The report, at rank 0 of a script; else None.
        """
