"""The report of an experiment: the contents of ``experiment.json``. None means not known."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from scaler.core.equivalence import Mode, Verdict
from scaler.core.intervals import Estimate
from scaler.report.experiment.trial_model import SearchResult
from scaler.report.run.model import Report

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What an experiment asks.

    Args:
        baseline: values of the matrix that name the baseline group.
        metric: a value of the evaluation, or ``train_loss``.
        mode: whether a higher (``max``) or a lower (``min``) metric is better.
        margin: difference that does not matter, in the metric's unit.
        level: confidence of the intervals, in (0, 1).
        target: value of the metric whose cost is compared; None: none.
    """

    baseline: Mapping[str, Any]
    metric: str
    mode: Mode
    margin: float
    level: float
    target: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class CellInput:
    """A cell, and the report of its run.

    Args:
        cell: its number.
        overrides: what the matrix sets.
        seed: ``train.seed``.
        order: the place at which it ran in this experiment; None: it was taken from an earlier run, or has not run.
        problem: why it has no run; empty: it has one, or waits for its turn.
        report: of its run; None: it has none.
    """

    cell: int
    overrides: Mapping[str, Any]
    seed: int
    order: int | None
    problem: str
    report: Report | None


@dataclass(frozen=True, kw_only=True, slots=True)
class CellResult:
    """One cell."""

    cell: int  # its number
    overrides: Mapping[str, Any]  # what the matrix sets
    seed: int  # train.seed
    run_id: str | None  # its run
    state: str  # of the run; waiting: it has none yet; impossible: it cannot run
    problem: str | None  # why it cannot run, or why its run failed
    order: int | None  # the place at which it ran; None: taken from an earlier run, or not run
    world_size: int | None  # workers
    global_batch_size: int | None  # samples a step
    rule: str | None  # of scale.rule
    peak_lr: float | None  # peak learning rate
    total_samples: int | None  # length of the training in samples
    final: Mapping[str, float | None]  # values of the last evaluation, and train_loss
    samples_to_target: float | None  # samples until the metric stays at the target; None: not reached, or no target
    time_to_target_s: float | None  # seconds from the first step until then
    samples_per_s: float | None  # throughput in steps, without the first ones
    train_s: float | None  # seconds in steps
    cost: float | None  # in the currency of resources.price_per_worker_hour


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A group's difference to the baseline, paired by seed."""

    mean: float  # group minus baseline, in the metric's unit
    low: float | None  # lower end of its interval
    high: float | None  # upper end
    level: float  # confidence of the interval: that at which the group was tested among all groups
    verdict: Verdict  # equivalent, better, worse or undecided
    equivalent: bool  # whether the interval lies within the margin
    is_as_good: bool  # whether the group is worse by less than the margin, however much better it may be
    pairs: int  # seeds that both have
    each: tuple[float, ...]  # the difference of each pair, in the order of the seeds


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupResult:
    """The repeats of one combination of the matrix."""

    overrides: Mapping[str, Any]  # what the matrix sets
    label: str  # the same as a short text
    cells: tuple[int, ...]  # numbers of its cells
    seeds: tuple[int, ...]  # seeds of the runs that succeeded
    failed: int  # runs that failed
    is_baseline: bool  # whether it is the baseline
    world_size: int | None  # workers
    global_batch_size: int | None  # samples a step
    rule: str | None  # of scale.rule
    base_lr: float | None  # learning rate of the reference
    peak_lr: float | None  # peak learning rate
    final: Estimate | None  # mean of the metric at the end
    finals: tuple[float, ...]  # the metric at the end of each run
    difference_to_baseline: Difference | None  # None for the baseline, and without a seed in common
    reached: int  # runs that reached the target
    samples_to_target: Estimate | None  # median over seeds, in samples; None: no target
    efficiency: Estimate | None  # statistical: the baseline's samples to the target over the group's, by seed
    time_to_target_s: Estimate | None  # median over seeds, in seconds from the first step, evaluations included
    cost_to_target: Estimate | None  # of that time, in the currency of resources.price_per_worker_hour
    speed_up: Estimate | None  # times as fast to the target as the baseline, by seed; no target: its throughput
    speed_ups: tuple[float, ...]  # of each seed; without a target, of each run over the baseline's mean
    samples_per_s: Estimate | None  # harmonic mean of the throughput
    samples_per_s_each: tuple[float, ...]  # of each run
    samples_to_target_each: tuple[float, ...]  # of each run that reached the target
    train_s: float | None  # median over seeds of the time from the first step to the end of the last
    train_cost: float | None  # of that time


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeedRow:
    """One number of workers in a series of runs that differ in it alone."""

    series: str  # the other values of the matrix
    kind: str  # strong: one global batch; weak: the batch grows with the workers
    num_workers: int  # workers
    global_batch_size: int  # samples a step
    repeats: int  # runs
    each: tuple[float, ...]  # throughput of each run, samples a second
    speed_ups: tuple[float, ...]  # the same over the base's mean
    samples_per_s: Estimate  # harmonic mean
    speed_up: Estimate  # over the fewest workers
    efficiency: Estimate  # speed-up over the number of workers
    base_workers: int  # the fewest workers
    base_samples_per_s: float  # their throughput, the absolute base of the speed-up
    is_oversubscribed: bool  # whether the workers had fewer CPUs than there are workers
    data_wait: float | None  # share of the step time that a worker waits for data
    sync_wait: float | None  # share of the step time that a worker waits for the others
    imbalance: float | None  # share by which the slowest worker's compute time exceeds the mean
    tail: float | None  # share of the places in all steps that had no sample: uneven shares, short last steps


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOut:
    """A fit without the largest measured point, which it then predicts."""

    place: int  # the batch size or number of workers that was left out
    predicted: Estimate  # what the fit of the others gives there, with its prediction interval
    measured: float  # mean of the runs there
    is_inside: bool  # whether the measured value is in the interval


