"""What a probe of the batch found, and its batch schedule. Pure arithmetic; ``scaler.experiment.probe`` measures it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scaler.core.largest_batch import growth_points
from scaler.report.text.format import number, percent, plural, seconds

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class TriedBatch:
    """The branches of one batch at one place."""

    multiple: int  # of the batch of the run
    global_batch_size: int  # samples a step
    lr: float  # peak learning rate at this batch
    loss: float | None  # mean over the seeds at the end of the branches; None: a branch diverged
    losses: tuple[float | None, ...]  # one for each seed
    run_ids: tuple[str, ...]  # one for each seed


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbedPlace:
    """How far the batch can grow from one point of training."""

    samples_seen: int  # of the checkpoint that the branches begin from
    share: float  # the same as a share of the training
    run_id: str  # the run with the checkpoint
    tolerance: float  # largest loss above the best smaller batch that counts as equal
    holds: int  # largest multiple that holds
    fails: int | None  # smallest tried multiple above it, which does not hold; None: nothing is known beyond it
    global_batch_size: int  # holds, in samples a step
    fails_batch: int | None  # fails, in samples a step
    noise_scale: float | None  # gradient noise scale there, in samples; None: not measured
    tried: tuple[TriedBatch, ...]  # by ascending batch


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeCost:
    """What a probe trained, also in earlier calls that it continues. A run: the whole training at the batch of the run.

    Seconds are those of the runs, from their start to their end.
    """

    run_samples: int  # of a whole run
    run_s: float | None  # of a whole run, from the speed of the branches at its batch; None: not known
    base_samples: int  # trained to reach the places; 0 where the checkpoints existed
    base_s: float
    branches: int  # number of branches
    branch_samples: int  # of all branches
    branch_s: float

    @property
    def samples_share(self) -> float:
        """Samples of the probe over those of a run."""
        return (self.base_samples + self.branch_samples) / self.run_samples

    @property
    def seconds_share(self) -> float | None:
        """Seconds of the probe over those of a run; None: not known."""
        return (self.base_s + self.branch_s) / self.run_s if self.run_s else None


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeReport:
    """How far the batch of a training can grow, over the training."""

    schema_version: int  # version of these fields: 1
    name: str  # of the job
    run_id: str | None  # the run whose checkpoints were probed; None: the probe trained its own
    loss: str  # eval loss or train loss: what is compared
    world_size: int  # workers
    global_batch_size: int  # of the run: multiple 1
    rule: str  # that scales the learning rate
    seeds: int  # repeats of each branch
    steps_samples: int  # samples that each branch trains
    total_samples: int  # of the whole training
    most: int  # largest multiple that could be tried
    resolution: float  # the gap between holds and fails, as a ratio, at which a search ends
    places: tuple[ProbedPlace, ...]  # by ascending samples_seen
    cost: ProbeCost
    hints: tuple[str, ...]  # what the probe did not show, and what to type

    @property
    def constant(self) -> ProbedPlace:
        """The place that allows the smallest batch, which is the largest constant one."""
        return min(self.places, key=lambda place: place.holds)

    @property
    def points(self) -> Sequence[tuple[int, int]]:
        """Where the batch can grow, in samples, and its multiple from there on."""
        return growth_points([(place.samples_seen, place.holds) for place in self.places])

    def to_dict(self) -> dict[str, Any]:
        """Return the report as in ``scaler probe --json``."""
        cost = {"samples_share": self.cost.samples_share, "seconds_share": self.cost.seconds_share}
        return {
            **asdict(self),
            "cost": {**asdict(self.cost), **cost},
            "constant_batch": self.constant.global_batch_size,
            "batch_schedule": [{"samples": samples, "factor": factor} for samples, factor in self.points],
        }


def headline(report: ProbeReport) -> str:
    """Return what was compared."""
    share = percent(report.steps_samples / report.total_samples)
    return (
        f"batch {number(report.global_batch_size)} times k with rule {report.rule}, branches of "
        f"{plural(report.steps_samples, 'sample')} ({share} of the training), {plural(report.seeds, 'seed')}, "
        f"{report.loss}"
    )


def answer(report: ProbeReport) -> str:
    """Return the largest constant batch, and how it changes over the training."""
    least = report.constant
    if least.fails is None:
        first = (
            f"A constant batch of {number(least.global_batch_size)} ({least.holds} x "
            f"{number(report.global_batch_size)}) holds at every place, and no larger one was tried everywhere."
        )
    else:
        first = (
            f"The largest constant batch is {number(least.global_batch_size)} to {number(least.fails_batch)} "
            f"({least.holds} to {least.fails} x {number(report.global_batch_size)}): "
            f"{number(least.global_batch_size)} holds at every place, {number(least.fails_batch)} does not at "
            f"{percent(least.share)} of the training."
        )
    points = report.points
    if not points:
        return f"{first} The batch should not grow from {number(report.global_batch_size)}."
    return first


def largest_text(place: ProbedPlace) -> str:
    """Return the largest batch at a place."""
    at_least = "at least " if place.fails is None else ""
    return f"{at_least}{number(place.global_batch_size)}"


def cost_text(cost: ProbeCost) -> str:
    """Return what a probe cost, as a share of a run."""
    base = f"{plural(cost.base_samples, 'sample')} to reach the places, and " if cost.base_samples else ""
    share = f"{number(cost.samples_share, 3)} times the samples of a run"
    timed = f", {number(cost.seconds_share, 3)} times its time" if cost.seconds_share is not None else ""
    return (
        f"The probe trained {base}{plural(cost.branch_samples, 'sample')} in {cost.branches} branches, in "
        f"{seconds(cost.base_s + cost.branch_s)}: {share}{timed}."
    )


def paste(report: ProbeReport) -> str | None:
    """Return the batch schedule as lines for the job file; None: the batch should not grow."""
    points = report.points
    if not points:
        return None
    lines = [
        "scale:",
        f"  global_batch_size: {report.global_batch_size}",
        "  batch_schedule:",
        "    name: points",
        "    points:",
        *(
            f"      - {{at: {{samples: {samples}}}, factor: {factor}}}  # batch {factor * report.global_batch_size}"
            for samples, factor in points
        ),
    ]
    return "\n".join(lines)


CAUTION = (
    "Between two places the schedule has the smaller of their batches; before the first it does not grow. A branch "
    "shows only what happens within its own samples: train once with the schedule and compare, before many runs rely "
    "on it."
)
