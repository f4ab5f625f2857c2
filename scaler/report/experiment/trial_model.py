"""The part ``search`` of ``experiment.json``. None means not known."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialResult:
    """One trial of a search."""

    trial: int  # its number, in the order in which the settings were proposed
    overrides: Mapping[str, Any]  # its values, by key of the job
    label: str  # the same as a short text
    run_id: str | None  # its run
    ended: str | None  # finished; stopped: by the scheduler; replaced: by a copy of a better one; interrupted; failed;
    # None: it runs
    copied_from: str | None  # the run from whose checkpoint its run began; None: it began at its first sample
    samples_seen: int  # samples that it used
    total_samples: int | None  # samples that it takes to its end
    last: float | None  # the metric at its last evaluation
    best: float | None  # the best value of the metric at any evaluation
    curve: tuple[tuple[int, float], ...]  # samples seen and the metric at each evaluation
    problem: str  # why it failed, or cannot run; empty: neither


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchResult:
    """What a search found."""

    searcher: str  # random, grid or optuna
    scheduler: str  # none, asha or pbt
    asked: int | None  # trials that were asked for; None: the whole grid
    side_by_side: int  # the most trials that train at the same time
    trials: tuple[TrialResult, ...]  # in the order in which they were proposed
    best: int | None  # number of the best trial: of those that trained to their ends, or of all if none did
    command: str | None  # that trains the best setting
    samples: int  # samples that all trials used
    samples_of_all: int  # samples that they take to their ends

    @property
    def share(self) -> float | None:
        """The samples that were used, as a share of those to the ends of all trials."""
        return self.samples / self.samples_of_all if self.samples_of_all else None
