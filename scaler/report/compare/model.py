"""What several runs say together, as ``scaler compare --json`` has it. None means not known."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

SCHEMA_VERSION = 1
LEVEL = 0.95
"""Of the intervals: where nothing differs, one difference in twenty is called beyond the noise."""

Kind = Literal["end", "speed", "at_samples", "at_time", "reached"]
NotJudged = Literal["no_repeats", "no_spread", "too_few_repeats", "different_lengths", "not_known"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRow:
    """One run that is compared."""

    run_id: str  # name of the run's folder
    arm: str  # the label of its arm
    state: str  # of the run
    seed: int  # train.seed
    world_size: int | None  # of its last attempt with steps; None without steps
    samples_seen: int  # samples in the final weights
    verdicts: tuple[str, ...]  # codes


@dataclass(frozen=True, kw_only=True, slots=True)
class JobChange:
    """One key of the job that an arm has otherwise than the base; values as ``--set`` takes them."""

    key: str  # dotted key of the job file
    base: str  # value in the base
    value: str  # value in this arm


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """Runs whose jobs are equal but for seed, name, and where they are stored and tracked: repeats of each other."""

    label: str  # A is the base
    run_ids: tuple[str, ...]  # its runs
    changes: tuple[JobChange, ...]  # against the base; empty for the base itself


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmValues:
    """One arm's values of a number."""

    arm: str  # label of the arm
    values: tuple[float | None, ...]  # one for each of its runs
    mean: float | None  # over repeats; on a log scale the geometric one
    spread: float | None  # standard deviation of a single repeat; None with fewer than two
    repeats: int  # values that count: of what follows from the seed, one for each seed


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """How far an arm's mean lies from the base's.

    The true change lies from ``low`` to ``high``, with probability LEVEL; on a linear scale that is ``margin`` to
    either side of ``change``. Numbers as ``..._pct`` are in per cent of the base's mean: None where that is 0, and of
    what is in percent itself.
    """

    arm: str  # label of the arm
    change: float | None  # this arm's mean minus the base's
    change_pct: float | None  # in per cent of the base's mean
    margin: float | None  # None on a log scale
    margin_pct: float | None  # in per cent of the base's mean
    low: float | None  # lower end of the interval of the change
    high: float | None  # upper end of the interval of the change
    low_pct: float | None  # in per cent of the base's mean
    high_pct: float | None  # in per cent of the base's mean
    is_beyond_noise: bool | None  # None: not judged
    not_judged: NotJudged | None  # why not; None: it is judged


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """One number of every run: at a run's end, at a place that all runs have reached, or how far it was to a value."""

    name: str  # train_loss, eval.<name>, samples_per_s, ...
    kind: Kind  # what it is: at the end, a speed, at a place or time that all reached, or the way to a value
    at: float | None  # at_samples: samples; at_time: seconds since each run's first step; reached: the value; else None
    unit: str  # s, samples, samples/s, GiB, %, or nothing
    scale: Literal["linear", "log"]  # that means and differences are taken on: log for losses, where all are above 0
    arms: tuple[ArmValues, ...]  # in the order of the arms
    differences: tuple[Difference, ...]  # one for each arm but the base

    def of(self, arm: str) -> ArmValues:
        """Return an arm's values."""
        return next(values for values in self.arms if values.arm == arm)

    def difference(self, arm: str) -> Difference:
        """Return an arm's difference from the base."""
        return next(difference for difference in self.differences if difference.arm == arm)


@dataclass(frozen=True, kw_only=True, slots=True)
class Speedup:
    """What other numbers of workers bought, against the base; means over the repeats of each."""

    arm: str  # label of the arm
    world_size: int  # workers of the arm
    samples_per_s: float  # of all workers, in the attempts with the last number of them
    speedup: float  # over the base
    efficiency: float  # speedup over the ratio of the world sizes
    time_speedup: float | None  # base's time over this one's, from the first step to the loss that all reached
    samples_ratio: float | None  # this one's samples over the base's, to the same


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One run's curve, on both clocks."""

    name: str  # train_loss or eval.<name>
    run_id: str  # name of the run's folder
    arm: str  # label of its arm
    samples_seen: tuple[int, ...]  # samples in the weights at each point
    elapsed_s: tuple[float | None, ...]  # since the run's first step
    values: tuple[float | None, ...]  # train_loss: the mean over the samples of a window that ends there


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """Something to know before the numbers are believed, and what to do about it."""

    code: str  # stable name
    message: str  # one sentence
    next: str  # what to do


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Everything that is said about several runs. The first run's arm is the base."""

    schema_version: int  # version of these fields: 1
    finding: str  # what came out, in a sentence for each arm
    level: float  # of the intervals
    runs: tuple[RunRow, ...]  # as they were given
    arms: tuple[Arm, ...]  # in the order of their first run; the first is the base
    common_samples: int  # that every run has trained; runs whose records are damaged are left out
    common_elapsed_s: float | None  # since the first step, likewise; None where a run's times are not known
    window_samples: int  # that a training loss in a curve is the mean of
    measures: tuple[Measure, ...]  # every number that is compared
    speedups: tuple[Speedup, ...]  # empty where all arms have as many workers
    curves: tuple[Curve, ...]  # for drawing
    notes: tuple[Note, ...]  # what to know before the numbers are believed

    def to_dict(self) -> Mapping[str, Any]:
        """Return the comparison as JSON has it."""
        return asdict(self)
