"""What a search is, and what it tells its caller. This module imports no Ray."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from scaler.cluster.connection import Connection
from scaler.cluster.review import places_between
from scaler.job import Job
from scaler.plan import Plan
from scaler.runs import RunFolder

DIGITS = 4  # of a number that was drawn from a range

Values = Mapping[str, Any]
"""Values by key of the job."""

Ended = Literal["finished", "stopped", "replaced", "interrupted", "failed"]
"""How a trial ended: its run trained to its end; the scheduler stopped it; pbt replaced it by a copy of a better one;
somebody else stopped it; or it failed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Between:
    """A range of numbers.

    Args:
        low: the smallest.
        high: the largest.
        is_log: each factor is equally likely; False: each difference.
        is_whole: only whole numbers.
    """

    low: float
    high: float
    is_log: bool
    is_whole: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSpec:
    """A search.

    Args:
        space: by key of the job, a list to choose from or a range.
        searcher: ``random``, ``grid`` or ``optuna``.
        scheduler: ``none``, ``asha`` or ``pbt``.
        trials: number of settings.
        seed: of the settings and their order.
        metric: a value of the evaluation.
        mode: whether a higher (``max``) or a lower (``min``) metric is better.
        total_samples: length of a trial.
        grace: of asha, in samples.
        reduction_factor: of asha.
        interval: of pbt, in samples.
        side_by_side: trials that train at the same time.
    """

    space: Mapping[str, Sequence[Any] | Between]
    searcher: str
    scheduler: str
    trials: int
    seed: int
    metric: str
    mode: Literal["max", "min"]
    total_samples: int
    grace: int
    reduction_factor: float
    interval: int
    side_by_side: int

    def values(self, drawn: Mapping[str, Any]) -> Values:
        """Return the values of the job that were drawn: of a list, its position is drawn."""
        found: dict[str, Any] = {}
        for key, choices in self.space.items():
            value = drawn[key]
            if isinstance(choices, Between):
                value = min(max(value, choices.low), choices.high)
                found[key] = round(value) if choices.is_whole else float(f"{value:.{DIGITS}g}")
            else:
                found[key] = choices[value]
        return found

    def drawn(self, values: Values) -> dict[str, Any]:
        """Return what has these values."""
        return {
            key: values[key] if isinstance(choices, Between) else list(choices).index(values[key])
            for key, choices in self.space.items()
        }

    def places(self, total_samples: int) -> Sequence[int]:
        """Return the samples seen after which the scheduler looks at a trial of this length."""
        match self.scheduler:
            case "asha":
                return places_between(self.grace, self.reduction_factor, total_samples)
            case "pbt":
                return range(self.interval, total_samples, self.interval)
            case _:
                return []

    def number_of_settings(self) -> float:
        """Return how many settings there are; ``inf`` with a range of fractions."""
        sizes = [
            (each.high - each.low + 1 if each.is_whole else math.inf) if isinstance(each, Between) else len(each)
            for each in self.space.values()
        ]
        return math.prod(sizes)


def values_key(values: Values) -> str:
    """Return a text that two settings share if they are equal."""
    return json.dumps(values, sort_keys=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A trial before it trains.

    Args:
        job: with the trial's values; None: they do not make a job.
        plan: of the job; None: there is none.
        problem: why it cannot run; empty: it can.
        run: with the same job, if there is one; it is used, and trained further where it has not finished.
        stopped_at: the search stopped the run before, at these samples seen; None: it did not.
        may_resume: whether the run may be trained further.
        source: a run from whose checkpoint the trial begins, in a run of its own.
        source_samples: of that checkpoint.
    """

    job: Job | None = None
    plan: Plan | None = None
    problem: str = ""
    run: RunFolder | None = None
    stopped_at: int | None = None
    may_resume: bool = True
    source: RunFolder | None = None
    source_samples: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialNews:
    """What a trial has done so far.

    Args:
        number: of the trial, from 0.
        values: of the job.
        run_id: of its run; None: it has none yet.
        samples_seen: by its run.
        value: of the metric at the newest evaluation that counted for the scheduler; None: none yet.
        ended: how it ended; None: it has not.
        problem: why it cannot run, or failed.
        member: of a population: the trials of one member follow each other.
        copied_from: the run from whose checkpoint its run began; None: it began at its first sample.
    """

    number: int
    values: Values
    run_id: str | None = None
    samples_seen: int = 0
    value: float | None = None
    ended: Ended | None = None
    problem: str = ""
    member: int = 0
    copied_from: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A member of a population that is continued.

    Args:
        values: of the job, that its newest run has.
        run: its newest run.
    """

    values: Values
    run: RunFolder


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialContext:
    """What all trials of a search share.

    Args:
        spec: of the search.
        prepare: returns what a setting is to train.
        connection: to the cluster.
        recipe_folder: of the job file, on this node.
        address: of a running cluster; None: the cluster ends with the search.
        folder: the working directory of the process that searches.
        need: resources of one trial, by Ray's name.
        members: of the population of pbt, if it is continued.
    """

    spec: SearchSpec
    prepare: Callable[[Values], Prepared]
    connection: Connection
    recipe_folder: Path
    address: str | None
    folder: Path
    need: Mapping[str, float]
    members: Sequence[Member] = ()
