"""What finished runs and experiments say of a plan: its time, its cost and its risk. None means not known."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from scaler.core.intervals import Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class Risk:
    """What an experiment, or earlier runs, showed at the batch and rule of a plan."""

    source: str  # name of the experiment; runs: runs that diverged
    verdict: str  # baseline, equivalent, better, worse or undecided; diverged: of runs
    message: str  # one sentence


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanEstimate:
    """What finished runs and experiments of a plan's job say of it.

    The range of a time goes from the fastest to the slowest tenth of the runs it is taken from, and over the batches
    that were not measured; by a law of scaling, it is the law's 90 % interval of prediction.
    """

    world_size: int  # workers of the plan
    time_s: Estimate | None  # from submission to the end, in seconds; None: not known
    train_s: Estimate | None  # in optimizer steps
    other_s: Estimate | None  # in start-up, evaluations, checkpoints and the end of the run
    # less time in steps than at the constant batch of the start; None: the batch stays, or times of batches are missing
    saved_s: Estimate | None = None
    cost: Estimate | None  # in the currency of resources.price_per_worker_hour; None: no price, or no time
    basis: str  # what the time is taken from; where it is not known, why
    runs: tuple[str, ...]  # ids of the runs that it is taken from, the newest first
    next: str  # what to run where the time is not known; empty: nothing
    risks: tuple[Risk, ...]  # the worst first

    def to_dict(self) -> Mapping[str, Any]:
        """Return the estimate as JSON has it."""
        return asdict(self)
