"""The values of a comparison, with the fields of ``scaler compare --json``. None: not known."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

SCHEMA_VERSION = 1
LEVEL = 0.95
"""Confidence level of the intervals: of 20 numbers without a true difference, about one is called beyond the noise."""

Kind = Literal["end", "speed", "at_samples", "at_time", "reached"]
NotJudged = Literal["no_repeats", "no_spread", "too_few_repeats", "different_lengths", "not_known"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRow:
    """One of the compared runs."""

    run_id: str  # name of the run's folder
    arm: str  # the label of its arm
    state: str  # of the run
    seed: int  # train.seed
    world_size: int | None  # of its last attempt with steps; None without steps
    samples_seen: int  # samples in the final weights
    verdicts: tuple[str, ...]  # codes


@dataclass(frozen=True, kw_only=True, slots=True)
class JobChange:
    """One key of the job that differs between an arm and the base; values in the syntax of ``--set``."""

    key: str  # dotted key of the job file
    base: str  # value in the base
    value: str  # value in this arm


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """Runs whose jobs differ only in seed, name, storage and tracking: repeats of each other."""

    label: str  # A is the base
    run_ids: tuple[str, ...]  # its runs
    changes: tuple[JobChange, ...]  # from the base; empty for the base itself


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmValues:
    """The values of one number in one arm."""

    arm: str  # label of the arm
    values: tuple[float | None, ...]  # one for each of its runs
    mean: float | None  # over repeats; on a log scale the geometric mean
    spread: float | None  # standard deviation of a single repeat; None with fewer than two
    repeats: int  # values that are compared: one for each run, or one for each seed if the number depends on the seed


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """The difference between the means of an arm and of the base.

    The true change is between ``low`` and ``high`` with a probability of LEVEL. On a linear scale, these are
    ``change - margin`` and ``change + margin``. Fields named ``..._pct`` are in percent of the base's mean: None if
    that mean is 0, or if the number itself is in percent.
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
    """One number of every run: at its end, at a place that all runs have reached, or on the way to a common value."""

    name: str  # train_loss, eval.<name>, samples_per_s, ...
    kind: Kind  # at the end, a speed, at samples or a time that all runs reached, or samples or seconds to a value
    at: float | None  # at_samples: samples; at_time: seconds since each run's first step; reached: the value; else None
    unit: str  # s, samples, samples/s, tokens, tokens/s, GiB, %, or nothing
    count: str = "samples"  # what at counts in a measure at_samples: samples or tokens
    scale: Literal["linear", "log"]  # of means and differences; log for losses that are all above 0
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
    """The speed-up of an arm with another number of workers against the base; means over repeats."""

    arm: str  # label of the arm
    world_size: int  # workers of the arm
    samples_per_s: float  # of all workers, in the attempts with the last number of workers
    speedup: float  # over the base
    efficiency: float  # speedup over the ratio of the world sizes
    time_speedup: float | None  # the base's time over this arm's, from the first step to the common loss
    samples_ratio: float | None  # this arm's samples over the base's, to the common loss


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One curve of one run, over samples and over time."""

    name: str  # train_loss or eval.<name>
    run_id: str  # name of the run's folder
    arm: str  # label of its arm
    samples_seen: tuple[int, ...]  # samples in the weights at each point
    elapsed_s: tuple[float | None, ...]  # since the run's first step
    values: tuple[float | None, ...]  # train_loss: the mean over a window of samples that ends there


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """A caution about the numbers, and what to do about it."""

    code: str  # stable name
    message: str  # one sentence
    next: str  # what to do


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A comparison of several runs. The arm of the first run is the base."""

    schema_version: int  # version of these fields: 1
    # samples or tokens; with tokens, every count and speed of the comparison is in tokens, whatever the field's name
    unit: str = "samples"
    finding: str  # the result, a sentence for each arm
    level: float  # of the intervals
    runs: tuple[RunRow, ...]  # in the order of the command line
    arms: tuple[Arm, ...]  # in the order of their first run; the first is the base
    common_samples: int  # trained by every run; runs with damaged records are left out
    common_elapsed_s: float | None  # since the first step, trained by every run; None: the times of a run are not known
    window_samples: int  # of the mean training loss in a curve
    measures: tuple[Measure, ...]  # every number that is compared
    speedups: tuple[Speedup, ...]  # empty if all arms have the same number of workers
    curves: tuple[Curve, ...]  # for drawing
    notes: tuple[Note, ...]  # cautions about the numbers

    def to_dict(self) -> Mapping[str, Any]:
        """Return the comparison as in ``--json``."""
        return asdict(self)
