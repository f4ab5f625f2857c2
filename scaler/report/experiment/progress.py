"""What an experiment would run, and how far it is: the values that a dry run and ``scaler experiment status`` show."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scaler.core.intervals import Estimate

WAITING, IMPOSSIBLE, GONE = "waiting", "impossible", "gone"  # states of cells without a run
LEFT = "stopped by the search"  # the state of a trial that needs no more training


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedCell:
    """One cell of a dry run.

    Args:
        cell: its number.
        label: what the matrix sets.
        seed: ``train.seed``.
        run_id: its run, if it has one.
        is_to_run: whether it would run.
        problem: why it cannot run; empty: it can.
        world_size: workers.
        global_batch_size: samples a step; of a job that counts tokens, tokens.
        rule: of ``scale.rule``.
        peak_lr: peak learning rate.
        total_steps: optimizer steps.
        time_s: seconds, estimated from finished runs; None: not known, or it is not to run.
        cost: of this time, in the currency of the job's price; None: no price, or no time.
    """

    cell: int
    label: str
    seed: int
    run_id: str | None
    is_to_run: bool
    problem: str
    world_size: int | None
    global_batch_size: int | None
    rule: str | None
    peak_lr: float | None
    total_steps: int | None
    time_s: Estimate | None
    cost: Estimate | None


@dataclass(frozen=True, kw_only=True, slots=True)
class DryRun:
    """What an experiment would run.

    Args:
        name: of the experiment.
        cells: in the order of the matrix.
        time_s: of all cells that would run, one after another; None: not known for one of them.
        cost: of all cells that would run; None: not known for one of them.
        unknown: numbers of workers whose time is not known.
        remedies: what to do about cells that need more CPUs than this machine has.
    """

    name: str
    cells: Sequence[PlannedCell]
    time_s: Estimate | None
    cost: Estimate | None
    unknown: Sequence[int]
    remedies: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchDryRun:
    """What a search would try.

    Args:
        name: of the experiment.
        space: by key of the job, the values as a text.
        searcher: that proposes settings.
        scheduler: that stops trials.
        trials: number of settings.
        total_samples: of a trial that trains to its end.
        places: samples after which the scheduler looks at a trial.
        most_samples: of all trials, if none is stopped.
        fewest_samples: of all trials, if every trial but one is stopped at the first place.
    """

    name: str
    space: dict[str, str]
    searcher: str
    scheduler: str
    trials: int
    total_samples: int
    places: Sequence[int]
    most_samples: int
    fewest_samples: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExperimentStatus:
    """The states of an experiment's cells.

    Args:
        name: of the experiment.
        cells: number of cells.
        states: number of cells by state of their run; ``waiting``: no run yet; ``impossible``: it cannot run;
            ``gone``: its run was removed; ``stopped by the search``: it needs no more training.
        running: run ids of the cells that run now.
    """

    name: str
    cells: int
    states: Mapping[str, int]
    running: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the status as JSON has it."""
        return asdict(self)