@dataclass(frozen=True, kw_only=True, slots=True)
class LawResult:
    """A law of scaling that was fitted to a series."""

    series: str  # the other values of the matrix
    kind: str  # strong or weak
    law: str  # its name
    text: str  # what it says
    parameters: Mapping[str, Estimate]  # by name; empty: it was refused
    refusal: str | None  # why it was refused
    add: tuple[int, ...]  # numbers of workers to run, where it was refused
    held_out: HeldOut | None  # the step time at the most workers, in seconds; None: too few numbers of workers


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepRow:
    """The learning rates of one batch size under one rule."""

    label: str  # the other values of the matrix
    lrs: tuple[float, ...]  # peak learning rates, rising
    metrics: tuple[float | None, ...]  # mean of the metric at each
    estimates: tuple[Estimate | None, ...]  # the same with intervals
    each: tuple[tuple[float, ...], ...]  # the metric of each run
    best: float | None  # the peak learning rate with the best metric
    is_inside: bool  # whether the best one has neighbours on both sides


@dataclass(frozen=True, kw_only=True, slots=True)
class CriticalBatchResult:
    """The batch size at which a run needs twice the fewest samples to the target."""

    value: float | None  # samples; None: not identifiable
    low: float | None  # lower end of its interval
    high: float | None  # upper end
    fewest_samples: float | None  # samples to the target of a very small batch
    batches: tuple[int, ...]  # batch sizes that were fitted, each with its best rule and learning rate
    refusal: str | None  # why it is not identifiable
    add: tuple[int, ...]  # batch sizes to run, where it is not
    noise_scale: float | None  # median of the measured noise scales, beside it
    samples: tuple[Estimate | None, ...]  # samples to the target of each fitted batch size, with intervals
    each: tuple[tuple[float, ...], ...]  # the same of each run
    curve: tuple[tuple[float, float], ...]  # batch size and samples to the target on the fitted curve; empty: no value
    held_out: HeldOut | None  # samples to the target of the largest batch; None: too few batch sizes


@dataclass(frozen=True, kw_only=True, slots=True)
class EqualBudget:
    """The metric of all groups after the same time or the same cost."""

    kind: str  # time or cost
    of: str  # label of the group whose runs take that long: the shortest, or the baseline
    amount: float  # seconds; or the currency of the price; or, without a price, worker-seconds
    unit: str  # s, worker-s, or empty for a currency
    metrics: tuple[Estimate | None, ...]  # mean over seeds, by group; None: no evaluation in that time


@dataclass(frozen=True, kw_only=True, slots=True)
class NextCell:
    """A combination to run next."""

    overrides: Mapping[str, Any]  # of the combination
    label: str  # the same as a short text
    seeds: tuple[int, ...]  # train.seed of the runs
    why: str  # what they decide


@dataclass(frozen=True, kw_only=True, slots=True)
class NextCells:
    """What to run next, because the runs that exist do not decide it."""

    cells: tuple[NextCell, ...]  # the most important first
    runs: int  # number of runs
    yaml: str  # lines for the experiment file
    left_out: tuple[str, ...]  # what the runs do not decide either, and what that needs


@dataclass(frozen=True, kw_only=True, slots=True)
class Alternative:
    """Another choice, and what it costs beside the recommended one."""

    label: str  # of the group
    text: str  # one sentence
    times_as_fast: float  # as the recommended one
    time_s: float | None  # median to the target; without a target, of a whole run
    cost: float | None  # of that time; None: no price


@dataclass(frozen=True, kw_only=True, slots=True)
class Recommendation:
    """The group to use."""

    overrides: Mapping[str, Any]  # of the group
    label: str  # of the group
    reason: str  # one sentence
    command: str  # what to type
    file: str | None = None  # a job file with these settings; None: there is none yet
    time_s: float | None = None  # median to the target; without a target, of a whole run
    cost: float | None = None  # of that time; None: no price
    alternatives: tuple[Alternative, ...]  # the nearest others


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What a reader must know before using the numbers, or what to do next."""

    code: str  # stable name
    message: str  # one sentence
    evidence: str  # the numbers
    next: str  # what to do


@dataclass(frozen=True, kw_only=True, slots=True)
class ExperimentReport:
    """Everything that an experiment shows."""

    schema_version: int  # version of these fields: 1
    experiment_id: str  # its name
    # samples or tokens; with tokens, every count and speed is in tokens, whatever the field's name
    unit: str = "samples"
    answer: str  # two sentences
    metric: str | None  # what is compared; None: speed only
    mode: str | None  # max or min
    margin: float | None  # difference that does not matter
    level: float  # confidence of the intervals
    target: float | None  # value of the metric whose cost is compared
    baseline: str | None  # label of the baseline group
    cells: tuple[CellResult, ...]  # in the order of the matrix
    groups: tuple[GroupResult, ...]  # in the order of the matrix
    speed: tuple[SpeedRow, ...]  # by series and number of workers
    laws: tuple[LawResult, ...]  # by series
    sweeps: tuple[SweepRow, ...]  # by batch and rule
    critical_batch: CriticalBatchResult | None  # None without a target and several batch sizes
    equal: tuple[EqualBudget, ...] = ()  # the metric at equal time and at equal cost
    recommendation: Recommendation | None  # None: none is as good as the baseline
    next: NextCells | None = None  # what to run next; None: the runs decide everything
    verdicts: tuple[Finding, ...]  # findings
    order_seed: int | None = None  # seed of the random order in which the cells ran; None: not known
    environment: Mapping[str, Any]  # the machine and the versions that ran it
    search: SearchResult | None = None  # None: the experiment is a matrix

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON has it."""
        return asdict(self)
